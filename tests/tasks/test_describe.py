"""Descriptions of tasks, which a resumed run compares."""

import json

import pytest
import torch
from torch import nn

from meta_train.few_shot.heads.episodes import EmbeddingEpisodes
from meta_train.tasks import ModuleTask, create_mixture, create_task, list_tasks
from meta_train.tasks.describe import describe, difference
from meta_train.tasks.episodes.omniglot import OmniglotEpisodes
from meta_train.tasks.episodes.sine import Sine
from meta_train.tasks.episodes.stored_heads import StoredHeads


@pytest.mark.parametrize("name", list_tasks())
def test_every_family_is_described_by_plain_data(name):
    one = describe(create_task(name))
    assert json.loads(json.dumps(one)) == json.loads(json.dumps(describe(create_task(name))))
    assert one["family"]


def test_settings_are_told_apart_and_where_data_lies_is_not():
    one = OmniglotEpisodes(ways=5, folder="a")
    assert difference(describe(one), describe(OmniglotEpisodes(ways=5, folder="b"))) is None
    other = OmniglotEpisodes(ways=5, split_by="character")
    assert difference(describe(one), describe(other)) == "split_by=alphabet, not character"


def test_tasks_within_tasks_are_described():
    stored = describe(StoredHeads(Sine(shots=3, fresh="nothing"), 7))
    assert stored["tasks"] == 7 and stored["episodes"]["shots"] == 3
    scored = describe(EmbeddingEpisodes(OmniglotEpisodes(ways=3, hidden=4), "r2d2"))
    assert scored["head"] == "r2d2" and scored["episodes"]["ways"] == 3
    mixture = describe(create_mixture(families={"quadratic": {"dimensions": 3}, "sine": {}}))
    assert mixture["families"]["quadratic"]["dimensions"] == 3
    assert mixture["families"]["sine"]["family"] == "Sine"


def test_functions_and_tensors_are_left_out():
    data = torch.zeros(4, 2), torch.zeros(4, 1)
    task = ModuleTask(lambda: nn.Linear(2, 1), nn.functional.mse_loss, data, batch_size=2)
    assert describe(task) == {"family": "ModuleTask", "batch_size": 2}
