"""Compares the learned rule with fixed steps on sine curves over seeds of meta-training.

    python benchmarks/few_shot/sine_seeds.py  # seeds 1 to 4, next to seed 0 of the documents
    python benchmarks/few_shot/sine_seeds.py --write  # only collect finished runs

Each seed trains the `maml` of sine.py with other initial weights and on other curves, and then the
methods that begin with it, equally long. Results go to docs/measured/sine.json under "seeds", and
to docs/sine.md. A finished run is not repeated; an interrupted one is resumed.
"""

import json

import torch
from sine import MEASURED, evaluate_fresh, load, make_parser, train_and_test, write
from sine_table import FIXED, LEARNED


def collect(shots, seeds, args):
    """Mean and median errors after each step, by method and finished seed."""
    errors = {name: {} for name in (*FIXED, LEARNED)}
    for seed in seeds:
        found = load(shots, args, seed)
        if all(name in found for name in errors):
            for name, values in evaluate_fresh(found, shots).items():
                errors[name][str(seed)] = {
                    "mean": values.mean(1).tolist(),
                    "median": values.median(1).values.tolist(),
                }
    return errors


if __name__ == "__main__":
    parser = make_parser(__doc__.splitlines()[0], "10")
    parser.add_argument("--seeds", default="1,2,3,4", help="next to seed 0")
    args = parser.parse_args()
    torch.set_num_threads(1)
    seeds = [0, *map(int, args.seeds.split(","))]
    measured = json.loads(MEASURED.read_text())
    for shots in map(int, args.shots.split(",")):
        for seed in [] if args.write else seeds:
            for name in (*FIXED, LEARNED):
                train_and_test(name, shots, args, seed)
        errors = collect(shots, seeds, args)
        if len(errors[LEARNED]) > 1:
            measured.setdefault("seeds", {})[str(shots)] = errors
    write(measured)
