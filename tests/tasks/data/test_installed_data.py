"""Data that is installed already: splits that share nothing, and common scales."""

import pytest
import torch

from meta_train.tasks.data import DATA, SPLITS, load_data
from meta_train.tasks.data.image_files import IMAGE_FILES
from meta_train.tasks.data.photos import BLOCK, SIZE, read_photos

INSTALLED = [name for name in DATA if name not in IMAGE_FILES]


def fingerprints(inputs):
    """Rows as tuples; those that occur once (two patches of plain sky may be equal)."""
    rows = [tuple(row) for row in inputs.flatten(1).tolist()]
    return set(rows)


@pytest.mark.parametrize("name", INSTALLED)
def test_splits_share_no_example_and_have_one_scale(name):
    parts = {split: load_data(name, split) for split in SPLITS}
    rows = {split: fingerprints(part.dataset.inputs) for split, part in parts.items()}
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not rows[first] & rows[second]
    train = parts["train"].dataset.inputs
    assert train.mean().abs() < 1e-4 and abs(float(train.var()) - 1) < 0.02
    for part in parts.values():
        inputs, targets = part.dataset.inputs, part.dataset.targets
        assert inputs.dtype == torch.float32
        assert inputs.mean().abs() < 0.3 and 0.5 < inputs.var() < 1.5
        assert part.outputs == parts["train"].outputs
        if part.classes:
            assert targets.dtype == torch.int64
            assert set(targets.tolist()) <= set(range(part.outputs))
        else:
            assert targets.shape == (len(inputs), 1)


def test_data_is_read_once():
    assert load_data("photos", "train").dataset is load_data("photos", "train").dataset
    flat = load_data("photos", "train", flat=True)
    assert flat.dataset.inputs.data_ptr() == load_data("photos", "train").dataset.inputs.data_ptr()
    assert flat.shape == (64,) and load_data("colour-photos", "test").shape == (3, 8, 8)


@pytest.mark.parametrize(("name", "split"), [("digit", "train"), ("digits", "tain")])
def test_unknown_names_are_refused(name, split):
    with pytest.raises(ValueError, match="did you mean"):
        load_data(name, split)


def test_patches_of_the_photograph_are_where_their_label_says():
    from sklearn.datasets import load_sample_images

    photo = torch.tensor(load_sample_images().images[0]).float()
    photo = ((photo - photo.mean()) / photo.std()).permute(2, 0, 1)
    patches, regions = read_photos(colour=True)["train"]
    places = {}
    for y in range(0, photo.shape[1] // BLOCK * BLOCK - SIZE + 1, 4):
        for x in range(0, photo.shape[2] // BLOCK * BLOCK - SIZE + 1, 4):
            pixels = photo[:, y : y + SIZE, x : x + SIZE]
            places.setdefault(pixels.flatten()[::37].numpy().tobytes(), []).append((y, x))
    for k in range(0, len(patches), 500):
        found = places[patches[k].flatten()[::37].numpy().tobytes()]
        assert int(regions[k]) in {(y + 4) * 4 // 427 * 4 + (x + 4) * 4 // 640 for y, x in found}
    counts = torch.bincount(regions)
    assert len(counts) == 16 and counts.min() > 300
