"""What does an optimizer step cost, beside torch's fused AdamW?

    python benchmarks/speed/step_cost.py  # every rule, models of 1e5, 1e6 and 1e7 parameters
    python benchmarks/speed/step_cost.py --quick  # up to 1e6 parameters
    python benchmarks/speed/step_cost.py --rules step-size-lstm --out docs/measured/step_cost.json
    python benchmarks/speed/step_cost.py --without-c --quick --rules lstm  # as if there were no C
    python benchmarks/speed/step_cost.py --state  # bytes of state per parameter

Prints a Markdown table of ratios to AdamW, hot / cold, for each rule by its own code and by each
faster code that it has on this machine, and peak temporary memory at the largest size.

Parameters are one tensor, or the 48 or 96 tensors of transformer blocks; gradients are random. A
rule (or torch's Muon) and `torch.optim.AdamW(fused=True)` take turns on equal parameters, so that
other programs slow down both alike, and processor time of the calling thread is measured. "Hot" is
a step after steps; "cold" comes after a sweep over 192 MiB, and is nearer to training, where a
forward and a backward pass lie between steps. The ratio is the median of the turns' ratios. Memory
is the peak that torch's allocator holds above its level before the step; C code has at most a few
hundred KiB of its own for each thread, which that does not see.
"""

import argparse
import json
import math
import os
import pathlib
import statistics
import sys
import time
from unittest import mock

import torch
from measuring import peak_bytes, processor

from learned_opt import LearnedOptimizer, c_library, create_rule, list_rules
from learned_opt.backends.registry import fused_steps
from meta_train.evaluation.tables import markdown_table

SIZES = (10**5, 10**6, 10**7)
OWN = "the rule's own"
"""What the code of a rule itself is called."""
MUON = "torch.optim.Muon"
"""A peer: torch's Muon for matrices, fused AdamW for vectors."""
SWEPT = 192 << 20
"""Bytes that are written before a cold step."""


