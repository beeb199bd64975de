"""How fast is one meta-gradient, and how much memory does it take, beside `higher` and TorchOpt?

    python benchmarks/speed/meta_gradient.py  # compiles for half a minute
    python benchmarks/speed/meta_gradient.py --quick  # few turns, nothing compiled

Prints a Markdown table: milliseconds, speed relative to `higher`, and peak memory, for each library
and case. The cases are:

- lstm: two LSTM layers of 20 units train an MLP with 15,910 parameters for 20 steps, first order.
  The other libraries use torch's LSTMCell; `higher` also runs our rule through
  `learned_opt.differentiable`.
- sine: MAML on an MLP 1-40-40-1, 25 tasks, 10 shots, 1 inner step, second order.
- conv4: MAML on 4 strided convolutions of 64 channels with batch norm, 8 tasks, 5-way 1-shot, 5
  inner steps, second order, with `--queries` (1) query images per class.

The program checks that all libraries compute the same gradient. They take turns; times and ratios
are medians over turns. Time is processor time with one CPU thread, else wall-clock time. Memory is
the peak that torch's allocator holds above its level before.
"""

import argparse
import json
import statistics
import sys
from dataclasses import replace

import higher
import torch
from measuring import peak_bytes, seconds
from plain_lstm import PlainLSTM, PlainOptimizer
from torch import nn
from torch.func import functional_call, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

import learned_opt.differentiable  # noqa: F401
from learned_opt import LearnedOptimizer, create_rule
from meta_train.estimators.base import MetaObjective
from meta_train.estimators.differentiate import differentiate
from meta_train.estimators.objectives import OBJECTIVES, meta_loss
from meta_train.evaluation.tables import markdown_table
from meta_train.inner.batches import BatchStream, InnerData
from meta_train.inner.loop import InnerLoop
from meta_train.inner.state import stack, start
from meta_train.inner.vectorize import choose_vectorize
from meta_train.tasks import Problem
from meta_train.tasks.base import BatchedLoss
from meta_train.tasks.episodes.conv_network import networks_of

try:
    import torchopt
except ImportError:
    torchopt = None

STEPS = 20


class Batches(BatchStream):
    """A stream of given batches."""

    def __init__(self, batches):
        self.batches, self.place = batches, 0

    def next(self):
        """See `BatchStream`."""
        self.place += 1
        return self.batches[self.place - 1]

    def mark(self):
        """See `BatchStream`."""
        return self.place

    def rewind(self, mark):
        """See `BatchStream`."""
        self.place = mark


def problem_of(model, criterion, batch):
    def loss(parameters, buffers, batch):
        return criterion(functional_call(model, parameters, (batch[0],)), batch[1]), buffers

    networks = networks_of(model)

    def losses(parameters, buffers, batch):
        return vmap(criterion)(networks(parameters, batch[0]), batch[1]), buffers

    values = {key: value.detach() for key, value in model.named_parameters()}
    stacked = {key: value.unsqueeze(0) for key, value in values.items()}
    if networks is not None and networks.fits(stacked, batch[0].unsqueeze(0)):
        loss = BatchedLoss(loss, losses)  # as episodes of conv4 have it
    return Problem(values, {}, loss, lambda _: batch, lambda: batch)


