"""Is a rule better than the default on sixteen tasks that no rule was trained on?

    python benchmarks/quality/varied.py runs/mine/weights.safetensors
    python benchmarks/quality/varied.py runs/mine/weights.safetensors --steps 1000 --out ratios.json
    python benchmarks/quality/varied.py orthogonal-momentum --reference without-pace
    python benchmarks/quality/varied.py runs/constants/constants.json --part 0.5

Prints, for each of the `varied` tasks, the log ratio of the final loss to the reference's: the mean
over seeds, and its standard error. Below 0 is better. Both rules train the same problems on the
same batches with their default settings. A rule that keeps an average is not told the number of
steps and is evaluated at the average. Ratios count at most a factor of 2, as in the validation of
meta-training, which takes other seeds.
"""

import argparse
import json
import math
import statistics
from pathlib import Path

import torch
from learned_constants import read_constants
from tqdm import tqdm

from learned_opt.files import write_atomically
from learned_opt.rules import create_rule
from learned_opt.rules.parts.momentum_constants import USUAL, PaceConstants
from learned_opt.weights import find_rule
from meta_train.evaluation.curves import train_curves
from meta_train.evaluation.tables import markdown_table
from meta_train.tasks import create_task

FIRST_SEED = 3000
"""Seeds of meta-training's own validation begin at 0."""

CLIP = math.log(2)


def without_pace():
    """The default as it would be without its pace."""
    rule = create_rule("orthogonal-momentum")
    rule._constants = USUAL._replace(pace=PaceConstants(rise=0.0, fall=0.0))
    return rule


def find(name, settings=None, part=1.0):
    """A rule by its name, weights file or constants; see the options."""
    if name == "without-pace":
        return without_pace()
    if name.endswith(".json"):
        rule = create_rule("orthogonal-momentum")
        rule._constants = read_constants(Path(name), part)
        return rule
    return create_rule(name, **settings) if settings else find_rule(name)


def final_losses(rule, task, steps, seeds):
    """The loss on all data after the last step, for each seed; infinite after divergence."""
    curves = train_curves(
        rule,
        task,
        seeds=range(FIRST_SEED, FIRST_SEED + seeds),
        steps=steps,
        check_every=steps,
        device="cpu",
    )
    return curves.final_losses(steps)[0].clamp_min(1e-12).tolist()


def log_ratios(found, reference):
    """Clipped log ratios of two lists of losses; one that is infinite counts as the bound."""
    ratios = [math.log(a) - math.log(b) for a, b in zip(found, reference, strict=True)]
    return [min(max(0.0 if math.isnan(r) else r, -CLIP), CLIP) for r in ratios]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "rule", help="name of a rule, a weights file, or constants of the default (.json)"
    )
    parser.add_argument("--settings", type=json.loads, help="of a rule without weights, as JSON")
    parser.add_argument(
        "--part", type=float, default=1.0, help="part of the way from the default's constants"
    )
    parser.add_argument(
        "--reference", default="orthogonal-momentum", help="also: without-pace, the same without it"
    )
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--out", type=Path, help="write the log ratios here, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    reference = find(arguments.reference)
    rule = find(arguments.rule, arguments.settings, arguments.part)
    found = {}
    for name, task in tqdm(create_task("varied").held_out().items(), unit="task"):
        losses = [
            final_losses(one, task, arguments.steps, arguments.seeds) for one in (rule, reference)
        ]
        found[name] = log_ratios(*losses)
    rows = [
        [name, f"{statistics.mean(r):+.3f} ± {statistics.stdev(r) / math.sqrt(len(r)):.3f}"]
        for name, r in found.items()
    ]
    means = [statistics.mean(r) for r in found.values()]
    error = statistics.stdev(means) / math.sqrt(len(means))
    better = sum(mean < 0 for mean in means)
    print(markdown_table(["task", "log ratio"], rows))
    print(f"mean over tasks {statistics.mean(means):+.4f} ± {error:.4f}")
    print(f"below 0 on {better} of {len(means)}, worst {max(means):+.3f}")
    if arguments.out:
        write_atomically(arguments.out, (json.dumps(found, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
