"""The sine curves: every gradient-based row from 10 and from 5 points, judged after 0 to 10 steps.

    python benchmarks/sine.py                      # all rows, for a short while
    python benchmarks/sine.py --effort 23.4 --lr 0.001 --rule_effort 2  # the 70,000 of the paper
    python benchmarks/sine.py --rows maml,anil --shots 10
    python benchmarks/sine.py --write              # only collect what is in the folder of runs

Each is one `python -m meta_train few-shot --data sine`; rules that are learned begin with the
`maml` of the same number of points. Results land in docs/measured/sine.json, in place of what was
there of the same row; docs/sine.md and the pictures are made of what is in the folder of runs. A
row that is done there is not done again, one that was cut off goes on.
"""

import argparse
import json
from pathlib import Path

import torch
from few_shot_jobs import run_job

from learned_opt.files import write_atomically
from learned_opt.initializers import load_initialization
from meta_train.few_shot.config import ALL, FewShotConfig
from meta_train.few_shot.picture import draw_sine
from meta_train.few_shot.rows import ROWS, list_rows
from meta_train.few_shot.table import Recorded
from meta_train.few_shot.train import Trained, row_of

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "docs" / "measured" / "sine.json"
DOCUMENT = ROOT / "docs" / "sine.md"
IMAGES = ROOT / "docs" / "images"
MAIN = (
    *("maml", "fomaml", "anil", "meta-sgd", "reptile-sgd"),
    *("maml-further", "learned-gated-lstm", "learned-step-size-lstm"),
)
SHOWN = (0, 1, 2, 3, 5, 7, 10)
HEADER = """# Sine curves from a few points, measured

Written by `python benchmarks/sine.py` from `docs/measured/sine.json`. The toy of Finn et al. 2017:
amplitude 0.1 to 5, phase 0 to pi, x in -5 to 5, a network of 40-40 ReLU units. Mean squared error
on 100 points of each of 1000 curves (the same for all rows) with its 95% interval, after steps of
inner training. Inner rate 0.01 where it is not learned (0.02 for Reptile by SGD, 0.005 for iMAML);
one seed. "Rate" is the outer one; after a plus are the minutes of the MAML that a row begins with.
The paper's recipe, and what is compared with it, are of `--effort 23.4 --lr 0.001 --rule_effort 2`
(maml, maml-further, learned-gated-lstm); from 10 points fomaml, anil and meta-sgd are of
`--effort 7 --lr 0.002`; all others were run without these arguments, and are far from converged.
"""


def run_row(name, shots, args):
    """Train and judge a row, and first what it begins with."""
    folder = args.runs / f"{shots}-shot"
    base = ROWS[name].on_sine().begins_with
    settings = {
        "data": "sine",
        "row": name,
        "shots": shots,
        "effort": args.effort if base is None else args.rule_effort,
        "max_minutes": args.max_minutes,
        "device": args.device,
        "train": {"checkpoint_every": 500},
    }
    if base is None and args.lr is not None and "reptile" not in name:
        settings["train"]["lr"] = args.lr
    if base is not None:
        run_row(base, shots, args)
        settings["begin"] = folder / base / "initialization.safetensors"
    run_job(folder / name, lambda: settings)


def pictures(shots, args):
    """Of all rows that are in the folder of runs, and, for README, of the main ones."""
    config = FewShotConfig(row=ALL, shots=shots, progress=False)
    found = {}
    for name in list_rows(sine=True):
        path = args.runs / f"{shots}-shot" / name / "initialization.safetensors"
        if (path.parent / "table.json").exists():
            learned = load_initialization(path)
            row = row_of(name, config)
            trained = Trained(name, row, learned.rule, dict(learned.parameters), {})
            ((_, facts),) = json.loads((path.parent / "table.json").read_text())["rows"].items()
            found[name] = trained, Recorded(facts)
    if found:
        draw_sine(IMAGES / f"sine-{shots}.png", found, config)
    main = {name: found[name] for name in MAIN if name in found}
    if main and shots == 10:
        draw_sine(IMAGES / "sine-10-main.png", main, config)


def merge(measured, shots, args):
    """Put the rows of the folder in place of what was there."""
    known = measured.setdefault(str(shots), {})
    for table in args.runs.glob(f"{shots}-shot/*/table.json"):
        ((name, facts),) = json.loads(table.read_text())["rows"].items()
        known[name] = {
            "outer_steps": facts["outer_steps"],
            "lr": facts["train"]["lr"],
            "minutes": facts["minutes"],
            "begins_with": ROWS[name].on_sine().begins_with,
            "train_steps": facts["inner_steps"]["training"],
            "episodes": facts["episodes"],
            "results": facts["results"],
        }


def document(measured):
    """All tables, in Markdown."""
    parts = [HEADER]
    for shots, rows in measured.items():
        if not rows:
            continue
        heads = " | ".join(f"{step} step{'s' * (step != 1)}" for step in SHOWN)
        parts += [
            f"## From {shots} points\n",
            f"| MSE after | {heads} | outer steps | rate | minutes |",
            "|---" * (len(SHOWN) + 4) + "|",
        ]
        for name in list_rows(sine=True):
            if name in rows:
                found = {one["steps"]: one for one in rows[name]["results"]}
                cells = " | ".join(cell(found[step]) for step in SHOWN)
                own = rows[name]
                facts = f"{own['outer_steps']} | {own['lr']:g} | {minutes(name, rows)}"
                parts.append(f"| {name} | {cells} | {facts} |")
        parts += ["", f"![curves and errors](images/sine-{shots}.png)", ""]
    return "\n".join(parts)


def minutes(name, rows):
    """Of training, and of what it begins with."""
    base = rows[name]["begins_with"]
    own = f"{rows[name]['minutes']:.1f}"
    return own if base is None else f"{own} + {rows[base]['minutes']:.1f}"


def cell(result):
    """A mean and its interval, or that inner training diverged."""
    mean, interval = result["mean"], result["interval"]
    if mean is None or mean > 100:
        return "diverged"
    return f"{mean:.3f} ± {interval:.3f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default=ALL)
    parser.add_argument("--shots", default="10,5")
    parser.add_argument("--effort", type=float, default=1.0)
    parser.add_argument("--rule_effort", type=float, default=1.0, help="of rules that are learned")
    parser.add_argument("--lr", type=float, help="of initialisations that are learned alone")
    parser.add_argument("--max_minutes", type=float, default=60.0, help="of training, a row")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--write", action="store_true", help="train nothing")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "sine")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = list_rows(sine=True) if args.rows == ALL else args.rows.split(",")
    for shots in args.shots.split(","):
        for name in [] if args.write else rows:
            run_row(name, int(shots), args)
    measured = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    for shots in map(int, args.shots.split(",")):
        merge(measured, shots, args)
        pictures(shots, args)
    write_atomically(MEASURED, (json.dumps(measured, indent=1) + "\n").encode())
    write_atomically(DOCUMENT, document(measured).encode())
