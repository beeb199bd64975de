"""Measures all methods with inner steps on sine curves, from 10 and from 5 points.

    python benchmarks/few_shot/sine.py  # all methods, trained as long as in docs
    python benchmarks/few_shot/sine.py --effort 1  # all methods, trained briefly
    python benchmarks/few_shot/sine.py --rows maml,anil --shots 10
    python benchmarks/few_shot/sine.py --write  # only collect finished runs

Each is one `python -m meta_train few-shot --data sine`. Learned rules begin with the `maml` of the
same number of points. A result replaces the one of the same method in docs/measured/sine.json, from
which the tables in docs/sine.md are written; pictures show the finished runs. A finished run is not
repeated; an interrupted one is resumed.
"""

import argparse
import json
from pathlib import Path

import torch
from few_shot_jobs import run_job, write_tables
from sine_table import FIXED, LEARNED, tables

from learned_opt.adaptation import load_initialization
from learned_opt.files import write_atomically
from meta_train.few_shot.episodes import method_settings
from meta_train.few_shot.methods.registry import METHODS, list_methods
from meta_train.few_shot.plots import draw_sine
from meta_train.few_shot.scores import Z
from meta_train.few_shot.settings import ALL, FewShotConfig
from meta_train.few_shot.table import RecordedEvaluation
from meta_train.few_shot.trained import TrainedMethod, evaluate_trained

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ROOT / "docs" / "measured" / "sine.json"
DOCUMENT = ROOT / "docs" / "sine.md"
IMAGES = ROOT / "docs" / "images"
MAIN = (
    *("maml", "fomaml", "anil", "meta-sgd", "reptile-sgd"),
    *("layer-step-rates", "maml-further", "learned-gated-lstm"),
)
PAPER = {"effort": 23.4, "lr": 0.001}
"""The 70,000 outer steps of Finn et al., at their outer learning rate."""
LONGER = {
    **{("maml", shots): PAPER for shots in (10, 5)},
    **{(name, 10): PAPER for name in ("fomaml", "anil")},
    ("meta-sgd", 10): {"effort": 7.0, "lr": 0.002},
    **{
        (name, n): {"effort": 2.0}
        for name in ("maml-further", "learned-gated-lstm")
        for n in (10, 5)
    },
}
"""Methods that train longer than by default, by name and number of points."""
FRESH = 1
"""Seed of curves that no choice was made by; the tables have seed 0."""


def runs_of(shots, args, seed=0):
    """Folder of the runs of one seed."""
    return args.runs / (f"{shots}-shot" + (f"-seed-{seed}" if seed else ""))


def train_and_test(name, shots, args, seed=0):
    """Train and test a method, after the one that it begins with."""
    folder = runs_of(shots, args, seed)
    base = METHODS[name].on_sine().begins_with
    settings = {
        "data": "sine",
        "row": name,
        "shots": shots,
        "max_minutes": args.max_minutes,
        "device": args.device,
        "seed": seed,
        "train": {"checkpoint_every": 500},
    }
    own = LONGER.get((name, shots), {}) if args.effort is None else {"effort": args.effort}
    settings["effort"] = own.get("effort", 1.0)
    if "lr" in own:
        settings["train"]["lr"] = own["lr"]
    if base is not None:
        train_and_test(base, shots, args, seed)
        settings["begin"] = folder / base / "initialization.safetensors"
    run_job(folder / name, lambda: settings)


def load(shots, args, seed=0):
    """Finished methods with their evaluations, by name."""
    config = FewShotConfig(row=ALL, shots=shots, progress=False)
    found = {}
    for name in list_methods(sine=True):
        path = runs_of(shots, args, seed) / name / "initialization.safetensors"
        if (path.parent / "table.json").exists():
            learned = load_initialization(path)
            method = method_settings(name, config)
            trained = TrainedMethod(name, method, learned.rule, dict(learned.parameters), {})
            ((_, facts),) = json.loads((path.parent / "table.json").read_text())["rows"].items()
            found[name] = trained, RecordedEvaluation(facts)
    return found


def pictures(shots, found):
    """Draw all methods that were found, and the main ones."""
    config = FewShotConfig(row=ALL, shots=shots, progress=False)
    if found:
        draw_sine(IMAGES / f"sine-{shots}.png", found, config)
    main = {name: found[name] for name in MAIN if name in found}
    if main and shots == 10:
        draw_sine(IMAGES / "sine-10-main.png", main, config)


def compare(found, shots):
    """Compare the learned rule with fixed steps on fresh curves; empty if a run is missing."""
    if any(name not in found for name in (LEARNED, *FIXED)):
        return {}
    values = evaluate_fresh(found, shots)
    return {name: differences(values[name], values[LEARNED]) for name in FIXED}


def evaluate_fresh(found, shots):
    """Errors on fresh curves, `[steps, curves]`, of the learned rule and of fixed steps."""
    config = FewShotConfig(row=ALL, shots=shots, seed=FRESH, progress=False)
    return {
        name: evaluate_trained(found[name][0], config, torch.device("cpu")).values.double()
        for name in (LEARNED, *FIXED)
    }


def differences(other, own):
    """By how much `own` is below `other` (both `[steps, curves]`), after each step from 1."""
    rows = []
    for step in range(1, len(own)):
        gain = other[step] - own[step]
        rows.append(
            {
                "steps": step,
                "difference": float(gain.mean()),
                "interval": Z * float(gain.std()) / len(gain) ** 0.5,
                "lower": float((gain > 0).double().mean()),
                "median": float(own[step].median()),
                "other_median": float(other[step].median()),
            }
        )
    return rows


def merge(measured, shots, args):
    """Replace the results of finished runs."""
    known = measured.setdefault(str(shots), {})
    for table in args.runs.glob(f"{shots}-shot/*/table.json"):
        ((name, facts),) = json.loads(table.read_text())["rows"].items()
        known[name] = {
            "outer_steps": facts["outer_steps"],
            "lr": facts["train"]["lr"],
            "minutes": facts["minutes"],
            "begins_with": METHODS[name].on_sine().begins_with,
            "train_steps": facts["train"]["horizons"],
            "episodes": facts["episodes"],
            "results": facts["results"],
        }


def write(measured):
    """Write the figures, and the tables of the document."""
    write_atomically(MEASURED, (json.dumps(measured, indent=1) + "\n").encode())
    write_tables(DOCUMENT, tables(measured))


def make_parser(description, shots):
    """Arguments of programs that train on sine curves and collect results."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--shots", default=shots)
    parser.add_argument(
        "--effort",
        type=float,
        help="multiplies the outer steps of all methods; by default that of the documented runs, "
        "23.4 for maml, fomaml and anil, 1 for most",
    )
    parser.add_argument("--max_minutes", type=float, default=60.0, help="time limit per method")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--write", action="store_true", help="only collect finished runs")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "sine")
    return parser


if __name__ == "__main__":
    parser = make_parser(__doc__.splitlines()[0], "10,5")
    parser.add_argument("--rows", default=ALL)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = list_methods(sine=True) if args.rows == ALL else args.rows.split(",")
    for shots in args.shots.split(","):
        for name in [] if args.write else rows:
            train_and_test(name, int(shots), args)
    measured = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    paired, seeds = measured.pop("paired", {}), measured.pop("seeds", {})
    for shots in map(int, args.shots.split(",")):
        merge(measured, shots, args)
        learned = load(shots, args)
        pictures(shots, learned)
        if compared := compare(learned, shots):
            paired[str(shots)] = compared
    write({**measured, "paired": paired, "seeds": seeds})
