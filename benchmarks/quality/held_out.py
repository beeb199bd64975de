"""A learned optimizer at its one default setting beside tuned AdamW, on six held-out tasks.

    python benchmarks/quality/held_out.py step-size-lstm
    python benchmarks/quality/held_out.py step-size-lstm --out table.json  # which is then drawn by
    python benchmarks/quality/held_out.py step-size-lstm --out table.json --picture curves.png

Networks, data or both are none that the bundled optimizers were meta-trained or selected on. All
optimizers train the same problems on the same batches. AdamW follows a cosine with a warm-up over
3% of the steps, once at 1e-3 and once at the best of eight rates, chosen for the final loss on
these very problems; weight decay is 0.01.
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
from meta_train.tasks.autoencoder import Autoencoder
from meta_train.tasks.char_rnn import CharRNN
from meta_train.tasks.char_transformer import CharTransformer
from meta_train.tasks.conv import Conv
from meta_train.tasks.random_mlp import RandomMLP

LEARNING_RATES = learning_rate_grid(10**-3.5, 10 ** (-3.5 + 7 / 3))


def make_columns(steps, long_steps):
    mlp = {"depth": (3, 3), "width": (32, 32)}
    photos = {"data": ("photos",)}
    tasks = {
        "ReLU MLP, photos": RandomMLP().fixed(**photos, **mlp, activations=("relu",)),
        "SiLU MLP, digits": RandomMLP().fixed(data=("digits",), **mlp, activations=("silu",)),
        "conv net, photos": Conv().fixed(**photos, depth=(2, 2), channels=(8, 8)),
        "char transformer": CharTransformer().fixed(length=(16, 16), width=(32, 32)),
        "char GRU": CharRNN().fixed(length=(16, 16), width=(32, 32)),
        "autoencoder, photos": Autoencoder().fixed(**photos),
    }
    columns = [
        ComparisonTask(f"task{k}", title, task, steps, 0)
        for k, (title, task) in enumerate(tasks.items())
    ]
    if long_steps:
        task = tasks["ReLU MLP, photos"]
        columns.append(ComparisonTask("long", f"ReLU MLP, {long_steps} steps", task, long_steps, 0))
    return columns


def make_baselines(rule):
    settings = {"rule": "adam", "schedule": "cosine", "weight_decay": 0.01}
    baselines = [
        Baseline("AdamW 1e-3", learning_rates=(1e-3,), **settings),
        Baseline("AdamW tuned", learning_rates=LEARNING_RATES, **settings),
    ]
    if rule_name(rule) == "step-size-lstm":
        baselines.append(Baseline("untrained", "step-size-lstm", (rule.default_lr,)))
    return baselines


def render(columns, table):
    labels = [row.label for row in next(iter(table.values()))]
    lines = [f"{'final loss':<20}" + "".join(f"{label:>15}" for label in labels)]
    for column in columns:
        cells = ""
        for row in table[column.name]:
            mean, spread = row.final_loss
            star = "*" if row.at_edge else ""
            cells += f"{f'{mean:.3g}+-{spread:.1g}{star}':>15}"
        lines.append(f"{column.title:<20}{cells}")
    tasks = [table[column.name] for column in columns if column.name != "long"]
    gaps = [rows[0].final_loss[0] / rows[2].final_loss[0] - 1 for rows in tasks]
    better = sum(rows[0].final_loss[0] < rows[1].final_loss[0] for rows in tasks)
    died = sum(row.diverged for rows in table.values() for row in rows[:1])
    lines += [
        f"better than AdamW 1e-3 on {better} of {len(tasks)}; diverged runs: {died}",
        f"mean relative gap to AdamW tuned: {sum(gaps) / len(gaps):+.3f} "
        f"({', '.join(f'{gap:+.2f}' for gap in gaps)})",
        "* best rate at the edge of its grid",
    ]
    return "\n".join(lines)


def run(rule, columns, baselines, arguments):
    """Train all optimizers on all problems."""
    with tqdm(total=total_steps(columns, baselines), unit="step", dynamic_ncols=True) as bar:
        return compare(
            rule,
            columns,
            seeds=range(2000, 2000 + arguments.seeds),
            baselines=baselines,
            device="cpu",
            workers=arguments.workers,
            on_steps=bar.update,
        )


def draw(rule, columns, arguments):
    """Curves of the six, each optimizer at the rate that was measured to be best."""
    measured = json.loads(arguments.out.read_text())["columns"]
    baselines = make_baselines(rule)
    table = {}
    for column in columns:
        rates = {row["optimizer"]: row["mean_loss_rate"] for row in measured[column.name]["rows"]}
        best = [replace(one, learning_rates=(rates[one.label],)) for one in baselines]
        table |= run(rule, [column], best, arguments)
    names = {"learned": rule_name(rule)} | {one.label: one.label for one in baselines}
    draw_curves(arguments.picture, table, columns, names=names, across=3, panel=(3.6, 2.5))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rule", help="a bundled rule's name, or a weights file")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--long-steps", type=int, default=2000, help="0: no long column")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the table here as JSON")
    parser.add_argument(
        "--picture",
        type=Path,
        help="draw the six's curves here, as PNG: only at the rates that are the best in --out",
    )
    arguments = parser.parse_args()
    if arguments.picture and not (arguments.out and arguments.out.exists()):
        parser.error("--picture needs --out, the table that was measured")
    torch.set_num_threads(1)

    rule = from_pretrained(arguments.rule)
    columns = make_columns(arguments.steps, arguments.long_steps)
    if arguments.picture:
        draw(rule, [column for column in columns if column.name != "long"], arguments)
        return
    table = run(rule, columns, make_baselines(rule), arguments)
    print(render(columns, table))
    if arguments.out:
        data = {"rates": list(LEARNING_RATES), "columns": as_json(table, columns)}
        arguments.out.write_text(json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    main()
