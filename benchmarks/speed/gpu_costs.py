"""Costs of steps on a GPU beside `torch.optim.AdamW(fused=True)`; `gpu.py` runs this.

    python benchmarks/speed/gpu_costs.py --sizes 1e7 --seconds 120

Each rule by its own code, by Triton, and by Triton in a CUDA graph, takes turns with fused AdamW,
also in a graph, on equal parameters: 48 tensors, shaped like four transformer blocks, and one
tensor of 1e7. Prints a Markdown table: microseconds of wall-clock time a step (many steps, then one
wait), the ratio to AdamW's of the same kind, and peak MiB of temporary memory. Times are medians
over turns, the ratio is the median of ratios.

A turn that does not fit in the seconds that are left is not begun. A case with at least one turn
gives its rows; if other turns or cases are missing, the status is 1.
"""

import argparse
import json
import math
import statistics
import sys
from pathlib import Path

import torch
from measuring import peak_bytes, seconds
from time_budget import OutOfTime, TimeBudget

from learned_opt import LearnedOptimizer, create_rule

DEVICE = "cuda"
RULES = ("orthogonal-momentum", "step-size-lstm", "adam-lstm")
SIZES = (10**5, 10**6, 10**7, 10**8)


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


def make_ways(name, size, single, budget):
    """The ways to take the rule's step, by name, beside AdamW.

    Raises:
        OutOfTime: the time ended between two of them; kernels are compiled here.
    """
    makers = {
        "AdamW": lambda: adamw_step(size, single),
        "AdamW, graph": lambda: graphed(adamw_step(size, single)),
        "by the rule": lambda: learned_step(name, False, size, single),
        "Triton": lambda: learned_step(name, True, size, single),
        "Triton, graph": lambda: graphed(learned_step(name, True, size, single)),
    }
    if size > 10**7:  # adam-lstm would take seconds a step
        del makers["by the rule"]
    ways = {}
    for way, make in makers.items():
        budget.need()
        ways[way] = make()
    return ways


def take_turns(ways, turns, budget):
    """Seconds a step of each way, one number for each turn that fits in the time.

    Raises:
        OutOfTime: not even one turn fits.
    """
    repeats, turn_seconds = {}, 0.0
    for way, step in ways.items():
        budget.need()
        once = seconds(step, DEVICE)
        budget.need(once)
        once = max(once, seconds(step, DEVICE))
        repeats[way] = max(3, min(200, int(0.05 / once)))
        turn_seconds += repeats[way] * once
    times = {way: [] for way in ways}
    for turn in range(turns):
        if turn and budget.left() <= turn_seconds:
            break
        budget.need(turn_seconds)
        begin = budget.left()
        for way, step in ways.items():

            def many(step=step, count=repeats[way]):
                for _ in range(count):
                    step()

            times[way].append(seconds(many, DEVICE) / repeats[way])
        turn_seconds = max(turn_seconds, begin - budget.left())
    return times


def cost_rows(name, size, single, turns, budget):
    """A row of the table for each way to take the rule's step."""
    ways = make_ways(name, size, single, budget)
    times = take_turns(ways, turns, budget)
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
                "turns": len(other),
                "microseconds": 1e6 * statistics.median(times[way]),
                "to_adamw": ratio,
                "peak_mib": None if "graph" in way else peak_bytes(step, DEVICE) / 2**20,
            }
        )
    return rows


def costs(sizes, rules, turns, budget):
    """The rows of the table, case by case, each with whether all turns were taken."""
    for size, single in [(size, False) for size in sizes] + [(10**7, True)]:
        for name in rules:
            rows = cost_rows(name, size, single, turns, budget)
            yield rows, all(row["turns"] == turns for row in rows)
            torch.cuda.empty_cache()


def main(sizes, rules, turns, limit, output):
    torch.manual_seed(0)
    print("| rule | parameters | tensors | way | us a step | x AdamW | peak MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    every, complete = [], True
    try:
        for rows, whole in costs(sizes, rules, turns, TimeBudget(limit)):
            complete &= whole
            for row in rows:
                peak = "" if row["peak_mib"] is None else f"{row['peak_mib']:.1f}"
                cells = [row["rule"], f"{row['parameters']:.0e}", row["tensors"], row["way"]]
                cells += [f"{row['microseconds']:.1f}", f"{row['to_adamw']:.2f}", peak]
                print("|", " | ".join(map(str, cells)), "|", flush=True)
            every += rows
            if output:  # after each case: the next may be killed
                Path(output).write_text(json.dumps(every, indent=1) + "\n")
    except OutOfTime as error:
        print(f"stopped: {error}", flush=True)
        complete = False
    sys.exit(not complete)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=lambda s: int(float(s)), metavar="SIZE",
                        default=SIZES)  # fmt: skip
    parser.add_argument("--rules", nargs="+", default=RULES, choices=RULES, metavar="RULE")
    parser.add_argument("--turns", type=int, default=5, help="measurements of each way")
    parser.add_argument("--seconds", type=float, default=math.inf, dest="limit", metavar="LIMIT")
    parser.add_argument("--output", help="JSON file to write the numbers to")
    main(**vars(parser.parse_args()))