def lstm_case(device):
    """By library: a function that differentiates the mean of 20 losses by the rule's weights."""
    model = nn.Sequential(nn.Linear(784, 20), nn.Sigmoid(), nn.Linear(20, 10)).to(device)
    batches = [
        (torch.randn(128, 784, device=device), torch.randint(10, (128,), device=device))
        for _ in range(STEPS + 1)
    ]
    rule = create_rule("lstm").to(device)
    plain = PlainLSTM(rule).to(device)
    weights = list(rule.parameters())
    plain_weights = [p for _, p in plain.named_weights()]
    problem = problem_of(model, F.cross_entropy, batches[0])
    meta_objective = MetaObjective(OBJECTIVES["sum"])

    def ours():
        loop = InnerLoop(rule, problem.loss, vectorize=False)
        inner = start(rule, [problem], vectorize=False)
        data = InnerData(Batches(batches), None, 0)
        return differentiate(loop, inner, data, STEPS, meta_objective, weights).gradients

    def unroll(step, forward):
        losses = [F.cross_entropy(forward(batches[0][0]), batches[0][1])]
        for inputs, targets in batches[1:]:
            step(losses[-1])
            losses.append(F.cross_entropy(forward(inputs), targets))
        return torch.stack(losses[1:]).mean()

    def with_higher(optimizer, wanted):
        with higher.innerloop_ctx(model, optimizer) as (fast, inner):
            return torch.autograd.grad(unroll(inner.step, fast), wanted)

    def plain_higher():
        optimizer = PlainOptimizer(model.parameters(), 1.0)
        optimizer.network = plain
        return plain.in_our_order(with_higher(optimizer, plain_weights))

    def plain_torchopt():
        def update(gradients, state, *, params=None, inplace=True):
            leaves, treedef = torchopt.pytree.tree_flatten(gradients)
            deltas, state = plain(leaves, state)
            return torchopt.pytree.tree_unflatten(treedef, deltas), state

        impl = torchopt.base.GradientTransformation(lambda params: None, update)
        kept = torchopt.extract_state_dict(model, by="reference")
        total = unroll(torchopt.MetaOptimizer(model, impl).step, model)
        torchopt.recover_state_dict(model, kept)
        return plain.in_our_order(torch.autograd.grad(total, plain_weights))

    return {
        "higher": plain_higher,
        "ours": ours,
        "higher, our rule": lambda: with_higher(
            LearnedOptimizer(model.parameters(), rule=rule), weights
        ),
        "torchopt": plain_torchopt,
    }


def maml_case(model, criterion, tasks, lr, steps, compiled):
    """By library: a function that differentiates the mean query loss by the initialisation."""
    device = next(model.parameters()).device
    supports, queries = (stack(half) for half in zip(*tasks, strict=True))
    count, rule = len(tasks), create_rule("sgd").to(device)
    problem = problem_of(model, criterion, tasks[0][0])
    names, phi = list(problem.parameters), list(model.parameters())
    blank = start(rule, [problem] * count, vectorize=True)

    def at_once(values, supports, queries, traceable=False):
        loop = InnerLoop(rule, problem.loss, True, lr=lr, second_order=True, traceable=traceable)
        stacked = {n: v.expand(count, *v.shape) for n, v in zip(names, values, strict=True)}
        inner = replace(blank, parameters=stacked)
        for _ in range(steps):
            inner, _ = loop.step(inner, supports)
        inner, losses = replace(loop, second_order=False).loss_at(inner, queries)
        value = meta_loss(losses.unsqueeze(0), inner.alive, OBJECTIVES["last"])
        return torch.autograd.grad(value, values)

    def take_gradients():
        gradients = [value.grad for value in phi]
        model.zero_grad()
        return gradients

    def with_higher():
        optimizer = torch.optim.SGD(model.parameters(), lr)
        for support, query in tasks:
            with higher.innerloop_ctx(model, optimizer, copy_initial_weights=False) as (
                fast,
                inner,
            ):
                for _ in range(steps):
                    inner.step(criterion(fast(support[0]), support[1]))
                (criterion(fast(query[0]), query[1]) / count).backward()
        return take_gradients()

    def with_torchopt():
        inner = torchopt.MetaSGD(model, lr=lr)
        kept = [torchopt.extract_state_dict(part, by="reference") for part in (model, inner)]
        for support, query in tasks:
            for _ in range(steps):
                inner.step(criterion(model(support[0]), support[1]))
            (criterion(model(query[0]), query[1]) / count).backward()
            torchopt.recover_state_dict(model, kept[0])
            torchopt.recover_state_dict(inner, kept[1])
        return take_gradients()

    print(choose_vectorize(rule, problem, count, device).reason, file=sys.stderr)
    functions = {
        "higher": with_higher,
        "ours": lambda: at_once(phi, supports, queries),
        "torchopt": with_torchopt,
    }
    if compiled:
        values = [value.detach() for value in phi]

        def whole(values, supports, queries):
            values = [value.detach().requires_grad_() for value in values]
            return at_once(values, supports, queries, traceable=True)

        graph = torch.compile(make_fx(whole)(values, supports, queries))
        with torch.no_grad():
            took = seconds(lambda: graph(values, supports, queries))
        print(f"compiling took {took:.0f} s", file=sys.stderr)
        functions["ours, compiled"] = torch.no_grad()(lambda: graph(values, supports, queries))
    return functions


