"""The tables of docs/sine.md, from measured figures."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


from meta_train.evaluation.tables import markdown_table
from meta_train.few_shot.methods.registry import METHODS, list_methods

LEARNED = "learned-gated-lstm"
FIXED = ("maml", "maml-further")
SHOWN = (0, 1, 2, 3, 5, 7, 10)


def tables(measured):
    """All tables by the names of their markers.

    Args:
        measured: the data of docs/measured/sine.json.
    """
    found = {}
    for points, methods in measured.items():
        if points.isdecimal() and methods:
            found[f"from-{points}-points"] = errors_table(methods)
            found[f"more-steps-{points}-points"] = more_steps_table(methods)
    for points, others in measured["paired"].items():
        found[f"paired-{points}-points"] = paired_table(others)
    for points, methods in measured["seeds"].items():
        found[f"seeds-{points}-points"] = seeds_table(methods)
    return found


def errors_table(methods):
    """Mean squared error of every method after the steps that are shown."""
    heads = [f"{step} step{'s' * (step != 1)}" for step in SHOWN]
    rows = []
    for name in list_methods(sine=True):
        if name in methods:
            own = methods[name]
            results = {one["steps"]: one for one in own["results"]}
            errors = [cell(results[step]) for step in SHOWN]
            facts = own["outer_steps"], f"{own['lr']:g}", minutes(name, methods)
            rows.append((name, *errors, *facts))
    facts = ("outer steps", "outer learning rate", "minutes")
    return markdown_table(("MSE after", *heads, *facts), rows)


def more_steps_table(methods):
    """Errors of methods that are meant for more steps than the table above shows."""
    rows = []
    for name, own in methods.items():
        last, method = own["results"][-1], METHODS[name].on_sine()
        if method.test_steps == last["steps"] > SHOWN[-1]:
            rows.append((name, last["steps"], f"{method.proximal:g}", cell(last)))
    return markdown_table(("method", "inner steps", "lambda", "MSE"), rows)


def paired_table(others):
    """Differences to fixed steps, curve by curve."""
    heads = [f"{one}: {what}" for one in others for what in ("lower by", "lower on", "medians")]
    rows = []
    for at_step in zip(*others.values(), strict=True):
        cells = []
        for one in at_step:
            cells += [
                f"{one['difference']:.3f} ± {one['interval']:.3f}",
                f"{one['lower']:.0%}",
                f"{one['median']:.3f}, {one['other_median']:.3f}",
            ]
        rows.append((at_step[0]["steps"], *cells))
    return markdown_table(("after step", *heads), rows)


def seeds_table(methods):
    """Median errors over seeds, and in how many seeds the learned rule is lower."""
    count = min(len(by_seed) for by_seed in methods.values())
    heads = ("median below maml", "median below both", "mean below both")
    rows = []
    for step in range(1, SHOWN[-1] + 1):
        errors = {kind: of_seeds(methods, kind, step) for kind in ("median", "mean")}
        spreads = [f"{one.mean():.3f} ± {one.std():.3f}" for one in errors["median"].values()]
        below = (
            seeds_below(errors["median"], FIXED[:1]),
            *(seeds_below(one, FIXED) for one in errors.values()),
        )
        rows.append((step, *spreads, *(f"{number} of {count}" for number in below)))
    return markdown_table(("after step", *methods, *heads), rows)


def of_seeds(methods, kind, step):
    """Errors `[seeds]` by method: the "mean" or "median" over curves of each seed."""
    return {
        name: torch.tensor([by_seed[seed][kind][step] for seed in sorted(by_seed)])
        for name, by_seed in methods.items()
    }


def seeds_below(errors, others):
    """In how many seeds the learned rule is below all of these methods."""
    best = torch.stack([errors[name] for name in others]).amin(0)
    return int((errors[LEARNED] < best).sum())


def minutes(name, methods):
    """Minutes of training, and of the method that it begins with."""
    base = methods[name]["begins_with"]
    own = f"{methods[name]['minutes']:.1f}"
    return own if base is None else f"{own} + {methods[base]['minutes']:.1f}"


def cell(result):
    """A mean and half its interval, or that inner training diverged."""
    mean, interval = result["mean"], result["interval"]
    if mean is None or mean > 100:
        return "diverged"
    return f"{mean:.3f} ± {interval:.3f}"
