"""All that needs a GPU, in one run of under ten minutes: tests, costs of steps, a meta-gradient.

    python benchmarks/speed/gpu.py --output gpu.json
    python benchmarks/speed/gpu.py --only costs --sizes 1e7

Needs torch with CUDA, Triton and pytest; the meta-gradient needs the extra `meta`. Runs:

1. `pytest -m gpu`: kernels against the rules, no waiting for the GPU, capture in a CUDA graph.
2. Costs: each rule by its own code, by Triton, and by Triton in a CUDA graph, take turns with
   `torch.optim.AdamW(fused=True)`, also in a graph, on equal parameters: 48 tensors, shaped like
   four transformer blocks, and one tensor of 1e7. Prints a Markdown table: microseconds of
   wall-clock time a step (many steps, then one wait), the ratio to AdamW's of the same kind, and
   peak MiB of temporary memory. Times are medians over turns, the ratio is the median of ratios.
3. `meta_gradient.py --device cuda --quick`.

Each part has a time limit and the next begins in any case. The status is 1 if one failed.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from measuring import peak_bytes, seconds

from learned_opt import LearnedOptimizer, create_rule

DEVICE = "cuda"
ROOT = Path(__file__).parents[2]
TESTS = ("tests/backends", "tests/conformance", "tests/optimizer")
RULES = ("orthogonal-momentum", "step-size-lstm", "adam-lstm")
PARTS = ("tests", "costs", "meta-gradient")


def run(command, limit):
    """Run a program with its output shown; say whether it succeeded within the time limit."""
    print("$", *command, flush=True)
    try:
        return subprocess.run(command, cwd=ROOT, timeout=limit).returncode == 0
    except subprocess.TimeoutExpired:
        print(f"stopped after {limit} seconds", flush=True)
        return False


def shapes_of(size, single):
    """Shapes of about `size` parameters: of four transformer blocks, or of a single matrix."""
    if single:
        return [(size // 1000, 1000)]
    width = round(math.sqrt(size / 48))
    matrices = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    biases = [matrix[:1] for matrix in matrices]
    return 4 * (matrices + biases + 4 * [(width,)])


def make_parameters(size, single):
    """Parameters with gradients on the GPU."""
    parameters = []
    for shape in shapes_of(size, single):
        parameter = torch.nn.Parameter(0.02 * torch.randn(shape, device=DEVICE))
        parameter.grad = 0.01 * torch.randn(shape, device=DEVICE)
        parameters.append(parameter)
    return parameters


def graphed(step):
    """A function that replays a step from a CUDA graph."""
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def learned_step(name, fused, size, single):
    """A step of a rule, with its first steps taken."""
    rule = create_rule(name).requires_grad_(False).to(DEVICE)
    plan = {"total_steps": 10**6} if "total_steps" in rule.required_context() else {}
    parameters = make_parameters(size, single)
    optimizer = LearnedOptimizer(parameters, rule=rule, fused=fused, **plan)
    loss = torch.tensor(1.0, device=DEVICE)

    def step():
        return optimizer.step(lambda: loss)

    for _ in range(2):
        step()
    return step


def adamw_step(size, single):
    """A step of torch's fused AdamW, with its first steps taken."""
    options = {"lr": 1e-3, "fused": True, "capturable": True}
    step = torch.optim.AdamW(make_parameters(size, single), **options).step
    for _ in range(2):
        step()
    return step


def cost_rows(name, size, single, turns):
    """A row of the table for each way to take the rule's step."""
    adamw = adamw_step(size, single)
    ways = {"AdamW": adamw, "AdamW, graph": graphed(adamw)}
    if size <= 10**7:  # adam-lstm would take seconds a step
        ways["by the rule"] = learned_step(name, False, size, single)
    ways["Triton"] = learned_step(name, True, size, single)
    ways["Triton, graph"] = graphed(learned_step(name, True, size, single))
    repeats = {}
    for way, step in ways.items():
        once = max(seconds(step, DEVICE), seconds(step, DEVICE))
        repeats[way] = max(3, min(200, int(0.05 / once)))
    times = {way: [] for way in ways}
    for _ in range(turns):
        for way, step in ways.items():

            def many(step=step, count=repeats[way]):
                for _ in range(count):
                    step()

            times[way].append(seconds(many, DEVICE) / repeats[way])
    rows = []
    for way, step in ways.items():
        other = times["AdamW, graph" if "graph" in way else "AdamW"]
        ratio = statistics.median(a / b for a, b in zip(times[way], other, strict=True))
        rows.append(
            {
                "rule": name,
                "parameters": size,
                "tensors": 1 if single else 48,
                "way": way,
                "microseconds": 1e6 * statistics.median(times[way]),
                "to_adamw": ratio,
                "peak_mib": None if "graph" in way else peak_bytes(step, DEVICE) / 2**20,
            }
        )
    return rows


def costs(sizes, rules, turns, limit):
    """Print the table of costs row by row; stop where the time limit is over."""
    print("| rule | parameters | tensors | way | us a step | x AdamW | peak MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    rows, begin = [], time.perf_counter()
    cases = [(size, False) for size in sizes] + [(10**7, True)]
    for size, single in cases:
        for name in rules:
            if time.perf_counter() - begin > limit:
                print(f"stopped after {limit} seconds", flush=True)
                return rows, False
            for row in cost_rows(name, size, single, turns):
                peak = "" if row["peak_mib"] is None else f"{row['peak_mib']:.1f}"
                cells = [name, f"{size:.0e}", row["tensors"], row["way"]]
                cells += [f"{row['microseconds']:.1f}", f"{row['to_adamw']:.2f}", peak]
                print("|", " | ".join(map(str, cells)), "|", flush=True)
                rows.append(row)
            torch.cuda.empty_cache()
    return rows, True


def main(only, sizes, rules, turns, output):
    if not torch.cuda.is_available():
        sys.exit("gpu.py needs a GPU that torch can use: torch.cuda.is_available() is False")
    torch.manual_seed(0)
    device = torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, {device}\n", flush=True)
    done, rows = {}, []
    if "tests" in only:
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
        done["tests"] = run([*command, *TESTS], 240)
    if "costs" in only:
        rows, done["costs"] = costs(sizes, rules, turns, 200)
    if "meta-gradient" in only:
        program = str(Path(__file__).with_name("meta_gradient.py"))
        command = [sys.executable, program, "--device", DEVICE, "--quick"]
        done["meta-gradient"] = run(command, 120)
    if output:
        result = {"torch": torch.__version__, "device": device, "done": done, "costs": rows}
        Path(output).write_text(json.dumps(result, indent=1) + "\n")
    print(*(f"{part}: {'done' if fine else 'FAILED'}" for part, fine in done.items()), sep="\n")
    sys.exit(not all(done.values()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=PARTS, choices=PARTS, metavar="PART")
    parser.add_argument("--sizes", nargs="+", type=lambda s: int(float(s)), metavar="SIZE",
                        default=[10**5, 10**6, 10**7, 10**8])  # fmt: skip
    parser.add_argument("--rules", nargs="+", default=RULES, choices=RULES, metavar="RULE")
    parser.add_argument("--turns", type=int, default=5, help="measurements of each way")
    parser.add_argument("--output", help="JSON file to write the numbers to")
    main(**vars(parser.parse_args()))
