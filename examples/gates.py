"""Watch the gates of a gated LSTM (Ravi & Larochelle 2017) while it trains a network.

It meta-trains the rule for about half a minute, then watches it train a deeper network:

    python examples/gates.py --out gates.png
    tensorboard --logdir runs/gates
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

from learned_opt import LearnedOptimizer, UpdateRule, create_rule
from learned_opt.monitor import GateMonitor
from meta_train.tasks import create_task
from meta_train.unroll import InnerLoop, stack, start


def meta_train(rule: UpdateRule, outer_steps: int = 100, unroll: int = 40, runs: int = 4) -> None:
    task = create_task("digits-mlp", activation="tanh", batch_size=8)
    outer = torch.optim.Adam(rule.parameters(), lr=0.03)
    generator = torch.Generator().manual_seed(0)
    for _ in range(outer_steps):
        problems = [task.sample(generator, torch.device("cpu")) for _ in range(runs)]
        loop = InnerLoop(rule, problems[0].loss, vectorize=True)
        inner = start(rule, problems, vectorize=True)
        outer.zero_grad()
        total = torch.zeros(())
        for _ in range(unroll):
            inner, losses = loop.step(inner, stack([p.draw(generator) for p in problems]))
            total = total + losses.mean() / unroll
        total.backward()
        nn.utils.clip_grad_norm_(rule.parameters(), 1.0)
        outer.step()


def main(out: str, log_dir: str, steps: int) -> None:
    torch.manual_seed(0)
    rule = create_rule("gated-lstm", hidden_size=0)  # gates as in the paper's equations 3 and 4
    meta_train(rule)
    images, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    images = images.float() / 16
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
    model.append(nn.Linear(32, 10))
    optimizer = LearnedOptimizer(model.named_parameters(), rule=rule)
    with GateMonitor(log_dir, every=1) as monitor:
        monitor.attach(optimizer)
        for _ in range(steps):
            batch = torch.randint(len(images), (8,))
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step(lambda loss=loss: loss)
    monitor.figure(["forget", "input"]).savefig(out)
    accuracy = (model(images).argmax(1) == labels).float().mean()
    print(f"accuracy {accuracy:.2f} after {steps} steps; the figure is {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the gates of a learned optimizer.")
    parser.add_argument("--out", default="gates.png", help="where the figure goes")
    parser.add_argument("--log-dir", default="runs/gates", help="where TensorBoard's events go")
    parser.add_argument("--steps", type=int, default=150, help="steps to watch")
    main(**vars(parser.parse_args()))
