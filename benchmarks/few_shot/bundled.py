"""How well do the bundled initialisations of Omniglot classify episodes of other settings?

    python benchmarks/few_shot/bundled.py --folder DATA  # minutes; then writes the table
    python benchmarks/few_shot/bundled.py  # only write the table again

Nothing is trained. Each initialisation is tested as it stands on the test alphabets, at 5 ways and
1 shot, where it was chosen, and at other settings that its network allows: a network with a linear
head has as many outputs as it was trained with, an embedding classifies any number of classes.
Results are in docs/measured/few_shot_bundled.json, and the table in docs/few_shot.md.
"""

import argparse
import json
from pathlib import Path

import torch
from few_shot_jobs import write_tables

from learned_opt import load_initialization
from learned_opt.files import expand, write_atomically
from learned_opt.rules import create_rule
from meta_train.evaluation.tables import markdown_table
from meta_train.few_shot.evaluation import evaluate
from meta_train.few_shot.heads.episodes import EmbeddingEpisodes
from meta_train.runtime.seeding import derive_seed
from meta_train.tasks.episodes.omniglot import OmniglotEpisodes

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ROOT / "docs" / "measured" / "few_shot_bundled.json"
DOCUMENT = ROOT / "docs" / "few_shot.md"
HEADS = {"omniglot-maml": None, "omniglot-prototypical": "prototypical"}
"""Bundled initialisations, and the head that classifies with an embedding."""
SETTINGS = {
    "omniglot-maml": ((5, 1), (5, 5)),
    "omniglot-prototypical": ((5, 1), (5, 5), (20, 1), (20, 5)),
}
QUERIES = 15


def measure(name, ways, shots, folder, episodes):
    """Accuracy of an initialisation, as it stands, on test episodes."""
    start = load_initialization(name)
    task = OmniglotEpisodes(
        ways=ways, shots=shots, queries=QUERIES, split="test", folder=str(folder)
    )
    if HEADS[name] is not None:
        task = EmbeddingEpisodes(task, HEADS[name])
    found = evaluate(
        start.rule or create_rule("sgd"),
        start.parameters,
        task,
        steps=(start.steps,),
        episodes=episodes,
        seed=derive_seed(0, "test"),  # the episodes of `few-shot --seed 0`
        lr=start.lr,
        progress=True,
    )
    return {
        "initialization": name,
        "ways": ways,
        "shots": shots,
        "accuracy": found.mean(start.steps),
        "interval": found.interval(start.steps),
        "episodes": episodes,
        "inner_steps": start.steps,
        "trained_ways": (5 if HEADS[name] is None else 60),
    }


def table(results):
    """A row for each initialisation, a column for each setting."""
    settings = sorted({(one["ways"], one["shots"]) for one in results})
    rows = []
    for name in HEADS:
        own = [one for one in results if one["initialization"] == name]
        cells = {(one["ways"], one["shots"]): one for one in own}
        trained = own[0]["trained_ways"]
        rows.append(
            (f"`{name}`", f"{trained}-way 1-shot", *(percent(cells.get(key)) for key in settings))
        )
    heads = [f"{ways}-way {shots}-shot" for ways, shots in settings]
    return markdown_table(("initialisation", "trained on", *heads), rows)


def percent(result):
    """Accuracy and half its interval; empty where the network does not fit."""
    if result is None:
        return ""
    return f"{100 * result['accuracy']:.1f} ± {100 * result['interval']:.1f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=expand, help="folder of the Omniglot archives")
    parser.add_argument("--episodes", type=int, default=600)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.folder is not None:
        measured = [
            measure(name, *setting, args.folder, args.episodes)
            for name, settings in SETTINGS.items()
            for setting in settings
        ]
        write_atomically(MEASURED, (json.dumps(measured, indent=1) + "\n").encode())
    write_tables(DOCUMENT, {"bundled": table(json.loads(MEASURED.read_text()))})
