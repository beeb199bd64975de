"""The examples in docstrings run, and print the results that they show."""

import doctest
import importlib
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import learned_opt
from learned_opt.functional import apply_rule
from learned_opt.rules import Context, CoordinateRule


def examples():
    """Every docstring of the package that has a `>>>` block."""
    folder = Path(learned_opt.__file__).parent
    # Files, not what pkgutil finds: that takes libraries in C for modules.
    paths = [path.relative_to(folder.parent) for path in sorted(folder.rglob("*.py"))]
    names = [".".join(path.with_suffix("").parts) for path in paths if path.stem != "__init__"]
    # Kernels have no examples; to import them takes Triton.
    names = [name for name in names if not name.startswith("learned_opt.backends.triton.")]
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in ["learned_opt", *names]:
        yield from (
            test for test in finder.find(importlib.import_module(name), name) if test.examples
        )


EXAMPLES = {test.name: test for test in examples()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    test = EXAMPLES[name]
    test.globs |= {key: getattr(learned_opt, key) for key in learned_opt.__all__}
    test.globs |= {"torch": torch, "nn": nn, "apply_rule": apply_rule, "Context": Context}
    test.globs |= {"CoordinateRule": CoordinateRule, "model": nn.Linear(3, 2)}
    test.globs |= {"inputs": torch.randn(8, 3), "targets": torch.randint(2, (8,))}
    failures = []
    with warnings.catch_warnings():
        result = doctest.DocTestRunner(verbose=False).run(test, out=failures.append)
    assert result.failed == 0, "".join(failures)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_docs_site_shows_an_example_as_code(name):
    """It takes the section of this name for code, and every other one for prose."""
    lines = [line.strip() for line in EXAMPLES[name].docstring.splitlines()]
    assert "Examples:" in lines[: next(k for k, line in enumerate(lines) if line[:3] == ">>>")]


@pytest.mark.parametrize(
    "name",
    [
        "adaptation.adapt.adapt",
        "adaptation.bundled.list_initializations",
        "adaptation.initialization.Initialization",
        "adaptation.initialization_file.load_initialization",
        "adaptation.initialization_file.save_initialization",
        "explanation.explain.explain",
        "explanation.explanation.Explanation",
        "monitoring.monitor.GateMonitor",
        "optimizer.learned_optimizer.LearnedOptimizer",
        "rules.base.UpdateRule",
        "rules.registry.create_rule",
        "rules.registry.list_rules",
        "weights.from_pretrained",
        "weights.list_pretrained",
        "weights.load_card",
        "weights.load_rule",
        "weights.save_rule",
    ],
)
def test_a_public_name_has_an_example(name):
    assert f"learned_opt.{name}" in EXAMPLES
