"""The sine curves: every gradient-based row from 10 and from 5 points, judged after 0 to 10 steps.

    python benchmarks/sine.py                      # all rows, about an hour on one core
    python benchmarks/sine.py --effort 23.4        # as long as the papers' 70,000 outer steps
    python benchmarks/sine.py --rows maml,learned-gated-lstm --effort 7

Each is one `python -m meta_train few-shot --data sine`. Results land in docs/measured/sine.json, in
place of what was there of the same rows; docs/sine.md and the pictures are made from the same runs.
A run that was cut off goes on.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from learned_opt.files import write_atomically
from meta_train.cli import main as command
from meta_train.few_shot.rows import list_rows

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "docs" / "measured" / "sine.json"
DOCUMENT = ROOT / "docs" / "sine.md"
IMAGES = ROOT / "docs" / "images"
SHOWN = (0, 1, 2, 3, 5, 7, 10)
HEADER = """# Sine curves from a few points, measured

Written by `python benchmarks/sine.py` from `docs/measured/sine.json`. The toy of Finn et al. 2017:
amplitude 0.1 to 5, phase 0 to pi, x in -5 to 5, a network of 40-40 ReLU units. Mean squared error
on 100 points of each of 1000 curves (the same for all rows) with its 95% interval, after steps of
inner training. Inner rate 0.01 where it is not learned; one seed. Rows with an LSTM begin with
MAML's initialisation; their minutes come on top of MAML's.
"""


def run(shots, args):
    """Train and judge the rows, unless that is done; the run folder."""
    out = args.runs / f"{shots}-shot"
    given = ["--row", args.rows, "--data", "sine", "--shots", str(shots), "--out", str(out)]
    given += ["--effort", str(args.effort), "--max_minutes", str(args.max_minutes)]
    given += ["--progress", json.dumps(sys.stderr.isatty()), "--device", args.device]
    given += ["--train", '{"validate_every": 1000, "checkpoint_every": 500}']
    if any(out.glob("**/checkpoints")):
        given += ["--resume", "true"]
    if not (out / "sine.png").exists() and command(["few-shot", *given]):
        sys.exit(1)
    return out


def merge(measured, shots, out):
    """Put a run's rows in place of what was there."""
    known = measured.setdefault(str(shots), {})
    for name, facts in json.loads((out / "table.json").read_text())["rows"].items():
        known[name] = {
            "outer_steps": facts["outer_steps"],
            "minutes": facts["minutes"],
            "begins_with": facts["begins_with"],
            "train_steps": facts["inner_steps"]["training"],
            "episodes": facts["episodes"],
            "results": facts["results"],
        }


def document(measured):
    """All tables, in Markdown."""
    parts = [HEADER]
    for shots, rows in measured.items():
        heads = " | ".join(f"{step} step{'s' * (step != 1)}" for step in SHOWN)
        parts += [
            f"## From {shots} points\n",
            f"| MSE after | {heads} | outer steps | minutes |",
            "|---" * (len(SHOWN) + 3) + "|",
        ]
        for name in list_rows(sine=True):
            if name in rows:
                found = {one["steps"]: one for one in rows[name]["results"]}
                cells = " | ".join(cell(found[step]) for step in SHOWN)
                facts = f"{rows[name]['outer_steps']} | {rows[name]['minutes']:.1f}"
                parts.append(f"| {name} | {cells} | {facts} |")
        parts += ["", f"![curves and errors](images/sine-{shots}.png)", ""]
    return "\n".join(parts)


def cell(result):
    """A mean and its interval, or that inner training diverged."""
    mean, interval = result["mean"], result["interval"]
    if mean is None or mean > 100:
        return "diverged"
    return f"{mean:.3f} ± {interval:.3f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="all")
    parser.add_argument("--shots", default="10,5")
    parser.add_argument("--effort", type=float, default=1.0)
    parser.add_argument("--max_minutes", type=float, default=30.0, help="of training, a row")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "sine")
    args = parser.parse_args()
    measured = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    for shots in map(int, args.shots.split(",")):
        out = run(shots, args)
        merge(measured, shots, out)
        write_atomically(MEASURED, (json.dumps(measured, indent=1) + "\n").encode())
        if args.rows == "all":
            shutil.copy(out / "sine.png", IMAGES / f"sine-{shots}.png")
        write_atomically(DOCUMENT, document(measured).encode())
