"""Trains networks that read a training set, and writes their table: accuracy by instance.

    python benchmarks/few_shot/readers.py --folder DATA --rows lstm-reader  # minutes
    python benchmarks/few_shot/readers.py --folder DATA  # `mann`, too: half an hour on an idle core
    python benchmarks/few_shot/readers.py  # only write the table again

Both read as many sequences of five classes as in their paper, 100,000, at a learning rate of .003,
and keep the weights that are best on the validation alphabets. They are tested on sequences of the
test alphabets. Results are in docs/measured/few_shot_readers.json, and the table in
docs/few_shot.md. A training that is done in `--runs` is not repeated; one that was interrupted is
resumed.
"""

import argparse
import json
from pathlib import Path

import torch
from few_shot_jobs import run_job, validation_curve, write_tables
from few_shot_table import rose

from learned_opt.files import expand, write_atomically
from meta_train.evaluation.tables import markdown_table
from meta_train.few_shot.methods.registry import METHODS

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ROOT / "docs" / "measured" / "few_shot_readers.json"
DOCUMENT = ROOT / "docs" / "few_shot.md"
ROWS = ("lstm-reader", "mann")
SHOWN = (1, 2, 5, 10)
"""Instances in the table; the file holds all."""
TRAIN = {"lr": 0.003, "validate_every": 500, "checkpoint_every": 250}


def job(name, args):
    """All arguments of a reader's training."""
    return {
        "row": name,
        "data": "omniglot",
        "folder": args.folder,
        "ways": 5,
        "outer_steps": args.outer_steps,
        "max_minutes": 1e6,
        "validate": 200,
        "episodes": args.episodes,
        "train": TRAIN,
        "device": "cpu",
        "threads": 1,
        "seed": args.seed,
    }


def facts_of(folder):
    """What the document shows of a training in a run folder."""
    read = json.loads((folder / "table.json").read_text())
    ((name, facts),) = read["rows"].items()
    return {
        "row": name,
        "results": facts["results"],
        "sequences": facts["episodes"],
        "outer_steps": facts["outer_steps"],
        "lr": facts["train"]["lr"],
        "minutes": facts["minutes"],
        "validation": validation_curve(folder),
        "seed": read["config"]["seed"],
    }


def readers_table(results):
    """The table by the name of its marker: a row per training, then its paper's figures.

    Args:
        results: as in docs/measured/few_shot_readers.json.
    """
    rows = []
    for one in results:
        found = {place["instance"]: place for place in one["results"]}
        cells = [f"{100 * found[k]['mean']:.1f} ± {100 * found[k]['interval']:.1f}" for k in SHOWN]
        rows.append(
            (one["row"], *cells, f"{one['outer_steps']:,}", f"{one['minutes']:.1f}", rose(one))
        )
        figures = METHODS[one["row"]].published_by_instance
        rows.append(("its paper", *(f"{figures[k]:.1f}" for k in SHOWN), "", "", ""))
    heads = ("accuracy at image, %", "1st", "2nd", "5th", "10th")
    return {"readers": markdown_table((*heads, "outer steps", "minutes", "rose, points"), rows)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=expand, help="folder of the Omniglot archives")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--outer_steps", type=int, default=6250, help="of 16 sequences each")
    parser.add_argument("--episodes", type=int, default=600, help="test sequences")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=expand, default=ROOT / "runs" / "few_shot_readers")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {one["row"]: one for one in json.loads(MEASURED.read_text())}
    if args.folder is not None:
        for name in args.rows.split(","):
            if name not in ROWS:
                parser.error(f"unknown row {name!r}: choose from {', '.join(ROWS)}")
            run_job(args.runs / name, lambda name=name: job(name, args))
            results[name] = facts_of(args.runs / name)
        ordered = [results[name] for name in ROWS if name in results]
        write_atomically(MEASURED, (json.dumps(ordered, indent=1) + "\n").encode())
    write_tables(DOCUMENT, readers_table(json.loads(MEASURED.read_text())))
