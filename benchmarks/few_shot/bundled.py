"""How well do the bundled initialisations of Omniglot classify episodes of other settings?

    python benchmarks/few_shot/bundled.py --folder DATA  # minutes; then writes the table
    python benchmarks/few_shot/bundled.py --folder DATA --seeds 2  # other test episodes as well
    python benchmarks/few_shot/bundled.py  # only write the table again

Nothing is trained. Each initialisation is tested as it stands on the test alphabets, at 5 ways and
1 shot, where it was chosen, and at other settings that its network allows: a network with a linear
head has as many outputs as it was trained with, an embedding classifies any number of classes.
A seed draws the test episodes; the weights are the same. An embedding is tested on verification
too, at 5 ways and 1 shot. Results are in docs/measured/few_shot_bundled.json, and the table in
docs/few_shot.md.
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
from meta_train.few_shot.verification import verify
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
VERIFIED = (5, 1)
"""Ways and shots of the episodes of verification."""


def measure(name, ways, shots, folder, episodes, seed):
    """An initialisation, as it stands, on the test episodes of a seed."""
    start = load_initialization(name)
    task = OmniglotEpisodes(
        ways=ways, shots=shots, queries=QUERIES, split="test", folder=str(folder)
    )
    if HEADS[name] is not None:
        task = EmbeddingEpisodes(task, HEADS[name])
    drawn = {"episodes": episodes, "seed": derive_seed(seed, "test")}  # of `few-shot --seed SEED`
    found = evaluate(
        start.rule or create_rule("sgd"),
        start.parameters,
        task,
        steps=(start.steps,),
        lr=start.lr,
        progress=True,
        **drawn,
    )
    result = {
        "initialization": name,
        "ways": ways,
        "shots": shots,
        "accuracy": found.mean(start.steps),
        "interval": found.interval(start.steps),
        "episodes": episodes,
        "seed": seed,
        "inner_steps": start.steps,
        "trained_ways": (5 if HEADS[name] is None else 60),
    }
    if HEADS[name] is None or (ways, shots) != VERIFIED:
        return result
    pairs = verify(start.parameters, task, **drawn)
    verified = {"rate": pairs.equal_error_rate, "interval": pairs.interval}
    return {**result, "equal_error": {**verified, "pairs": pairs.same + pairs.different}}


def tables(results):
    """The table by the name of its marker.

    Args:
        results: as in docs/measured/few_shot_bundled.json.
    """
    settings = sorted({(one["ways"], one["shots"]) for one in results})
    rows = []
    for name, seed in sorted({(one["initialization"], one["seed"]) for one in results}):
        own = [one for one in results if (one["initialization"], one["seed"]) == (name, seed)]
        cells = {(one["ways"], one["shots"]): one for one in own}
        accuracies = (shown(cells.get(key), "accuracy") for key in settings)
        verified = shown(cells[VERIFIED].get("equal_error"), "rate")
        trained = f"{own[0]['trained_ways']}-way 1-shot"
        rows.append((f"`{name}`", trained, seed, *accuracies, verified))
    heads = [f"{ways}-way {shots}-shot" for ways, shots in settings]
    heads = ("initialisation", "trained on", "seed of episodes", *heads, "equal error rate")
    return {"bundled": markdown_table(heads, rows)}


def place(result):
    """What a result is of: a later one of the same replaces it."""
    return result["initialization"], result["ways"], result["shots"], result["seed"]


def shown(result, key):
    """A fraction and half its interval, in percent; empty without a result."""
    if result is None:
        return ""
    return f"{100 * result[key]:.1f} ± {100 * result['interval']:.1f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=expand, help="folder of the Omniglot archives")
    parser.add_argument("--initializations", nargs="+", choices=list(HEADS), default=list(HEADS))
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of test episodes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(MEASURED.read_text()) if MEASURED.exists() else []
    if args.folder is not None:
        found = {place(one): one for one in results}
        for seed in args.seeds:
            for name in args.initializations:
                for ways, shots in SETTINGS[name]:
                    one = measure(name, ways, shots, args.folder, args.episodes, seed)
                    found[place(one)] = one
        results = [found[key] for key in sorted(found)]
        write_atomically(MEASURED, (json.dumps(results, indent=1) + "\n").encode())
    write_tables(DOCUMENT, tables(results))
