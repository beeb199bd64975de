"""How good are optimizers with their default settings, beside tuned AdamW, on held-out tasks?

    python benchmarks/quality/held_out.py --out table.json  # a rule that is in it is not run again
    python benchmarks/quality/held_out.py --out table.json --picture curves.png
    python benchmarks/quality/held_out.py step-size-lstm --quick  # one minute

Prints a Markdown table of final losses on six tasks, and on one of them with four times the steps.
The second command draws the curves, at the learning rates that the first one found best.

No rule was meta-trained or selected on these tasks: networks, data or both are others. All
optimizers train the same problems on the same batches. AdamW follows a cosine with a warm-up over
3% of the steps and has a weight decay of 0.01. It trains once at 1e-3 and once at the best of eight
learning rates, chosen for the final loss on these same problems. `orthogonal-momentum` is not told
the number of steps, and is evaluated at its running average; the others are told.
"""

import argparse
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from learned_opt.files import write_atomically
from learned_opt.weights import find_rule
from meta_train.evaluation.baselines import Baseline, learning_rate_grid
from meta_train.evaluation.comparison.compare import compare, total_steps
from meta_train.evaluation.comparison.report import as_json, draw_curves
from meta_train.evaluation.comparison.trainings import ComparisonTask
from meta_train.evaluation.tables import markdown_table
from meta_train.tasks import Autoencoder, CharRNN, CharTransformer, Conv, RandomMLP

LEARNING_RATES = learning_rate_grid(10**-3.5, 10 ** (-3.5 + 7 / 3))


def make_tasks(steps, long_steps):
    """The held-out tasks; the last one repeats the first with more steps."""
    mlp = {"depth": (3, 3), "width": (32, 32)}
    photos = {"data": ("photos",)}
    tasks = {
        "ReLU MLP, photos": RandomMLP().fixed_task(**photos, **mlp, activations=("relu",)),
        "SiLU MLP, digits": RandomMLP().fixed_task(data=("digits",), **mlp, activations=("silu",)),
        "conv net, photos": Conv().fixed_task(**photos, depth=(2, 2), channels=(8, 8)),
        "char transformer": CharTransformer().fixed_task(length=(16, 16), width=(32, 32)),
        "char GRU": CharRNN().fixed_task(length=(16, 16), width=(32, 32)),
        "autoencoder, photos": Autoencoder().fixed_task(**photos),
    }
    compared = [
        ComparisonTask(f"task{k}", title, task, steps, 0)
        for k, (title, task) in enumerate(tasks.items())
    ]
    if long_steps:
        task = tasks["ReLU MLP, photos"]
        title = f"ReLU MLP, {long_steps} steps"
        compared.append(ComparisonTask("long", title, task, long_steps, 0))
    return compared


RULES = ("orthogonal-momentum", "step-size-lstm")
ADAMW = {"rule": "adam", "schedule": "cosine", "weight_decay": 0.01}
BASELINES = (
    Baseline("AdamW 1e-3", learning_rates=(1e-3,), **ADAMW),
    Baseline("AdamW tuned", learning_rates=LEARNING_RATES, **ADAMW),
)
UNTRAINED = Baseline("untrained step-size-lstm", "step-size-lstm", (3e-3,))


def measure(name, tasks, baselines, seeds, workers):
    """Train a rule and baselines on all tasks; results by task."""
    with tqdm(
        total=total_steps(tasks, baselines), unit="step", desc=name, dynamic_ncols=True
    ) as bar:
        table = compare(
            find_rule(name),
            tasks,
            seeds=range(2000, 2000 + seeds),
            baselines=baselines,
            device="cpu",
            workers=workers,
            on_steps=bar.update,
        )
    return {
        task: [replace(first, label=Path(name).stem), *rest]
        for task, (first, *rest) in table.items()
    }


def missing_baselines(name, found):
    """Baselines that a measurement of this rule still has to train."""
    wanted = [*BASELINES, *([UNTRAINED] if name == "step-size-lstm" else [])]
    return [baseline for baseline in wanted if baseline.label not in found]


