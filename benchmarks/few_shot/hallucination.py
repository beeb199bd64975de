"""Do imagined examples help? Hallucination beside prototypical networks, trained alike.

    python benchmarks/few_shot/hallucination.py --folder DATA  # both trainings, then the table
    python benchmarks/few_shot/hallucination.py  # only write the table again

Both train at 20-way 1-shot with the same settings, seed and number of outer steps, one episode a
step, and keep the weights that are best on the validation alphabets. Both are tested on the same
episodes of the test alphabets, so that the interval of their difference is that of pairs. Results
are in docs/measured/few_shot_hallucination.json, and the table in docs/few_shot.md. A training that
is done in `--runs` is not repeated; one that was interrupted is resumed.
"""

import argparse
import json
from pathlib import Path

import torch
from few_shot_jobs import run_job, write_tables

from learned_opt import load_initialization
from learned_opt.files import expand, write_atomically
from learned_opt.rules import create_rule
from meta_train.evaluation.tables import markdown_table
from meta_train.few_shot.evaluation import evaluate
from meta_train.few_shot.heads.episodes import EmbeddingEpisodes
from meta_train.few_shot.scores import Evaluation
from meta_train.runtime.seeding import derive_seed
from meta_train.tasks.episodes.omniglot import OmniglotEpisodes

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ROOT / "docs" / "measured" / "few_shot_hallucination.json"
DOCUMENT = ROOT / "docs" / "few_shot.md"
METHODS = ("prototypical", "hallucination")
WAYS, SHOTS, QUERIES = 20, 1, 15
TRAIN = {"lr": 0.002, "runs": 1, "validate_every": 250, "checkpoint_every": 500}


def job(name, args):
    """All arguments of a method's training."""
    return {
        "row": name,
        "data": "omniglot",
        "folder": args.folder,
        "ways": WAYS,
        "shots": SHOTS,
        "queries": 5,
        "test_queries": QUERIES,
        "outer_steps": args.outer_steps,
        "max_minutes": 1e6,
        "validate": 100,
        "episodes": args.episodes,
        "train": TRAIN,
        "device": "cpu",
    }


def scores(name, args):
    """The accuracy of a trained method on each test episode."""
    start = load_initialization(args.runs / name / "initialization.safetensors")
    episodes = OmniglotEpisodes(
        ways=WAYS, shots=SHOTS, queries=QUERIES, split="test", folder=str(args.folder)
    )
    return evaluate(
        create_rule("sgd"),
        start.parameters,
        EmbeddingEpisodes(episodes, name),
        steps=(0,),
        episodes=args.episodes,
        seed=derive_seed(0, "test"),
    )


def measure(args):
    """Accuracies of both, and of their difference, with 95% intervals."""
    found = {}
    for name in METHODS:
        run_job(args.runs / name, lambda name=name: job(name, args))
        found[name] = scores(name, args)
    values = [found[name].values for name in METHODS]
    found["difference"] = Evaluation("accuracy", (0,), values[1] - values[0], 0)
    facts = {name: training_facts(args.runs / name / "table.json") for name in METHODS}
    return [
        {"row": name, "accuracy": one.mean(0), "interval": one.interval(0), **facts.get(name, {})}
        for name, one in found.items()
    ]


def training_facts(table):
    """How a training went."""
    ((_, facts),) = json.loads(table.read_text())["rows"].items()
    return {key: facts[key] for key in ("outer_steps", "minutes", "episodes", "validation")}


def hallucination_table(results):
    """The table by the name of its marker.

    Args:
        results: as in docs/measured/few_shot_hallucination.json.
    """
    rows = [
        (
            one["row"],
            f"{100 * one['accuracy']:.1f} ± {100 * one['interval']:.1f}",
            f"{100 * (1 - one['validation']['error']):.1f}" if "validation" in one else "",
            f"{one['outer_steps']:,}" if "outer_steps" in one else "",
            f"{one['minutes']:.1f}" if "minutes" in one else "",
        )
        for one in results
    ]
    heads = ("20-way 1-shot", "accuracy, %", "best validation, %", "outer steps", "minutes")
    return {"hallucination": markdown_table(heads, rows)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=expand, help="folder of the Omniglot archives")
    parser.add_argument("--outer_steps", type=int, default=2000, help="of each training")
    parser.add_argument("--episodes", type=int, default=600, help="test episodes")
    parser.add_argument("--runs", type=expand, default=ROOT / "runs" / "few_shot_hallucination")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.folder is not None:
        results = measure(args)
        write_atomically(MEASURED, (json.dumps(results, indent=1) + "\n").encode())
    write_tables(DOCUMENT, hallucination_table(json.loads(MEASURED.read_text())))
