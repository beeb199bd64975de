"""Draws the pages of docs/explain.md: what the bundled optimizers do with gradients.

    python benchmarks/quality/explain_gallery.py --out docs/images

About half a minute of a core. Numbers change where rules or weights do.
"""

import argparse
from pathlib import Path

from PIL import Image

from learned_opt import explain
from learned_opt.explanation.drawing.page import ROWS, draw_page
from learned_opt.explanation.explanation import DPI

COLOURS = 128
"""Of a palette, which makes a picture a third as large."""

NAMES = ("andrychowicz-lstm", "digits-lstm", "step-size-lstm", "orthogonal-momentum")
ROW_OF = "andrychowicz-lstm"
"""The page whose first row is drawn apart, for README."""


def write(figure, path):
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    with Image.open(path) as picture:
        palette = picture.convert("RGB").quantize(COLOURS)
    palette.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1024} KiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder of pictures")
    folder = parser.parse_args().out
    for name in NAMES:
        explanation = explain(name)
        write(explanation.figure(), folder / f"explain-{name}.png")
        if name == ROW_OF:
            write(draw_page(explanation.findings, ROWS[:1]), folder / f"explain-{name}-row.png")
        for panel, sentence in explanation.sentences.items():
            print(f"  {panel}: {sentence}")


if __name__ == "__main__":
    main()
