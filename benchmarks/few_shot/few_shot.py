"""Trains few-shot methods on Omniglot, 5- and 20-way, 1- and 5-shot, and writes the tables.

    python benchmarks/few_shot/few_shot.py --folder DATA --rows maml --settings 5x1
    python benchmarks/few_shot/few_shot.py --folder DATA --rows r2d2 --outer_steps 6000
    python benchmarks/few_shot/few_shot.py --folder DATA --rows maml --settings 5x1 --seed 1
    python benchmarks/few_shot/few_shot.py --folder DATA  # all of ROWS, for days
    python benchmarks/few_shot/few_shot.py --folder DATA --protocol paper  # for a GPU, all archives
    python benchmarks/few_shot/few_shot.py  # only write the tables again

Each cell is one `python -m meta_train few-shot`, validated every 500 outer steps. A cell replaces
the one of the same method, setting and seed in docs/measured/few_shot.json, from which the tables
in docs/few_shot.md are written. Cells whose validation still rose by more than a point in the last
third of training are left out, unless they trained for six hours. A cell that is done in `--runs`
is not repeated; one that was interrupted is resumed. Seeds have folders of their own.

`--protocol short` is for a CPU: smaller meta-batches, five query images per class, Adam at twice
the learning rate, and as many outer steps as fit into the minutes, so that the learning rate decays
fully. `--outer_steps` gives their number instead, for a machine that others use, too: there the
time of the first steps says little.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from few_shot_jobs import run_job, validation_curve, write_tables
from few_shot_table import LARGEST_RISE, LONG_MINUTES, order, rise, tables

from learned_opt.files import expand, write_atomically
from meta_train.few_shot.methods.registry import METHODS
from meta_train.few_shot.settings import FewShotConfig
from meta_train.few_shot.training import make_trainer
from meta_train.runtime.device import choose_device

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ROOT / "docs" / "measured" / "few_shot.json"
DOCUMENT = ROOT / "docs" / "few_shot.md"
SETTINGS = ("5x1", "5x5", "20x1", "20x5")
ROWS = (
    *("maml", "fomaml", "prototypical", "anil", "reptile", "reptile-sgd", "meta-sgd", "imaml"),
    *("r2d2", "meta-lstm", "learned-gated-lstm", "maml-further"),
)
"""Methods that the document compares; the others keep their commands and tests."""
META_BATCH = {5: 8, 20: 4}
LSTM_META_BATCH = {5: 4, 20: 1}
MINUTES = {"short": 60.0, "paper": 600.0}
AS_LONG_AS = {"maml-further": "learned-gated-lstm"}
"""A control takes as many outer steps as its partner, so that only the rule differs."""
LONGEST = 1.5
"""Multiple of the planned minutes at which training stops, if steps are slower than expected."""
NO_LIMIT = 1e6
"""Minutes of a training whose number of outer steps was given."""
VALIDATION_EPISODES = 200
VALIDATE_EVERY = 500


def learns_a_rule(method):
    """Whether a method learns an LSTM rule, or is the control of one."""
    trained = method.outer.get("meta_optimizer") == "adam"
    return trained and ("lstm" in method.rule or method.begins_with is not None)


def short_protocol(name, ways, shots):
    """Arguments of the job in the short protocol."""
    method = METHODS[name].on_omniglot(ways, shots)
    train = {"checkpoint_every": 250, "validate_every": VALIDATE_EVERY}
    if method.outer.get("meta_optimizer") == "adam":
        most = LSTM_META_BATCH if learns_a_rule(method) else META_BATCH
        train |= {"lr": 2 * method.outer["lr"], "runs": min(method.meta_batch, most[ways])}
    return {"queries": 5, "validate": VALIDATION_EPISODES, "train": train}


def outer_steps(name, settings, minutes):
    """Number of outer steps that fit into the minutes, from the time of the first few."""
    config = FewShotConfig(**{**settings, "row": name, "outer_steps": 1, "begin": None})
    device = choose_device(config.device)
    torch.set_num_threads(config.threads)
    seconds = []
    for steps in (1, 4):  # The first one reads the data.
        trainer = make_trainer(name, replace(config, outer_steps=steps), device, None)
        trainer.train(progress=False)
        seconds.append(trainer.seconds / steps)
    return max(1, round(60 * minutes / seconds[-1]))


def run_cell(name, setting, args):
    """Train and test a method, after the one that it begins with."""
    ways, shots = map(int, setting.split("x"))
    folder = args.runs / (f"{setting}-seed{args.seed}" if args.seed else setting)
    settings = {
        "data": "omniglot",
        "ways": ways,
        "shots": shots,
        "folder": args.folder,
        "device": args.device,
        "threads": args.threads,
        "seed": args.seed,
    }
    method = METHODS[name].on_omniglot(ways, shots)
    if method.begins_with is not None:
        run_cell(method.begins_with, setting, args)
        settings["begin"] = folder / method.begins_with / "initialization.safetensors"
    partner = AS_LONG_AS.get(name)
    if partner is not None and args.protocol == "short":
        run_cell(partner, setting, args)
        ((_, facts),) = json.loads((folder / partner / "table.json").read_text())["rows"].items()
        settings["outer_steps"] = facts["outer_steps"]
        settings["max_minutes"] = longest(args)
    run_job(folder / name, lambda: given(name, settings, args))


def given(name, settings, args):
    """All arguments of a cell's job."""
    ways, shots = settings["ways"], settings["shots"]
    asked = {
        **settings,
        "row": name,
        "episodes": args.episodes,
        "test_queries": args.test_queries,
        "steps": [METHODS[name].on_omniglot(ways, shots).test_steps],
    }
    if args.protocol == "paper":
        tasks = {"part": args.part, "split_by": args.split_by}
        return {**asked, "effort": 6.0, "max_minutes": args.minutes, "task_settings": tasks}
    trained = METHODS[name].omniglot.uses or name
    own = short_protocol(trained, ways, shots)
    asked = {**asked, **own}
    if "outer_steps" in asked:
        return asked
    steps = args.outer_steps or outer_steps(trained, {**settings, **own}, args.minutes)
    return {**asked, "outer_steps": steps, "max_minutes": longest(args)}


