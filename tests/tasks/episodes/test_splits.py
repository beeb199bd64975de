"""Splits of Omniglot's characters."""

import itertools
import json
from importlib import resources

import pytest
import torch
from few_shot_cases import data_folder

from meta_train.runtime.seeding import generator
from meta_train.tasks.episodes.omniglot import OmniglotEpisodes, read_split
from meta_train.tasks.episodes.splits import SPLITS, shuffled, split_characters, stored_splits

CPU = torch.device("cpu")


def test_stored_splits_are_complete_and_disjoint_and_follow_from_the_seed():
    written = stored_splits()
    names = [name for split in SPLITS for name in written["background"][split]]
    assert len(names) == len(set(names)) == 30
    order = shuffled(names, written["seed"])
    bounds = {"train": (0, 20), "validation": (20, 24), "test": (24, 30)}
    for split, (first, last) in bounds.items():
        assert written["background"][split] == sorted(order[first:last])
    text = resources.files("meta_train.tasks.episodes").joinpath("omniglot_splits.json").read_text()
    assert json.loads(text) == written
    assert sum(written["characters"].values()) == 1623


def characters(alphabets, each=14):
    return (
        [alphabet for alphabet in alphabets for _ in range(each)],
        [f"character{k:02d}" for _ in alphabets for k in range(each)],
    )


BACKGROUND = [name for split in SPLITS for name in stored_splits()["background"][split]]


@pytest.mark.parametrize("split_by", ["alphabet", "character"])
@pytest.mark.parametrize("others", [[], ["Tengwar", "Tibetan"]])
def test_splits_share_no_character_and_leave_none_out(split_by, others):
    names = characters([*BACKGROUND, *others])
    parts = [split_characters(*names, split, split_by) for split in SPLITS]
    assert sorted(sum(parts, [])) == list(range(len(names[0])))
    if split_by == "alphabet":
        sets = [{names[0][k] for k in part} for part in parts]
        assert not any(a & b for a, b in itertools.combinations(sets, 2))
        assert not others or sets[2] == set(others)
    else:
        assert len(parts[0]) == pytest.approx(len(names[0]) * 1100 / 1623, abs=1)


def test_splits_do_not_depend_on_the_order_of_characters():
    alphabets, names = characters(BACKGROUND)
    chosen = {
        (alphabets[k], names[k]) for k in split_characters(alphabets, names, "test", "character")
    }
    back = alphabets[::-1], names[::-1]
    again = {(back[0][k], back[1][k]) for k in split_characters(*back, "test", "character")}
    assert chosen == again


@pytest.mark.parametrize(("split", "split_by"), [("testing", "alphabet"), ("test", "alphabets")])
def test_unknown_splits_are_refused(split, split_by):
    with pytest.raises(ValueError, match="did you mean"):
        split_characters(["Greek"], ["character01"], split, split_by)


def test_the_split_by_alphabet_needs_the_alphabets_that_it_names():
    names = [name for part in stored_splits()["background"].values() for name in part]
    others = ["Hellenic" if name == "Greek" else name for name in names]
    with pytest.raises(ValueError, match="Greek is missing; instead there is Hellenic"):
        split_characters(others, ["character01"] * len(others), "test", "alphabet")
    with pytest.raises(ValueError, match="needs all 30 background alphabets, but .* and more"):
        split_characters(["Mine"], ["character01"], "test", "alphabet")


def test_real_characters_of_splits_are_disjoint():
    folder = data_folder()
    sizes = {}
    for split in SPLITS:
        images = read_split(folder, "background", split, "alphabet", False, False)
        sizes[split] = len(images)
        assert images.shape[1:] == (20, 28, 28) and images.dtype == torch.uint8
    assert sizes == {"train": 690, "validation": 109, "test": 165}
    task = OmniglotEpisodes(folder=folder, ways=20, shots=5, queries=15, split="test")
    assert len(task.sampler.images) == 4 * 165
    problem = task.sample(generator(0), CPU)
    inputs, targets = problem.draw(generator(0))
    assert inputs.shape == (100, 1, 28, 28) and targets.bincount().tolist() == [5] * 20
    assert 0.02 < inputs.mean() < 0.2
