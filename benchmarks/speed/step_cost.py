"""What does an optimizer step cost, beside torch's fused AdamW?

    python benchmarks/speed/step_cost.py  # models of 1e5, 1e6 and 1e7 parameters
    python benchmarks/speed/step_cost.py --quick  # up to 1e6 parameters, one minute
    python benchmarks/speed/step_cost.py --state  # bytes of state per parameter

Prints a Markdown table: milliseconds per step, the ratio to AdamW, and peak temporary memory, for
each rule and model size.

Each model has the tensors of four transformer blocks (48 tensors) and random gradients. A rule and
`torch.optim.AdamW(fused=True)` take turns on equal parameters, so that other programs slow down
both alike. Times are medians, and the ratio is the median of the turns' ratios. Memory is the peak
that torch's allocator holds above its level before the step.
"""

import argparse
import math
import statistics
import sys

import torch
from measuring import peak_bytes, seconds

from learned_opt import LearnedOptimizer, create_rule, list_rules
from meta_train.evaluation.tables import markdown_table

SIZES = (10**5, 10**6, 10**7)


def make_parameters(size):
    """About `size` parameters with gradients, shaped like four transformer blocks."""
    width = round(math.sqrt(size / 48))
    matrices = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    norms = [(width,)] * 4
    shapes = [shape for matrix in matrices for shape in (matrix, matrix[:1])] + norms
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(0.02 * torch.randn(shape)) for shape in 4 * shapes]
    for parameter in parameters:
        parameter.grad = 0.01 * torch.randn(parameter.shape)
    return parameters


def make_step(optimizer):
    """A function that takes one step, with a loss for the rules that read it."""
    loss = torch.tensor(1.0)
    if isinstance(optimizer, LearnedOptimizer):
        return lambda: optimizer.step(lambda: loss)
    return optimizer.step


def measure(rule_name, size, turns):
    """Milliseconds per step, ratio to AdamW, peak MiB of the rule's step and of AdamW's."""
    rule = create_rule(rule_name).requires_grad_(False)
    parameters = make_parameters(size)
    plan = {"total_steps": 1000} if "total_steps" in rule.read_context() else {}
    learned = make_step(LearnedOptimizer(parameters, rule=rule, **plan))
    fused = make_step(torch.optim.AdamW(make_parameters(size), lr=1e-3, fused=True))
    learned(), fused()  # creates the state
    # One step of a small model is too short to time.
    repeats = max(1, min(20, 10**6 // size))
    pairs = []
    for turn in range(turns):
        times = {}
        for step in (learned, fused) if turn % 2 else (fused, learned):
            times[step] = sum(seconds(step) for _ in range(repeats)) / repeats
        pairs.append((times[learned], times[fused]))
    return (
        1e3 * statistics.median(own for own, _ in pairs),
        statistics.median(own / other for own, other in pairs),
        peak_bytes(learned) / 2**20,
        peak_bytes(fused) / 2**20,
    )


def print_state():
    """Print a table of the bytes of state per parameter."""
    rows = [[name, create_rule(name).state_bytes_per_parameter()] for name in list_rules()]
    print(markdown_table(["rule", "state, bytes per parameter"], rows))


def main(quick, turns, threads, rules, state):
    if state:
        print_state()
        return
    torch.set_num_threads(threads)
    rows = []
    for size in SIZES[:2] if quick else SIZES:
        for name in rules:
            step, ratio, peak, other = measure(name, size, 3 if quick or size > 10**6 else turns)
            cells = f"{step:.2f}", f"{ratio:.1f}", f"{peak:.1f}", f"{other:.1f}"
            rows.append([name, f"{size:.0e}", *cells])
            print(*rows[-1], file=sys.stderr)
    header = ["rule", "parameters", "ms per step", "x AdamW", "peak MiB", "AdamW peak MiB"]
    print(f"Threads: {threads}\n\n{markdown_table(header, rows)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="up to 1e6 parameters, 3 turns")
    parser.add_argument("--state", action="store_true", help="print only the table of state sizes")
    parser.add_argument("--turns", type=int, default=9, help="measurements per rule and size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rules", nargs="+", default=list_rules(), metavar="RULE")
    main(**vars(parser.parse_args()))
