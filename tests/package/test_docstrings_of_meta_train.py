"""The examples in docstrings of meta_train run, and give the values that they show.

They are shortened, and get the names that their reader has at hand, such as a task.
"""

import dataclasses
import doctest
import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

import learned_opt
import meta_train
from meta_train.few_shot.evaluation import evaluate
from meta_train.few_shot.heads.episodes import EmbeddingEpisodes
from meta_train.few_shot.readers.evaluation import evaluate_by_instance
from meta_train.few_shot.scores import Evaluation
from meta_train.few_shot.settings import FewShotConfig
from meta_train.few_shot.training import make_trainer
from meta_train.few_shot.verification import Verification, verify
from meta_train.tasks import Quadratic
from meta_train.tasks.episodes.signals import SignalEpisodes
from meta_train.tasks.episodes.sine import Sine

SHORTER = {
    "outer_steps=100": "outer_steps=2",
    "episodes=100": "episodes=2",
    "seeds=range(8)": "seeds=range(1)",
    "steps=100, patience=200": "steps=2, patience=2",
    'FewShotConfig(row="anil", data="omniglot", ways=5, shots=1': (
        'FewShotConfig(row="anil", data="signals", ways=5, shots=1'
    ),
    "FewShotConfig()": "FewShotConfig(outer_steps=2)",
    "OmniglotEpisodes(": "SignalEpisodes(",
    "verify(learned.parameters, EmbeddingEpisodes(": "verify({}, EmbeddingEpisodes(",
}
"""Replacements: fewer steps, and data that no download is needed for."""

NEEDS_FILES = ("MarginClasses", "read_mini_imagenet", "MiniImageNetEpisodes")
"""Examples that read data sets which do not ship."""


def examples():
    folder = Path(meta_train.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        if ">>> " in path.read_text() and path.parent != folder:
            parts = path.relative_to(folder.parent).with_suffix("").parts
            name = ".".join(parts).removesuffix(".__init__")
            finder = doctest.DocTestFinder(exclude_empty=True)
            yield from (t for t in finder.find(importlib.import_module(name), name) if t.examples)


EXAMPLES = {test.name: test for test in examples()}


@pytest.fixture
def names():
    """What the examples take for granted."""
    torch.manual_seed(0)
    task = Quadratic(dimensions=3)
    return {
        **{name: getattr(learned_opt, name) for name in learned_opt.__all__},
        **{name: getattr(meta_train, name) for name in meta_train.__all__},
        **{"torch": torch, "nn": nn, "dataclasses": dataclasses, "Quadratic": Quadratic},
        **{"task": task, "family": task, "rule": learned_opt.create_rule("adam-lstm")},
        "settings": meta_train.TrainSettings(outer_steps=2),
        **{"inputs": torch.randn(64, 3), "targets": torch.randn(64, 1), "model": nn.Linear(3, 1)},
        **{"body": nn.Linear(5, 64), "images": torch.randn(8, 5)},
        "labels": torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]),
        **{"evaluate": evaluate, "EmbeddingEpisodes": EmbeddingEpisodes, "Sine": Sine},
        **{"SignalEpisodes": SignalEpisodes, "evaluate_by_instance": evaluate_by_instance},
        **{"FewShotConfig": FewShotConfig, "make_trainer": make_trainer, "verify": verify},
        "found": Verification(0.1, 0.01, 10, 40),
        "evaluation": Evaluation("accuracy", (0, 5), torch.rand(2, 4), 0),
    }


@pytest.mark.parametrize("name", [n for n in EXAMPLES if not n.endswith(NEEDS_FILES)])
def test_an_example_runs(name, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test = EXAMPLES[name]
    test.globs = {**test.globs, **names}
    for example in test.examples:
        for long, short in SHORTER.items():
            example.source = example.source.replace(long, short)
    failures = []
    check = doctest.OutputChecker.check_output
    # What is not shown may be printed all the same, such as progress.
    monkeypatch.setattr(
        doctest.OutputChecker,
        "check_output",
        lambda self, want, got, flags: not want or check(self, want, got, flags),
    )
    result = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS).run(
        test, out=failures.append
    )
    assert result.failed == 0, "".join(failures)
