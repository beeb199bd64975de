"""Write the tables of README and docs/ from what was measured.

    python benchmarks/tables.py  # after a benchmark has written docs/measured/*.json
    python benchmarks/tables.py --check  # write nothing, fail if a table is out of date

Figures come from docs/measured/*.json and from the cards in the bundled weights files.
"""

import argparse
import json
import sys
from pathlib import Path

from documents import find_tables, mean_and_spread, replace_between, smallest_in_bold

from learned_opt import load_card
from meta_train.evaluation.benchmark.records import Records
from meta_train.evaluation.benchmark.reports.full_report import (
    error_table,
    games_table,
    loss_table,
    pairs_table,
    plan_of,
    sensitivity_table,
    summary_table,
)
from meta_train.evaluation.benchmark.tasks import TASKS
from meta_train.evaluation.comparison.report import FLOOR
from meta_train.evaluation.tables import markdown_table

ROOT = Path(__file__).parents[1]
HELD_OUT = {
    "orthogonal-momentum": "orthogonal-momentum",
    "AdamW 1e-3": "AdamW 1e-3",
    "AdamW tuned": "AdamW tuned",
    "step-size-lstm": "step-size-lstm",
    "untrained step-size-lstm": "the same, untrained",
}
"""Optimizers of the table by the name in the measurement, and their column."""
SINE_STEPS = (0, 1, 2, 5, 10)
SINE_ROWS = ("maml", "maml-further", "learned-gated-lstm")
OMNIGLOT_ROWS = {
    "maml": "MAML",
    "fomaml": "first-order MAML",
    "prototypical": "prototypical networks",
}
DIGITS = ("same family", "wider: 64 units", "ReLU", "10 x the steps")
ANDRYCHOWICZ = (
    *("same family", "40 units", "two layers", "two layers of 40", "ReLU", "10 x the steps"),
)
"""Titles of the tasks on two cards."""
MEMORY_MODES = ("plain", "checkpointing", "truncated", "pes")
CASES = {
    "lstm": "LSTM 2 x 20 on 15,910 coordinates, 20 steps",
    "sine": "MAML, sine, 25 tasks",
    "conv4": "MAML, strided conv4, 5 steps, 8 tasks",
}


def measured(name):
    """The results of a benchmark."""
    return json.loads((ROOT / "docs" / "measured" / f"{name}.json").read_text())


def held_out():
    """Final loss of both general rules and AdamW on held-out tasks."""
    rows = []
    for column in measured("held_out")["columns"].values():
        found = {row["optimizer"]: row for row in column["rows"]}
        cells = [
            mean_and_spread(found[name]["final_loss"], found[name]["final_loss_std"])
            for name in HELD_OUT
        ]
        rows.append([column["title"], *smallest_in_bold(cells)])
    return markdown_table(["final training loss", *HELD_OUT.values()], rows)


def digits():
    """The comparison on the card of digits-lstm."""
    return card("digits-lstm", DIGITS)


def andrychowicz():
    """The comparison on the card of andrychowicz-lstm."""
    return card("andrychowicz-lstm", ANDRYCHOWICZ)


def card(name, titles):
    """The comparison of bundled weights with tuned optimizers, from their card."""
    rows = []
    for title, column in zip(titles, load_card(name)["columns"].values(), strict=True):
        for figure in ("mean_loss", "final_loss"):
            cells = [
                f"< {FLOOR:g}"
                if row[figure] < FLOOR
                else mean_and_spread(row[figure], row[f"{figure}_std"], ".2g")
                for row in column["rows"]
            ]
            rows.append([f"{title}: {figure.removesuffix('_loss')}", *smallest_in_bold(cells)])
        # Baselines were given twice as many steps in the columns of 100.
        limit = 2 * column["steps"] if column["steps"] == 100 else column["steps"]
        reached = [row["steps_to_reach_learned"] for row in column["rows"][1:]]
        steps = [f"{count:.0f}" if count else f"> {limit}" for count in reached]
        rows.append([f"{title}: steps", column["steps"], *steps])
    header = ["training loss, and steps", "learned", "Adam", "RMSprop", "SGD + momentum"]
    return markdown_table([*header, "Adam, decayed"], rows)


def unroll_memory():
    """Peak memory of a meta-gradient by inner steps."""
    lines = {}
    for row in measured("unroll_memory")["rows"]:
        cell = f"{row['mib']:.0f}"
        if row.get("seconds"):
            cell += f" ({1000 * row['seconds'] / row['steps']:.0f})"
        lines.setdefault(f"{row['steps']:,} steps", {})[row["mode"]] = cell
    rows = [[steps, *(cells.get(m, "-") for m in MEMORY_MODES)] for steps, cells in lines.items()]
    return markdown_table(["peak, MiB (ms a step), at", *MEMORY_MODES], rows)


def meta_gradient():
    """Time and memory of one meta-gradient beside other libraries."""
    rows = []
    for row in measured("meta_gradient")["rows"]:
        library, ratio = row["library"], f"{row['x_higher']:.2f}"
        if library.startswith("ours"):
            library, ratio = f"**{library}**", f"**{ratio}**"
        peak = f"{row['peak_mib']:.3g}"
        rows.append([CASES[row["case"]], library, f"{row['ms']:.3g}", ratio, peak])
    return markdown_table(["case", "library", "ms", "times as fast as `higher`", "peak, MiB"], rows)


