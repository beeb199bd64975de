"""Draws the gates of a learned optimizer in few-shot runs, side by side.

    python -m meta_train few-shot --row meta-lstm --shots 1 --out one
    python -m meta_train few-shot --row meta-lstm --shots 5 --out five
    python examples/few_shot_gates.py one/initialization.safetensors five/initialization.safetensors

Lines are means over test episodes, sampled coordinates and units; bands reach from the 10% to the
90% quantile.
"""

import argparse

import torch

from learned_opt import load_initialization
from learned_opt.files import expand
from meta_train.few_shot.gate_curves import draw_gate_bands, gate_bands
from meta_train.tasks.episodes.omniglot import OmniglotEpisodes
from meta_train.tasks.episodes.sine import Sine


def make_task(card, shots, folder):
    # The network of the run: another number of filters does not fit its initialisation.
    settings = {**card["episodes_of"], "shots": shots}
    if card["data"] == "sine":
        return f"sine curves, {shots} point" + "s" * (shots > 1), Sine(**settings)
    task = OmniglotEpisodes(**settings, folder=folder)
    return f"Omniglot, {task.ways}-way {shots}-shot", task


def main(files, out, episodes, folder, shots):
    torch.set_num_threads(1)
    columns = {}
    for file in files:
        start = load_initialization(file)
        for count in shots or [start.card["shots"]]:
            title, task = make_task(start.card, count, folder)
            columns[title] = gate_bands(
                start.rule,
                start.parameters,
                task,
                steps=start.steps,
                episodes=episodes,
                lr=start.lr,
            )
    draw_gate_bands(columns).savefig(out)
    print(f"figure: {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=expand, help="initialization.safetensors of runs")
    parser.add_argument("--out", type=expand, default="few_shot_gates.png", help="the figure")
    parser.add_argument("--episodes", type=int, default=20, help="test episodes of each run")
    parser.add_argument(
        "--shots", nargs="+", type=int, help="examples per class (default: as it was trained)"
    )
    parser.add_argument("--folder", type=expand, default=None, help="folder of Omniglot")
    main(**vars(parser.parse_args()))
