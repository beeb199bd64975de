"""Draws the pages of docs/explain.md: what the bundled optimizers do with gradients.

    python benchmarks/quality/explain_gallery.py --out docs/images

About half a minute of a core. Numbers change where rules or weights do.
"""

import argparse
from pathlib import Path

from PIL import Image

from learned_opt import explain

NAMES = ("andrychowicz-lstm", "digits-lstm", "step-size-lstm", "orthogonal-momentum")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder of pictures")
    folder = parser.parse_args().out
    for name in NAMES:
        explanation = explain(name)
        path = folder / f"explain-{name}.png"
        explanation.save(path)
        with Image.open(path) as picture:  # a palette: a third of the size
            palette = picture.convert("RGB").quantize(128)
        palette.save(path, optimize=True)
        print(f"{path}: {path.stat().st_size // 1024} KiB")
        for panel, sentence in explanation.sentences.items():
            print(f"  {panel}: {sentence}")


if __name__ == "__main__":
    main()
