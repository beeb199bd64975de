"""The papers' figures in the table of a job."""

import torch

from meta_train.few_shot.methods.registry import get_method
from meta_train.few_shot.scores import Evaluation
from meta_train.few_shot.settings import FewShotConfig
from meta_train.few_shot.table import render
from meta_train.few_shot.trained import TrainedMethod, published_figure
from meta_train.few_shot.verification import Verification


def evaluated(figures, steps):
    return {
        name: (
            TrainedMethod(name, get_method(name).omniglot, None, {}, {"published": figure}),
            Evaluation("accuracy", own, torch.full((len(own), 4), 0.5), 0),
        )
        for (name, figure), own in zip(figures.items(), steps, strict=True)
    }


def test_figures_have_the_last_column():
    methods = evaluated({"maml": (48.7, 1.84), "r2d2": None}, [(0, 1, 3), (0,)])
    lines = [line.split() for line in render(methods, "x").splitlines()]
    assert lines[2] == ["accuracy", "after", "0", "steps", "1", "step", "3", "steps", "published"]
    assert lines[3][-2:] == ["50.0+-0.0", "48.7+-1.84"] and lines[4][-1] == "-"


def test_beside_equal_error_rates_fewer_steps_are_shown():
    methods = evaluated({"maml": (48.7, 1.84), "siamese": (97.3, None)}, [(0, 1, 3), (0,)])
    verified = {"siamese": Verification(0.1, 0.01, 3, 4)}
    text = render(methods, "x", verified)
    lines = [line.split() for line in text.splitlines()]
    assert lines[2][2:] == ["0", "steps", "its", "steps", "EER", "published"]
    assert lines[4][-2:] == ["10.0+-1.0", "97.3"]
    assert max(map(len, text.splitlines())) <= 80


def test_tables_without_figures_stay_as_they_are():
    text = render(evaluated({"maml": None, "r2d2": None}, [(0, 1, 3), (0,)]), "x")
    assert "published" not in text
    assert "published" not in render(evaluated({"maml": None}, [(0, 1)]), "x")


def test_figures_are_those_of_the_data_and_the_setting():
    def figure(row, **job):
        return published_figure(row, FewShotConfig(row=row, **job))

    assert figure("maml", data="omniglot") == (98.7, 0.4)
    assert figure("maml", data="omniglot", ways=20, shots=5) == (98.9, 0.2)
    assert figure("maml", data="miniimagenet") == (48.7, 1.84)
    assert figure("maml", data="miniimagenet", shots=5) == (63.11, 0.92)
    assert figure("meta-lstm", data="miniimagenet", shots=5) == (60.6, 0.71)
    assert figure("maml", data="miniimagenet", ways=20) is None
    assert figure("maml", data="signals") is None and figure("maml") is None