def sine():
    """Errors of MAML, its control and learned gates on sine curves, from 10 points."""
    rows = []
    for name in SINE_ROWS:
        found = {one["steps"]: one for one in measured("sine")["10"][name]["results"]}
        results = [found[steps] for steps in SINE_STEPS]
        cells = [f"{one['mean']:.2f} ± {one['interval']:.2f}" for one in results]
        rows.append([f"`{name}`", *cells])
    first, second, *rest = SINE_STEPS
    return markdown_table(["mean squared error after", f"{first} steps", second, *rest], rows)


def benchmark_records():
    """The results of the benchmark of optimizers, and its plan."""
    records = Records(ROOT / "docs" / "measured" / "benchmark.json", {})
    return plan_of(records), records


def benchmark():
    """A row for each optimizer of the benchmark."""
    return summary_table(*benchmark_records())


def benchmark_pairs():
    """The default's losses beside those of each other optimizer."""
    return pairs_table(*benchmark_records())


def benchmark_losses():
    """Final training loss by task and optimizer."""
    return loss_table(*benchmark_records())


def benchmark_errors():
    """Test figure by task and optimizer."""
    return error_table(*benchmark_records())


def benchmark_sensitivity():
    """The effect of other step sizes on an optimizer."""
    return sensitivity_table(*benchmark_records())


def benchmark_games():
    """The figure of each game by optimizer, at defaults."""
    return games_table(*benchmark_records())


def benchmark_long():
    """The default's final losses at ten times the steps, beside those of the same seeds."""
    usual, long = (
        Records(ROOT / "docs" / "measured" / f"{name}.json", {})
        for name in ("benchmark", "benchmark_long")
    )
    rows = []
    for key, result in sorted(long.items(), key=lambda item: list(TASKS).index(item[0].task)):
        first, last = usual.get(key).losses[-1], result.losses[-1]
        losses = [f"{loss:.3g}" for loss in (result.losses[0], first, last, min(result.losses))]
        rows.append([TASKS[key.task].title, f"{long.facts['steps'][key.task]:,}", *losses])
    heads = ["training loss", "steps", "at the start", "after a tenth", "after all", "lowest"]
    return markdown_table(heads, rows)


def omniglot():
    """Three methods on Omniglot, 5-way 1-shot, with a row for each seed."""
    rows = []
    for name, title in OMNIGLOT_ROWS.items():
        for cell in measured("few_shot")["cells"]:
            if (cell["row"], cell["ways"], cell["shots"]) == (name, 5, 1):
                accuracy = f"{100 * cell['accuracy']:.1f} ± {100 * cell['interval']:.1f}"
                steps, minutes = f"{cell['outer_steps']:,}", f"{cell['minutes']:.0f}"
                rows.append([title, cell["seed"], accuracy, steps, minutes])
    heads = ["method", "seed", "accuracy, %", "outer steps", "minutes on one CPU core"]
    return markdown_table(heads, rows)


def step_cost():
    """Time of a step by a rule's own code and by faster code, beside fused AdamW's."""
    sys.path.append(str(ROOT / "benchmarks" / "speed"))
    from step_cost import table

    return table(measured("step_cost"))


def step_cost_loaded():
    """The same on a busy machine."""
    sys.path.append(str(ROOT / "benchmarks" / "speed"))
    from step_cost import table

    return table(measured("step_cost_loaded"))


def step_cost_aims():
    """What the faster code was written to reach."""
    sys.path.append(str(ROOT / "benchmarks" / "speed"))
    from step_cost import aims

    return aims(measured("step_cost"))


def gpt_iteration():
    """The step's share of a training iteration by optimizer."""
    sys.path.append(str(ROOT / "benchmarks" / "speed"))
    from gpt_iteration import table

    return table(measured("gpt_iteration"))


TABLES = (
    ("README.md", "held-out", held_out),
    ("docs/measured.md", "held-out", held_out),
    ("docs/benchmark.md", "benchmark", benchmark),
    ("docs/benchmark.md", "benchmark-pairs", benchmark_pairs),
    ("docs/benchmark.md", "benchmark-losses", benchmark_losses),
    ("docs/benchmark.md", "benchmark-errors", benchmark_errors),
    ("docs/benchmark.md", "benchmark-sensitivity", benchmark_sensitivity),
    ("docs/benchmark.md", "benchmark-games", benchmark_games),
    ("docs/benchmark.md", "benchmark-long", benchmark_long),
    ("docs/measured.md", "digits", digits),
    ("learned_opt/pretrained/andrychowicz-lstm.md", "andrychowicz", andrychowicz),
    ("docs/measured.md", "meta-gradient", meta_gradient),
    ("docs/choose.md", "step-cost", step_cost),
    ("docs/choose.md", "step-cost-aims", step_cost_aims),
    ("docs/measured.md", "step-cost-loaded", step_cost_loaded),
    ("docs/choose.md", "gpt-iteration", gpt_iteration),
    ("docs/estimators.md", "unroll-memory", unroll_memory),
    ("docs/initialisations.md", "sine", sine),
    ("docs/initialisations.md", "omniglot", omniglot),
)


def main(check):
    stale = []
    for file, name, render in TABLES:
        text = (ROOT / file).read_text()
        table = render()
        if find_tables(text)[name] == table:
            continue
        stale.append(f"{file}: {name}")
        if not check:
            (ROOT / file).write_text(replace_between(text, name, table))
    for one in stale:
        print(f"{'out of date' if check else 'written'}: {one}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail if out of date")
    sys.exit(main(parser.parse_args().check))
