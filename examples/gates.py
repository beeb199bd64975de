"""Look at the gates of a gated LSTM (Ravi & Larochelle 2017) while it trains a network.

    python examples/gates.py --out gates.png
    tensorboard --logdir runs/gates

It meta-trains the rule on small networks for about half a minute, then trains a deeper network on
digits with it. It draws the forget and input gates of each layer over the steps to gates.png,
writes the same values for TensorBoard, and prints the accuracy.
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

from learned_opt import LearnedOptimizer, UpdateRule, create_rule
from learned_opt.files import expand
from learned_opt.monitoring.monitor import GateMonitor
from meta_train import MetaTrainer, TrainSettings, create_task
from meta_train.runtime.device import choose_device


def meta_train(rule: UpdateRule, device: str) -> UpdateRule:
    task = create_task("digits-mlp", activation="tanh", batch_size=8)
    settings = TrainSettings(
        outer_steps=100,
        horizons=(40,),
        truncation_length=40,
        objective="sum",
        param_rescale_range=0.0,
        lr=0.03,
    )
    return MetaTrainer(rule, task, settings, device=device).train(progress=False)


def main(out: Path, log_dir: str, steps: int, device: str) -> None:
    torch.set_num_threads(1)  # faster for models as small as these
    torch.manual_seed(0)
    rule = create_rule("gated-lstm", hidden_size=0)  # the paper's equations 3 and 4
    rule = meta_train(rule, device)
    device = choose_device(device)
    images, labels = (torch.from_numpy(x).to(device) for x in load_digits(return_X_y=True))
    images = images.float() / 16
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
    model.append(nn.Linear(32, 10)).to(device)
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
    print(f"accuracy {accuracy:.2f} after {steps} steps; figure: {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=expand, default="gates.png", help="file of the figure")
    parser.add_argument("--log-dir", default="runs/gates", help="folder for TensorBoard")
    parser.add_argument("--steps", type=int, default=150, help="training steps to record")
    parser.add_argument("--device", default="auto", help="auto is the GPU if there is one")
    main(**vars(parser.parse_args()))
