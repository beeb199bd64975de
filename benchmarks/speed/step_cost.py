"""What a step costs: time and peak temporary memory of every rule beside a fused AdamW.

    python benchmarks/speed/step_cost.py  # models of 1e5, 1e6 and 1e7 parameters
    python benchmarks/speed/step_cost.py --quick  # without the largest
    python benchmarks/speed/step_cost.py --state  # bytes of state per parameter, from the rules

The models are four transformer blocks each: 48 tensors, from vectors to large matrices, with random
gradients. A rule and `torch.optim.AdamW(fused=True)` take turns on equal parameters; medians are
reported, and the ratio is the median of the turns' ratios, so that a busy machine disturbs both
sides alike. Memory is what the allocator held at most above what it held before the step.
"""

import argparse
import math
import statistics
import time

import torch
from torch.profiler import ProfilerActivity, profile

from learned_opt import LearnedOptimizer, create_rule, list_rules

SIZES = (10**5, 10**6, 10**7)


def make_parameters(size):
    """About `size` parameters in the shapes of four transformer blocks, with gradients."""
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
    """A step as a function, with a loss for the rules that read one."""
    loss = torch.tensor(1.0)
    if isinstance(optimizer, LearnedOptimizer):
        return lambda: optimizer.step(lambda: loss)
    return optimizer.step


def seconds(step):
    """Wall-clock time of one call."""
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def peak_bytes(step):
    """The most memory that one call held at once beyond what was held before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    held = peak = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def measure(rule_name, size, turns):
    """Milliseconds of a step, ratio to AdamW's, peak MiB of a step, and of AdamW's."""
    rule = create_rule(rule_name).requires_grad_(False)
    parameters = make_parameters(size)
    learned = make_step(LearnedOptimizer(parameters, lr=1e-3, rule=rule, total_steps=1000))
    fused = make_step(torch.optim.AdamW(make_parameters(size), lr=1e-3, fused=True))
    learned(), fused()  # makes the state
    # A single small step is too short to time.
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
    """The table of bytes of state per parameter."""
    print("| rule | state, bytes a parameter |")
    print("| --- | ---: |")
    for name in list_rules():
        print(f"| {name} | {create_rule(name).state_bytes_per_parameter()} |")


def main(quick, turns, threads, rules, state):
    if state:
        print_state()
        return
    torch.set_num_threads(threads)
    print(f"Threads: {threads}. AdamW is torch's fused one. Peak: temporary memory of a step.\n")
    print("| rule | parameters | ms a step | x AdamW | peak MiB | AdamW's |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for size in SIZES[:2] if quick else SIZES:
        for name in rules:
            step, ratio, peak, other = measure(name, size, 3 if quick or size > 10**6 else turns)
            row = f"| {name} | {size:.0e} | {step:.2f} | {ratio:.1f} | {peak:.1f} | {other:.1f} |"
            print(row, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure what a step costs.")
    parser.add_argument("--quick", action="store_true", help="small models, few turns")
    parser.add_argument("--state", action="store_true", help="only the table of state sizes")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rules", nargs="+", default=list_rules(), metavar="RULE")
    main(**vars(parser.parse_args()))
