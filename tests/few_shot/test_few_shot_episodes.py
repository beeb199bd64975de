"""Episodes of a job: support, query and split for training, validation and testing."""

import pytest

from meta_train.few_shot.episodes import evaluation_task, method_settings, training_task
from meta_train.few_shot.heads.episodes import EmbeddingEpisodes
from meta_train.few_shot.settings import FewShotConfig
from meta_train.tasks.episodes.stored_heads import StoredHeads


def tasks(name, **job):
    config = FewShotConfig(row=name, **job)
    method = method_settings(name, config)
    return training_task(method, config), evaluation_task(method, config)


def test_training_and_testing_have_their_own_splits_and_queries():
    training, testing = tasks("maml", data="omniglot", ways=7, shots=2)
    assert (training.split, training.ways, training.shots, training.queries) == ("train", 7, 2, 5)
    assert (testing.split, testing.ways, testing.shots, testing.queries) == ("test", 7, 2, 15)
    config = FewShotConfig(data="omniglot")
    method = method_settings("maml", config)
    assert evaluation_task(method, config, split="validation").split == "validation"


def test_reptile_trains_on_more_shots_and_in_batches():
    training, testing = tasks("reptile", data="omniglot", shots=1)
    assert (training.shots, training.inner_batch) == (10, 10)
    assert (testing.shots, testing.inner_batch) == (1, 5)  # No more than the support set has.


def test_embeddings_may_train_on_more_ways_than_they_are_tested_on():
    job = {"data": "omniglot", "ways": 5, "shots": 1, "row_settings": {"train_ways": 60}}
    training, testing = tasks("prototypical", **job)
    assert (training.episodes.ways, testing.episodes.ways) == (60, 5)
    assert training.template().keys() == testing.template().keys()
    training, testing = tasks("prototypical", data="omniglot", ways=5)
    assert training.episodes.ways == testing.episodes.ways == 5


@pytest.mark.parametrize(("name", "ways"), [("maml", 60), ("prototypical", 1)])
def test_train_ways_that_do_not_fit_a_method_are_refused(name, ways):
    with pytest.raises(ValueError, match=f"train_ways must be at least 2.* got {ways} and head"):
        FewShotConfig(row=name, data="omniglot", row_settings={"train_ways": ways})


@pytest.mark.parametrize(
    ("name", "adapted", "fresh"),
    [("maml", "all", "nothing"), ("maml-fresh-head", "all", "head"), ("anil", "head", "nothing")],
)
def test_the_method_decides_what_is_adapted_and_what_is_drawn(name, adapted, fresh):
    for data in ("sine", "omniglot"):
        for task in tasks(name, data=data):
            assert (task.adapted, task.fresh) == (adapted, fresh)


def test_heads_and_stored_heads():
    for task in tasks("prototypical", data="omniglot", task_settings={"hidden": 2}):
        assert isinstance(task, EmbeddingEpisodes) and task.head == "prototypical"
    training, testing = tasks("maml-stored-heads")
    assert isinstance(training, StoredHeads) and training.tasks == 200
    assert testing.fresh == "head"


def test_a_row_setting_changes_every_method_of_the_job():
    config = FewShotConfig(row="maml,anil", row_settings={"inner_lr": 0.5, "test_steps": 2})
    for name in ("maml", "anil"):
        found = method_settings(name, config)
        assert (found.inner_lr, found.test_steps) == (0.5, 2)
