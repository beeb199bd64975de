"""The index of meta_train: its names, its example, and what it does not import."""

import subprocess
import sys

import pytest

import meta_train


def test_every_name_of_the_index_exists_once():
    assert meta_train.__all__ == sorted(set(meta_train.__all__))
    assert all(getattr(meta_train, name) is not None for name in meta_train.__all__)


def test_the_example_of_the_index_runs():
    lines = [line[4:] for line in meta_train.__doc__.splitlines() if line.startswith(">>> ")]
    code = "\n".join(lines).replace("outer_steps=100", "outer_steps=2")
    names = {}
    exec(code, names)
    assert names["trainer"].outer_step == 2
    assert isinstance(names["optimizer"], names["LearnedOptimizer"])


def test_optional_libraries_are_imported_where_they_are_used():
    optional = ["matplotlib", "tensorboard", "sklearn", "higher", "torchvision", "jsonargparse"]
    code = "import sys, meta_train; meta_train.MetaTrainer; "
    code += f"print([n for n in {optional} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("package", "slow"), [("meta_train", "torch"), ("learned_opt", "torch._dynamo")]
)
def test_what_takes_seconds_is_imported_when_it_is_needed(package, slow):
    code = f"import sys, {package}; print({slow!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_folders_are_attributes_and_other_names_are_errors():
    code = "import meta_train; assert callable(meta_train.tasks.create_task); meta_train.nosuch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last == "AttributeError: module 'meta_train' has no attribute 'nosuch'"
    assert {"MetaTrainer", "compare", "__doc__"} <= set(dir(meta_train))
    names = {}
    exec("from meta_train import *", names)
    assert set(meta_train.__all__) <= names.keys()
