"""The optimizer needs torch, numpy and safetensors alone; extras are imported where used."""

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
META = ["PIL", "higher", "jsonargparse", "matplotlib", "sklearn", "tensorboard", "tqdm"]
USE = """
import torch
from learned_opt import GateMonitor, LearnedOptimizer, adapt, load_card

model = torch.nn.Linear(2, 1)
optimizer = LearnedOptimizer(model.parameters())
before = model.weight.detach().clone()
model(torch.ones(3, 2)).sum().backward()
optimizer.step()
assert not torch.equal(before, model.weight)
"""

INDEX = """
import torch
from meta_train import InnerLoop, MetaTrainer, TrainSettings, create_task

create_task("quadratic").sample(torch.Generator(), torch.device("cpu"))
"""


def run_without(missing, code):
    """Run Python code in a process that finds none of these modules."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules.update(dict.fromkeys({missing}))\n{code}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def requirements(extra=None):
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    section = config["options.extras_require"]
    lines = section[extra] if extra else config["options"]["install_requires"]
    return [re.split(r"[>=<]", line)[0] for line in lines.split()]


def test_the_package_alone_brings_three_others():
    assert requirements() == ["torch", "numpy", "safetensors"]


def test_the_extra_for_meta_training_brings_all_that_it_imports():
    assert requirements("meta") == [
        "higher", "jsonargparse[signatures]", "matplotlib", "pillow", "scikit-learn",
        "tensorboard", "tqdm",
    ]  # fmt: skip
    assert "learned-opt[meta]" in requirements("test")


def test_the_optimizer_needs_no_extra():
    result = run_without(META, USE)
    assert result.returncode == 0, result.stderr


def test_what_draws_or_reads_data_sets_is_imported_where_used():
    result = run_without(META, INDEX)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("missing", ["jsonargparse", "tqdm"])
def test_the_command_says_in_one_line_which_extra_is_missing(missing):
    code = "import runpy; sys.argv = ['meta_train']; runpy.run_module('meta_train', {}, '__main__')"
    result = run_without([missing], code)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line == (
        f"python -m meta_train needs {missing}, which is not installed: "
        "python -m pip install 'learned-opt[meta]'"
    )