def longest(args):
    """Minutes after which training stops, if it does not reach its number of outer steps."""
    return NO_LIMIT if args.outer_steps else LONGEST * args.minutes


def cell_of(table):
    """The facts of a cell that the document shows."""
    read = json.loads(table.read_text())
    config = read["config"]
    (name, facts), *_ = read["rows"].items()
    begins = None
    if facts["begins_with"] is not None:
        base = table.parent.parent / METHODS[name].omniglot.begins_with / "table.json"
        (row, base_facts), *_ = json.loads(base.read_text())["rows"].items()
        begins = {"row": row, "minutes": base_facts["minutes"]}
    result, verified = facts["results"][-1], facts["verification"]
    uses = METHODS[name].omniglot.uses  # Its training stands in a folder of its own.
    trained = table.parent if uses is None else table.parent / uses
    return {
        "row": name,
        "ways": config["ways"],
        "shots": config["shots"],
        "accuracy": result["mean"],
        "interval": result["interval"],
        "episodes": facts["episodes"],
        "inner_steps": result["steps"],
        "test_queries": facts["episodes_of"]["queries"],
        "equal_error": verified and [verified["equal_error_rate"], verified["interval"]],
        "validation": validation_curve(trained),
        "adapted_parameters": facts["adapted_parameters"],
        "outer_steps": facts["outer_steps"],
        "meta_batch": facts["train"]["runs"],
        "minutes": facts["minutes"],
        "begins_with": begins,
        "transductive": facts["transductive"],
        # Only the short protocol sets the number of outer steps.
        "protocol": "paper" if config["outer_steps"] is None else "short",
        "device": facts["device"],
        "threads": config["threads"],
        "seed": config["seed"],
    }


def reason_to_leave_out(cell):
    """Why a cell says too little about its method; None if it is shown."""
    if rise(cell) is None:
        return "was not validated as it trained"
    if cell["minutes"] < LONG_MINUTES and rise(cell) > LARGEST_RISE:
        return f"still rose by {rise(cell):.1f} points on validation in the last third of training"
    return None


def collect(args):
    """Put all finished cells into the JSON, and write the tables of the document."""
    kept = json.loads(MEASURED.read_text())["cells"] if MEASURED.exists() else []
    cells = {order(cell): cell for cell in kept}
    for table in args.runs.glob("*x*/*/table.json"):
        cell = cell_of(table)
        if reason := reason_to_leave_out(cell):
            print(f"{table.parent} {reason}: left out")
            continue
        cells[order(cell)] = cell
    ordered = [cells[key] for key in sorted(cells)]
    text = json.dumps({"cells": ordered}, indent=1) + "\n"
    write_atomically(MEASURED, text.encode())
    write_tables(DOCUMENT, tables(ordered))
    print(f"\n{len(ordered)} cells in {DOCUMENT}")


def parse(given=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=expand, help="folder of the Omniglot archives")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--protocol", choices=("short", "paper"), default="short")
    parser.add_argument("--part", default="all", help="part of Omniglot in the paper protocol")
    parser.add_argument(
        "--split_by", default="character", help="split of Omniglot in the paper protocol"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        help="training time per cell; by default 60, or 600 for --protocol paper; a slow machine "
        "takes up to half as long again",
    )
    parser.add_argument(
        "--outer_steps", type=int, help="outer steps per cell, in place of minutes (short protocol)"
    )
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument(
        "--test_queries", type=int, default=15, help="query images per class in testing"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=expand, default=ROOT / "runs" / "few_shot_table")
    args = parser.parse_args(given)
    args.minutes = MINUTES[args.protocol] if args.minutes is None else args.minutes
    if args.outer_steps is not None:
        if args.protocol == "paper":
            parser.error("outer_steps is for --protocol short: use --minutes")
        if args.outer_steps < 1:
            parser.error(f"outer_steps must be at least 1, got {args.outer_steps}")
    args.rows, args.settings = args.rows.split(","), args.settings.split(",")
    for kind, asked, known in (("row", args.rows, METHODS), ("setting", args.settings, SETTINGS)):
        for name in asked:
            if name not in known:
                parser.error(f"unknown {kind} {name!r}: choose from {', '.join(known)}")
    return args


if __name__ == "__main__":
    args = parse()
    if args.folder is not None:
        for setting in args.settings:
            for name in args.rows:
                run_cell(name, setting, args)
    collect(args)