def sine_case(device, compiled):
    layers = [nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)]
    tasks = []
    for _ in range(25):
        amplitude, phase = 0.1 + 4.9 * torch.rand(()), torch.pi * torch.rand(())
        x = 10 * torch.rand(2, 10, 1) - 5
        y = amplitude * torch.sin(x - phase)
        tasks.append([(x[k].to(device), y[k].to(device)) for k in range(2)])
    return maml_case(nn.Sequential(*layers).to(device), F.mse_loss, tasks, 0.01, 1, compiled)


def conv4_case(device, queries):
    layers = []
    for inputs in (1, 64, 64, 64):
        norm = nn.BatchNorm2d(64, track_running_stats=False)
        layers += [nn.Conv2d(inputs, 64, 3, 2, 1, bias=False), norm, nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 5)).to(device)
    labels = torch.arange(5, device=device)
    tasks = [
        [
            (torch.rand(5 * n, 1, 28, 28, device=device), labels.repeat_interleave(n))
            for n in (1, queries)
        ]
        for _ in range(8)
    ]
    return maml_case(model, F.cross_entropy, tasks, 0.4, 5, False)


def measure(case, functions, turns, device):
    """One row per library: milliseconds, speed relative to higher, peak MiB."""
    if torchopt is None:
        del functions["torchopt"]
    reference = [value.detach().clone() for value in functions["higher"]()]
    for name, function in functions.items():
        for own, other in zip(function(), reference, strict=True):
            close = (own - other).abs().max() <= 1e-3 * other.abs().max()
            if not close:
                raise SystemExit(f"{case}: the gradient of {name} is not that of higher")
    times = {name: [] for name in functions}
    one_thread = device.type == "cpu" and torch.get_num_threads() == 1
    for turn in range(turns):
        for name in list(functions)[:: 1 if turn % 2 else -1]:
            times[name].append(seconds(functions[name], device, processor=one_thread))
    rows = []
    for name, function in functions.items():
        ratios = [a / b for a, b in zip(times["higher"], times[name], strict=True)]
        row = {
            "case": case,
            "library": name,
            "ms": 1e3 * statistics.median(times[name]),
            "x_higher": statistics.median(ratios),
            "peak_mib": peak_bytes(function, device) / 2**20,
        }
        rows.append(row)
        print(row, file=sys.stderr)
    return rows


def main(cases, quick, turns, threads, device, queries, output):
    torch.set_num_threads(threads)
    device = torch.device(device)
    makers = {
        "lstm": lambda: lstm_case(device),
        "sine": lambda: sine_case(device, compiled=not quick),
        "conv4": lambda: conv4_case(device, queries),
    }
    rows = []
    for case in cases:
        torch.manual_seed(0)
        rows += measure(case, makers[case](), 3 if quick else turns, device)
    print(f"torch {torch.__version__}, {device}, threads: {threads}\n")
    cells = [
        [
            row["case"],
            row["library"],
            *(f"{row[key]:.2f}" for key in ("ms", "x_higher", "peak_mib")),
        ]
        for row in rows
    ]
    header = ["case", "library", "ms", "x as fast as higher", "peak MiB"]
    print(markdown_table(header, cells, align="<<>>>"))
    if output:
        with open(output, "w") as file:
            json.dump({"torch": torch.__version__, "device": str(device), "rows": rows}, file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=["lstm", "sine", "conv4"], metavar="CASE")
    parser.add_argument("--quick", action="store_true", help="few turns, nothing compiled")
    parser.add_argument("--turns", type=int, default=9, help="measurements of each library")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--queries", type=int, default=1, help="query images per class in conv4")
    parser.add_argument("--output", help="JSON file to write the numbers to")
    main(**vars(parser.parse_args()))
