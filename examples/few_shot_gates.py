"""Draws the gates of a learned optimizer in few-shot runs, side by side.

    python -m meta_train few-shot --row meta-lstm --shots 1 --out one
    python -m meta_train few-shot --row meta-lstm --shots 5 --out five
    python examples/few_shot_gates.py one/initialization.safetensors five/initialization.safetensors

Lines are means over test episodes, sampled coordinates and units; bands reach from the 10% to the
90% quantile.
"""

import argparse

import torch

from learned_opt.adaptation.initialization import load_initialization
from learned_opt.files import expand
from meta_train.few_shot.gate_curves import draw_gate_bands, gate_bands
from meta_train.tasks.episodes.omniglot import OmniglotEpisodes
from meta_train.tasks.episodes.sine import Sine


def main(files, out, episodes, folder):
    torch.set_num_threads(1)
    columns = {}
    for file in files:
        start = load_initialization(file)
        shots = start.card["shots"]
        if start.card["data"] == "sine":
            task = Sine(shots=shots)
            title = f"sine curves, {shots} point" + "s" * (shots > 1)
        else:
            ways = start.card["ways"]
            task = OmniglotEpisodes(split="test", ways=ways, shots=shots, folder=folder)
            title = f"Omniglot, {ways}-way {shots}-shot"
        columns[title] = gate_bands(
            start.rule, start.parameters, task, steps=start.steps, episodes=episodes, lr=start.lr
        )
    draw_gate_bands(columns).savefig(out)
    print(f"figure: {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=expand, help="initialization.safetensors of runs")
    parser.add_argument("--out", type=expand, default="few_shot_gates.png", help="the figure")
    parser.add_argument("--episodes", type=int, default=20, help="test episodes of each run")
    parser.add_argument("--folder", type=expand, default=None, help="folder of Omniglot")
    main(**vars(parser.parse_args()))
