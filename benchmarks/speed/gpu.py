"""All that needs a GPU, in one run of under ten minutes: tests, costs of steps, a meta-gradient.

    python benchmarks/speed/gpu.py --output gpu.json
    python benchmarks/speed/gpu.py --only costs --sizes 1e7

Needs torch with CUDA, Triton and pytest; `tests/jobs` and the meta-gradient need the extra `meta`.
Runs:

1. `pytest -m gpu`: kernels against the rules, no waiting for the GPU, capture in a CUDA graph.
2. `gpu_costs.py`: times of steps beside fused AdamW's.
3. `meta_gradient.py --device cuda --quick`.

Each part may take the time that is left but for the seconds that the later parts are sure of. At
its limit it is killed, and the next begins in any case. The status is 1 if one failed.
"""

import argparse
import json
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from gpu_costs import DEVICE, RULES, SIZES
from time_budget import TimeBudget, run

ROOT = Path(__file__).parents[2]
TESTS = ("tests/backends", "tests/conformance", "tests/optimizer")
JOBS = "tests/jobs"
"""Tests that need the extra `meta`."""

TOTAL = 570
"""Seconds for all parts; imports, and programs that take long to die, have the rest of ten
minutes."""

SURE = {"tests": 240, "costs": 200, "meta-gradient": 120}
"""Seconds that a part has in any case, in the order of the parts."""

SPARE = 15
"""Seconds that the costs stop before they are killed."""


def limits(parts, budget):
    """Each part of a run with its time limit, which is asked for when the part begins."""
    for k, part in enumerate(parts):
        yield part, max(1.0, budget.left() - sum(SURE[later] for later in parts[k + 1 :]))


def command_of(part, limit, costs, output):
    """The command that runs a part.

    Args:
        part: its name.
        limit: in seconds, after which it is killed.
        costs: options of the costs: sizes, rules and turns.
        output: file for the rows of the costs.
    """
    here = Path(__file__).parent
    if part == "tests":
        folders = [*TESTS, *([JOBS] if find_spec("jsonargparse") else [])]
        options = ["-q", "-m", "gpu", "-p", "no:cacheprovider"]
        return [sys.executable, "-m", "pytest", *options, *folders]
    if part == "meta-gradient":
        program = str(here / "meta_gradient.py")
        return [sys.executable, program, "--device", DEVICE, "--quick"]
    command = [sys.executable, str(here / "gpu_costs.py")]
    command += ["--seconds", str(max(0.0, limit - SPARE)), "--output", str(output)]
    for name, values in costs.items():
        command += [f"--{name}", *map(str, values)]
    return command


def main(only, sizes, rules, turns, output):
    if not torch.cuda.is_available():
        sys.exit("gpu.py needs a GPU that torch can use: torch.cuda.is_available() is False")
    budget = TimeBudget(TOTAL)
    device = torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, {device}\n", flush=True)
    options = {"sizes": sizes, "rules": rules, "turns": [turns]}  # of the costs
    done, rows = {}, []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "costs.json"
        for part, limit in limits([part for part in SURE if part in only], budget):
            done[part] = run(command_of(part, limit, options, file), ROOT, limit)
        if file.exists():
            rows = json.loads(file.read_text())
    if output:
        result = {"torch": torch.__version__, "device": device, "done": done, "costs": rows}
        Path(output).write_text(json.dumps(result, indent=1) + "\n")
    print(*(f"{part}: {'done' if fine else 'FAILED'}" for part, fine in done.items()), sep="\n")
    sys.exit(not all(done.values()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=tuple(SURE), choices=tuple(SURE),
                        metavar="PART")  # fmt: skip
    parser.add_argument("--sizes", nargs="+", type=lambda s: int(float(s)), metavar="SIZE",
                        default=SIZES)  # fmt: skip
    parser.add_argument("--rules", nargs="+", default=RULES, choices=RULES, metavar="RULE")
    parser.add_argument("--turns", type=int, default=5, help="measurements of each way")
    parser.add_argument("--output", help="JSON file to write the numbers to")
    main(**vars(parser.parse_args()))
