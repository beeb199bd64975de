"""The sine curves' tables as a document, out of measured figures alone."""

import torch
from sine_notes import BEYOND, HEADER, PAIRED, SEEDS

from meta_train.few_shot.methods.registry import METHODS, list_methods

LEARNED = "learned-gated-lstm"
FIXED = ("maml", "maml-further")
SHOWN = (0, 1, 2, 3, 5, 7, 10)


def document(measured):
    """All tables, in Markdown."""
    parts = [HEADER]
    for shots, rows in measured.items():
        if not rows or not shots.isdecimal():
            continue
        heads = " | ".join(f"{step} step{'s' * (step != 1)}" for step in SHOWN)
        parts += [
            f"## From {shots} points\n",
            f"| MSE after | {heads} | outer steps | rate | minutes |",
            "|---" * (len(SHOWN) + 4) + "|",
        ]
        for name in list_methods(sine=True):
            if name in rows:
                found = {one["steps"]: one for one in rows[name]["results"]}
                cells = " | ".join(cell(found[step]) for step in SHOWN)
                own = rows[name]
                facts = f"{own['outer_steps']} | {own['lr']:g} | {minutes(name, rows)}"
                parts.append(f"| {name} | {cells} | {facts} |")
        parts += ["", *beyond(rows), f"![curves and errors](images/sine-{shots}.png)", ""]
    if measured.get("paired"):
        parts += [PAIRED, *paired_tables(measured["paired"])]
    if measured.get("seeds"):
        parts += [SEEDS, *seed_tables(measured["seeds"])]
    return "\n".join(parts)


def beyond(rows):
    """What rows have after more steps than the table shows, where they are meant for them."""
    for name, own in rows.items():
        last, row = own["results"][-1], METHODS[name].on_sine()
        if row.test_steps == last["steps"] > SHOWN[-1]:
            yield BEYOND.format(row=name, steps=last["steps"], pull=row.proximal, cell=cell(last))


def paired_tables(paired):
    """One for each number of points."""
    for shots, others in paired.items():
        heads = [f"{one}: lower by | on | medians" for one in others]
        yield f"From {shots} points:\n"
        yield f"| after step | {' | '.join(heads)} |"
        yield "|---" * (1 + 3 * len(others)) + "|"
        for rows in zip(*others.values(), strict=True):
            cells = [
                f"{row['difference']:.3f} ± {row['interval']:.3f} | {row['lower']:.0%} "
                f"| {row['median']:.3f}, {row['other_median']:.3f}"
                for row in rows
            ]
            yield f"| {rows[0]['steps']} | {' | '.join(cells)} |"
        yield ""


def seed_tables(seeds):
    """One for each number of points."""
    for shots, rows in seeds.items():
        count = min(len(by_seed) for by_seed in rows.values())
        yield f"From {shots} points, {count} seeds:\n"
        heads = ("below maml by the median", "below both by it", "below both by the mean")
        yield f"| after step | {' | '.join((*rows, *heads))} |"
        yield "|---" * (1 + len(rows) + len(heads)) + "|"
        for step in range(1, SHOWN[-1] + 1):
            errors = {kind: of_seeds(rows, kind, step) for kind in ("median", "mean")}
            cells = [f"{one.mean():.3f} ± {one.std():.3f}" for one in errors["median"].values()]
            below = (
                seeds_below(errors["median"], FIXED[:1]),
                *(seeds_below(one, FIXED) for one in errors.values()),
            )
            cells += [f"{number} of {count}" for number in below]
            yield f"| {step} | {' | '.join(cells)} |"
        yield ""


def of_seeds(rows, kind, step):
    """The errors of all seeds, `[seeds]` by row: of each the "mean" or "median" over curves."""
    return {
        name: torch.tensor([by_seed[seed][kind][step] for seed in sorted(by_seed)])
        for name, by_seed in rows.items()
    }


def seeds_below(errors, others):
    """In how many seeds the learned rule is below all of these."""
    best = torch.stack([errors[name] for name in others]).amin(0)
    return int((errors[LEARNED] < best).sum())


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
