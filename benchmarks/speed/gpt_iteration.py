"""What share of a training iteration does the optimizer's step take?

    python benchmarks/speed/gpt_iteration.py --out docs/measured/gpt_iteration.json  # a minute
    python benchmarks/speed/gpt_iteration.py --optimizers adam-lstm --turns 3

A GPT of a million parameters (5 blocks, width 128) learns from batches of 1,536 random tokens.
Each optimizer trains a model of its own. In each turn every one of them takes one iteration, so
that other programs slow down all alike: forward and backward pass, and then the step, are timed as
processor time of the calling thread. So a step comes after the passes, as in training. What is
shown are the medians over the turns, after three that do not count.
"""

import argparse
import json
import statistics
import sys

import torch
from step_cost import codes, make_learned, thread_seconds
from torch.nn import functional as F

from learned_opt import create_rule
from meta_train.evaluation.benchmark.contestants.peers import Muon
from meta_train.evaluation.benchmark.tasks.models import GPT
from meta_train.evaluation.tables import markdown_table

RULES = ("orthogonal-momentum", "step-size-lstm", "lstm", "adam-lstm")
ADAMW, MUON = "AdamW", "Muon"
BATCH, LENGTH, SYMBOLS = 12, 128, 97
WARM_UP = 3
"""Turns that do not count: the state is made, and memory is found."""


def make_model():
    """A GPT of a million parameters, the same each time."""
    torch.manual_seed(0)
    return GPT(SYMBOLS, LENGTH, width=128, layers=5, heads=4)


def make_optimizer(name, code, model):
    """An optimizer of the model's parameters."""
    if name == ADAMW:
        return torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    if name == MUON:
        hidden = [p for p in model.blocks.parameters() if p.dim() == 2]
        known = {id(p) for p in hidden}
        rest = [p for p in model.parameters() if id(p) not in known]
        return Muon(hidden, rest, lr=0.02, adam_lr=1e-3)
    return make_learned(name, list(model.parameters()), code)


def contestants(names):
    """Names of optimizers, each with the code that steps it."""
    found = []
    for name in names:
        if name in (ADAMW, MUON):
            found.append((name, "fused" if name == ADAMW else "torch"))
        else:
            found += [(name, code) for code in codes(create_rule(name))]
    return found


class Trainer:
    """Trains a model of its own with one optimizer, and times each iteration.

    Attributes:
        passes: seconds of the forward and backward pass of each iteration.
        steps: seconds of the step of each.
    """

    def __init__(self, name, code):
        self.model = make_model()
        self.optimizer = make_optimizer(name, code, self.model)
        self.passes, self.steps = [], []

    def iterate(self, symbols, following):
        """Take one iteration on a batch of symbols and those that follow them, `[B, T]`."""
        self.optimizer.zero_grad()
        found = []

        def forward_and_backward():
            logits = self.model(symbols)
            loss = F.cross_entropy(logits.flatten(0, 1), following.flatten())
            loss.backward()
            found.append(loss.detach())

        self.passes.append(thread_seconds(forward_and_backward))
        # The loss is for the rules that read it.
        self.steps.append(thread_seconds(lambda: self.optimizer.step(lambda: found[0])))


def measure(names, turns):
    """Rows of the table: for each optimizer and code the median milliseconds of passes and step.

    The share is the median of the shares, each of one iteration.
    """
    trainers = {key: Trainer(*key) for key in contestants(names)}
    generator = torch.Generator().manual_seed(0)
    for _ in range(WARM_UP + turns):
        text = torch.randint(SYMBOLS, (BATCH, LENGTH + 1), generator=generator)
        for trainer in trainers.values():
            trainer.iterate(text[:, :-1], text[:, 1:])
    rows = []
    for (name, code), trainer in trainers.items():
        passes, steps = trainer.passes[WARM_UP:], trainer.steps[WARM_UP:]
        shares = [step / both for step, both in zip(steps, passes, strict=True)]
        row = {"optimizer": name, "code": code, "passes_ms": 1e3 * statistics.median(passes)}
        row |= {"step_ms": 1e3 * statistics.median(steps), "share": statistics.median(shares)}
        rows.append(row)
    return rows


def table(found):
    """The measurements as a Markdown table: a line for each optimizer and code."""
    rows = [
        [
            row["optimizer"] if row["optimizer"] in (ADAMW, MUON) else f"`{row['optimizer']}`",
            row["code"],
            f"{row['passes_ms']:.0f}",
            f"{row['step_ms']:.3g}",
            f"{100 * row['share']:.2g}%" if row["share"] < 0.1 else f"{100 * row['share']:.0f}%",
        ]
        for row in found["rows"]
    ]
    header = ["optimizer", "code", "forward and backward, ms", "step, ms", "share"]
    return markdown_table(header, rows)


def main(optimizers, turns, threads, out):
    torch.set_num_threads(threads)
    size = sum(p.numel() for p in make_model().parameters())
    found = {"parameters": size, "tokens": BATCH * LENGTH, "threads": threads, "turns": turns}
    found["rows"] = measure(optimizers, turns)
    if out:
        with open(out, "w") as file:
            json.dump(found, file, indent=1)
            file.write("\n")
    print(f"{size:,} parameters, {BATCH * LENGTH:,} tokens, threads: {threads}\n", file=sys.stderr)
    print(table(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--optimizers", nargs="+", default=[ADAMW, MUON, *RULES], metavar="NAME")
    parser.add_argument("--turns", type=int, default=15, help="iterations of each that count")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", help="write into this file, too", metavar="FILE")
    main(**vars(parser.parse_args()))