def labels_of(columns):
    """The optimizers that every task of a table has."""
    return [row["optimizer"] for row in next(iter(columns.values()))["rows"]] if columns else []


def render(columns):
    """The table of final losses, and a line for each rule."""
    labels = labels_of(columns)
    rows = [
        [
            column["title"],
            *(
                f"{row['final_loss']:.3g} ± {row['final_loss_std']:.1g}"
                + ("*" if row["best_at_edge_of_grid"] else "")
                for row in column["rows"]
            ),
        ]
        for column in columns.values()
    ]
    lines = [markdown_table(["final loss", *labels], rows), ""]
    short = [column["rows"] for name, column in columns.items() if name != "long"]
    tuned = [rows[labels.index("AdamW tuned")]["final_loss"] for rows in short]
    for k, label in enumerate(labels):
        ratios = [
            math.log(rows[k]["final_loss"] / loss) for rows, loss in zip(short, tuned, strict=True)
        ]
        wins = sum(ratio < 0 for ratio in ratios)
        died = sum(column["rows"][k]["diverged_runs"] for column in columns.values())
        lines.append(
            f"{label}: below AdamW tuned on {wins} of {len(short)}, median log ratio "
            f"{statistics.median(ratios):+.3f}, {died} runs diverged"
        )
    return "\n".join([*lines, "* the best learning rate is the first or last of the grid"])


def draw(tasks, path, columns, seeds, workers):
    """Draw loss against steps, each optimizer at the learning rate of its best final loss."""
    table = {task.name: [] for task in tasks}
    for name in RULES:
        for task, results in measure(name, tasks, (), seeds, workers).items():
            table[task] += results
    for task in tasks:
        rates = {row["optimizer"]: row["final_loss_rate"] for row in columns[task.name]["rows"]}
        best = [replace(one, learning_rates=(rates[one.label],)) for one in BASELINES]
        table[task.name] += measure(RULES[0], [task], best, seeds, workers)[task.name][1:]
    names = {label: label for label in (*RULES, *(one.label for one in BASELINES))}
    draw_curves(path, table, tasks, names=names, across=3, panel=(3.6, 2.5), evaluated=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rules", nargs="*", default=RULES, help="names of rules, or weights files")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--long-steps", type=int, default=2000, help="0: no long task")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="50 steps, two seeds, no long task")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the table here, as JSON")
    parser.add_argument("--picture", type=Path, help="draw the table's curves here, as PNG")
    arguments = parser.parse_args()
    if arguments.picture and not (arguments.out and arguments.out.exists()):
        parser.error("--picture needs --out, the table that was measured")
    torch.set_num_threads(1)
    steps, long_steps, seeds = arguments.steps, arguments.long_steps, arguments.seeds
    if arguments.quick:
        steps, long_steps, seeds = 50, 0, 2
    tasks = make_tasks(steps, long_steps)
    columns = {}
    if arguments.out and arguments.out.exists():
        columns = json.loads(arguments.out.read_text())["columns"]
    if arguments.picture:
        short = [task for task in tasks if task.name != "long"]
        draw(short, arguments.picture, columns, seeds, arguments.workers)
        return
    sizes = {column["steps"] for name, column in columns.items() if name != "long"}
    if columns and (sizes != {steps} or any(c["seeds"] != seeds for c in columns.values())):
        parser.error(f"{arguments.out} was measured with other --steps or --seeds")
    for name in arguments.rules:
        found = labels_of(columns)
        if Path(name).stem in found:
            continue
        baselines = missing_baselines(name, found)
        table = measure(name, tasks, baselines, seeds, arguments.workers)
        for task, column in as_json(table, tasks).items():
            column["rows"] = [*columns.get(task, {"rows": []})["rows"], *column["rows"]]
            columns[task] = column
        if arguments.out:
            data = {"rates": list(LEARNING_RATES), "columns": columns}
            write_atomically(arguments.out, (json.dumps(data, indent=2) + "\n").encode())
    print(render(columns))


if __name__ == "__main__":
    main()
