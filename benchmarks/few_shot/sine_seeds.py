"""Whether the learned rule is below fixed steps whatever the seed of meta-training.

    python benchmarks/few_shot/sine_seeds.py  # seeds 1 to 4 beside that of the documents, 0
    python benchmarks/few_shot/sine_seeds.py --write  # only collect what is in the folder of runs

Each seed is the `maml` of sine.py with other initial weights and other curves, and what
begins with it, at the same lengths. Results land in docs/measured/sine.json under "seeds", and in
docs/sine.md. A row that is done is not done again, one that was cut off goes on.
"""

import json

import torch
from sine import MEASURED, judge_fresh, load, make_parser, run_row, write
from sine_table import FIXED, LEARNED


def collect(shots, seeds, args):
    """Mean and median errors after each step by row and seed, of seeds whose rows are all there."""
    errors = {name: {} for name in (*FIXED, LEARNED)}
    for seed in seeds:
        found = load(shots, args, seed)
        if all(name in found for name in errors):
            for name, values in judge_fresh(found, shots).items():
                errors[name][str(seed)] = {
                    "mean": values.mean(1).tolist(),
                    "median": values.median(1).values.tolist(),
                }
    return errors


if __name__ == "__main__":
    parser = make_parser(__doc__.splitlines()[0], "10")
    parser.add_argument("--seeds", default="1,2,3,4", help="beside 0")
    args = parser.parse_args()
    torch.set_num_threads(1)
    seeds = [0, *map(int, args.seeds.split(","))]
    measured = json.loads(MEASURED.read_text())
    for shots in map(int, args.shots.split(",")):
        for seed in [] if args.write else seeds:
            for name in (*FIXED, LEARNED):
                run_row(name, shots, args, seed)
        errors = collect(shots, seeds, args)
        if len(errors[LEARNED]) > 1:
            measured.setdefault("seeds", {})[str(shots)] = errors
    write(measured)
