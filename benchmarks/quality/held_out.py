"""How good is a learned optimizer with its default settings, beside tuned AdamW, on held-out tasks?

    python benchmarks/quality/held_out.py step-size-lstm --out table.json
    python benchmarks/quality/held_out.py step-size-lstm --out table.json --picture curves.png
    python benchmarks/quality/held_out.py step-size-lstm --quick  # one minute

Prints a Markdown table of final losses on six tasks, and on one of them with four times the steps.
The second command draws the curves, at the learning rates that the first one found best.

The bundled optimizers were meta-trained and selected on other networks, other data, or both. All
optimizers train the same problems on the same batches. AdamW follows a cosine with a warm-up over
3% of the steps and has a weight decay of 0.01. It trains once at 1e-3 and once at the best of eight
learning rates, chosen for the final loss on these same problems.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from learned_opt import from_pretrained
from learned_opt.rules import rule_name
from meta_train.evaluation.baselines import Baseline, learning_rate_grid
from meta_train.evaluation.compare import ComparisonTask, compare, total_steps
from meta_train.evaluation.report import as_json, draw_curves
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


def make_baselines(rule):
    settings = {"rule": "adam", "schedule": "cosine", "weight_decay": 0.01}
    baselines = [
        Baseline("AdamW 1e-3", learning_rates=(1e-3,), **settings),
        Baseline("AdamW tuned", learning_rates=LEARNING_RATES, **settings),
    ]
    if rule_name(rule) == "step-size-lstm":
        baselines.append(Baseline("untrained", "step-size-lstm", (rule.default_lr,)))
    return baselines


def render(tasks, table):
    """A table of final losses and a summary of the tasks without the long one."""
    labels = [result.label for result in table[tasks[0].name]]
    rows = []
    for task in tasks:
        cells = []
        for result in table[task.name]:
            mean, spread = result.final_loss
            cells.append(f"{mean:.3g} ± {spread:.1g}{'*' if result.at_edge else ''}")
        rows.append([task.title, *cells])
    short = [table[task.name] for task in tasks if task.name != "long"]
    losses = [[result.final_loss[0] for result in results[:3]] for results in short]
    better = sum(learned < default for learned, default, _ in losses)
    gaps = [learned / tuned - 1 for learned, _, tuned in losses]
    diverged = sum(results[0].diverged for results in table.values())
    lines = [
        markdown_table(["final loss", *labels], rows),
        "",
        f"better than AdamW 1e-3 on {better} of {len(short)} tasks; {diverged} diverged runs",
        f"mean of learned / AdamW tuned - 1: {sum(gaps) / len(gaps):+.3f} "
        f"({', '.join(f'{gap:+.2f}' for gap in gaps)})",
    ]
    if any(result.at_edge for results in table.values() for result in results):
        lines.append("* best learning rate at the edge of the grid: a wider grid may do better")
    return "\n".join(lines)


def run(rule, tasks, baselines, seeds, workers):
    """Train all optimizers on all tasks."""
    with tqdm(total=total_steps(tasks, baselines), unit="step", dynamic_ncols=True) as bar:
        return compare(
            rule,
            tasks,
            seeds=range(2000, 2000 + seeds),
            baselines=baselines,
            device="cpu",
            workers=workers,
            on_steps=bar.update,
        )


def draw(rule, tasks, path, measured, seeds, workers):
    """Draw training losses, each optimizer at its best measured learning rate."""
    baselines = make_baselines(rule)
    table = {}
    for task in tasks:
        best_lr = {row["optimizer"]: row["mean_loss_rate"] for row in measured[task.name]["rows"]}
        best = [replace(one, learning_rates=(best_lr[one.label],)) for one in baselines]
        table |= run(rule, [task], best, seeds, workers)
    names = {"learned": rule_name(rule)} | {one.label: one.label for one in baselines}
    draw_curves(path, table, tasks, names=names, across=3, panel=(3.6, 2.5))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rule", help="name of a bundled rule, or a weights file")
    parser.add_argument("--steps", type=int, default=500, help="training steps")
    parser.add_argument(
        "--long-steps", type=int, default=2000, help="steps of the long task; 0 leaves it out"
    )
    parser.add_argument("--seeds", type=int, default=5, help="problems per task")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--quick", action="store_true", help="2 seeds, 50 steps, no long task")
    parser.add_argument("--out", type=Path, help="JSON file of the table")
    parser.add_argument(
        "--picture", type=Path, help="PNG file of the curves; reads learning rates from --out"
    )
    arguments = parser.parse_args()
    if arguments.picture and not (arguments.out and arguments.out.exists()):
        parser.error("--picture needs --out, a table written by an earlier run")
    torch.set_num_threads(1)

    steps, long_steps, seeds = arguments.steps, arguments.long_steps, arguments.seeds
    if arguments.quick:
        steps, long_steps, seeds = 50, 0, 2
    rule = from_pretrained(arguments.rule)
    tasks = make_tasks(steps, long_steps)
    if arguments.picture:
        measured = json.loads(arguments.out.read_text())["columns"]
        short = [task for task in tasks if task.name != "long"]
        draw(rule, short, arguments.picture, measured, seeds, arguments.workers)
        return
    table = run(rule, tasks, make_baselines(rule), seeds, arguments.workers)
    print(render(tasks, table))
    if arguments.out:
        data = {"rates": list(LEARNING_RATES), "columns": as_json(table, tasks)}
        arguments.out.write_text(json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    main()