def make_parameters(size, many=True):
    """About `size` parameters with gradients, in one tensor or shaped like transformer blocks."""
    blocks = 8 if size >= 10**7 else 4
    width = round(math.sqrt(size / (12 * blocks)))
    matrices = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    norms = [(width,)] * 4
    shapes = [shape for matrix in matrices for shape in (matrix, matrix[:1])] + norms
    torch.manual_seed(0)
    shapes = blocks * shapes if many else [(size,)]
    parameters = [torch.nn.Parameter(0.02 * torch.randn(shape)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = 0.01 * torch.randn(parameter.shape)
    return parameters


def codes(rule):
    """The code that can step a rule here: its own, and by name the classes of faster code."""
    found = {OWN: None}
    for step in fused_steps(rule):
        if not (step.refuses_rule(rule) or step.refuses_parameter(torch.zeros(2))):
            found.setdefault(step.code, type(step))
    return found


def make_muon(size):
    """A function that takes one step of Muon."""
    parameters = make_parameters(size)
    muon = torch.optim.Muon([p for p in parameters if p.dim() == 2])
    adamw = torch.optim.AdamW([p for p in parameters if p.dim() != 2], fused=True)

    def step():
        muon.step()
        adamw.step()

    return step


def make_learned(rule_name, parameters, code):
    """An optimizer of these parameters that this code steps."""
    rule = create_rule(rule_name).requires_grad_(False)
    plan = {"total_steps": 10**6} if "total_steps" in rule.read_context() else {}
    step = codes(rule)[code]
    with mock.patch("learned_opt.optimizer.fused.fused_steps", lambda rule: [step()]):
        return LearnedOptimizer(parameters, rule=rule, fused=step is not None, **plan)


def make_step(rule_name, size, many, code):
    """A function that takes one step, with a loss for the rules that read it."""
    if rule_name == MUON:
        return make_muon(size)
    optimizer = make_learned(rule_name, make_parameters(size, many), code)
    loss = torch.tensor(1.0)
    return lambda: optimizer.step(lambda: loss)


def thread_seconds(function):
    """Processor time of this thread in one call, seconds."""
    begin = time.thread_time()
    function()
    return time.thread_time() - begin


def measure(rule_name, size, turns, many=True, code=OWN):
    """Cost of a step.

    Returns:
        Milliseconds, ratios to AdamW hot and cold, peak MiB of the step and of AdamW's.
    """
    learned = make_step(rule_name, size, many, code)
    fused = torch.optim.AdamW(make_parameters(size, many), lr=1e-3, fused=True).step
    sweep = torch.zeros(SWEPT // 4)
    begin = thread_seconds(learned), thread_seconds(fused)  # creates the state
    # One step of a small model is too short to time.
    repeats = 1 if begin[0] > 1 else max(1, min(30, 3 * 10**6 // size))
    hot, cold = [], []
    for _ in range(1 if begin[0] > 1 else turns):
        times = []
        for step in (fused, learned):
            step()
            times.append(sum(thread_seconds(step) for _ in range(repeats)) / repeats)
        hot.append(times)
        times = []
        for step in (fused, learned):
            sweep.add_(1)
            times.append(thread_seconds(step))
        cold.append(times)
    return (
        1e3 * statistics.median(own for _, own in hot),
        statistics.median(own / other for other, own in hot),
        statistics.median(own / other for other, own in cold),
        peak_bytes(learned) / 2**20,
        peak_bytes(fused) / 2**20,
    )


def print_state():
    """Print a table of the bytes of state per parameter."""
    rows = [[name, create_rule(name).state_bytes_per_parameter()] for name in list_rules()]
    print(markdown_table(["rule", "state, bytes per parameter"], rows))


def table(found):
    """The measurements as a Markdown table: a line for each rule and code."""
    places = [(size, many) for many in (False, True) for size in found["sizes"]]
    titles = [f"{size:.0e}".replace("e+0", "e") + " in one" * (not many) for size, many in places]
    lines = {}
    for row in found["rows"]:
        cell = f"{row['hot']:.3g} / {row['cold']:.3g}"
        line = lines.setdefault((row["rule"], row["code"]), {})
        line[row["size"], row["many"]] = cell
        if row["size"] == max(found["sizes"]):
            line["memory", row["many"]] = f"{row['mib']:.1f}"
    rows = [
        [
            f"`{rule}`",
            code,
            *(line.get(place, "-") for place in places),
            " / ".join(line.get(("memory", many), "-") for many in (False, True)),
        ]
        for (rule, code), line in lines.items()
    ]
    loads = [row["load"] for row in found["rows"]]
    state = (
        f"CPU: {', '.join(sorted({row['cpu'] for row in found['rows']}))}. Threads: "
        f"{found['threads']}. Load of its {found['cores']} cores: {min(loads):.1f} to "
        f"{max(loads):.1f}."
    )
    return f"{markdown_table(['rule', 'code', *titles, 'MiB'], rows)}\n\n{state}"


AIMS = (
    ("step-size-lstm", "torch", ((10**7, False, 13), (10**6, False, 22), (10**5, True, 18))),
    ("step-size-lstm", "C", ((10**7, False, 3), (10**6, False, 5), (10**5, True, 5))),
    ("adam-lstm", "torch", ((10**7, False, 100), (10**6, False, 160))),
    ("adam-lstm", "C", ((10**7, False, 30), (10**6, False, 50))),
    ("lstm", "torch", ((10**6, False, 460),)),
    ("lstm", "C", ((10**6, False, 184),)),
)
"""Ratios to AdamW, hot, that the faster code was written to reach: those of prototypes on another
CPU, and for `lstm` a half and a fifth of what its own code took before."""


def aims(found):
    """What was aimed at, beside what was measured, as a Markdown table."""
    hot = {
        (row["rule"], row["code"], row["size"], row["many"]): row["hot"] for row in found["rows"]
    }
    rows = [
        [
            f"`{rule}`",
            code,
            f"{size:.0e}".replace("e+0", "e") + " in one" * (not many),
            aim,
            f"{hot[rule, code, size, many]:.3g}",
        ]
        for rule, code, places in AIMS
        for size, many, aim in places
    ]
    return markdown_table(["rule", "code", "parameters", "aim", "measured"], rows)


def main(quick, turns, threads, rules, state, without_c, out):
    if state:
        print_state()
        return
    if without_c:
        c_library.FOLDER = pathlib.Path("nowhere")
    torch.set_num_threads(threads)
    sizes = SIZES[:2] if quick else SIZES
    found = {"sizes": sizes, "threads": threads, "cores": os.cpu_count(), "rows": []}
    for name in rules:
        for code in ["torch"] if name == MUON else [OWN] if without_c else codes(create_rule(name)):
            for many in (True,) if name == MUON else (False, True):
                for size in sizes:
                    milliseconds, hot, cold, mib, _ = measure(name, size, turns, many, code)
                    title = f"{code}, no C" if without_c else code
                    row = {"rule": name, "code": title, "size": size, "many": many}
                    row |= {"ms": milliseconds, "hot": hot, "cold": cold, "mib": mib}
                    row |= {"cpu": processor(), "load": round(os.getloadavg()[0], 1)}
                    found["rows"].append(row)
                    print(*row.values(), file=sys.stderr)
    if out:
        if os.path.exists(out):  # keep what was measured of others, in the order of the names
            with open(out) as file:
                kept = json.load(file)
            new = {(row["rule"], row["code"], row["size"], row["many"]) for row in found["rows"]}
            found["sizes"] = sorted({*sizes, *kept["sizes"]})
            found["rows"] += [
                row
                for row in kept["rows"]
                if (row["rule"], row["code"], row["size"], row["many"]) not in new
            ]
            order = [*list_rules(), MUON]
            found["rows"].sort(key=lambda row: (order.index(row["rule"]), row["code"] != OWN))
        with open(out, "w") as file:
            json.dump(found, file, indent=1)
            file.write("\n")
    print(table(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="up to 1e6 parameters")
    parser.add_argument("--state", action="store_true", help="print only the table of state sizes")
    parser.add_argument("--without-c", action="store_true", help="measure as if C were missing")
    parser.add_argument("--turns", type=int, default=7, help="measurements per rule and size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rules", nargs="+", default=[*list_rules(), MUON], metavar="RULE")
    parser.add_argument("--out", help="write into this file, too", metavar="FILE")
    main(**vars(parser.parse_args()))
