"""Signals: classes by recipe, the same on every machine, disjoint in the three splits."""

import pytest
import torch

from meta_train.tasks.data.signals import _interpolate, _smoothed, _templates, read_signals


def test_every_split_has_its_classes_with_fifty_signals_each():
    for split, classes in (("train", 64), ("validation", 20), ("test", 40)):
        found = read_signals(split)
        assert found.shape == (classes, 50, 1, 40) and found.dtype == torch.uint8
        assert (found == 0).float().mean() < 1e-3 and (found == 255).float().mean() < 1e-3
    with pytest.raises(ValueError, match="did you mean 'validation'"):
        read_signals("valid")


def test_signals_are_the_same_everywhere():
    """First signal of each split; another machine may round a byte the other way."""
    for split, expected in PINNED.items():
        found = read_signals(split)[0, 0, 0, :12].int()
        assert (found - torch.tensor(expected)).abs().max() <= 1, (split, found.tolist())


PINNED = {
    "train": [129, 134, 138, 136, 138, 137, 134, 132, 132, 133, 129, 128],
    "validation": [130, 129, 130, 127, 125, 123, 122, 126, 127, 129, 127, 125],
    "test": [122, 120, 119, 121, 122, 144, 92, 125, 79, 114, 88, 118],
}


def test_signals_of_a_class_differ_and_no_class_is_in_two_splits():
    every = torch.cat([read_signals(split).flatten(2) for split in ("train", "validation", "test")])
    assert len(every.flatten(0, 1).unique(dim=0)) == 124 * 50
    templates = torch.cat(
        [_templates(n, torch.Generator().manual_seed(k)) for k, n in enumerate((64, 20, 40))]
    )
    distances = torch.cdist(templates, templates)[~torch.eye(124, dtype=torch.bool)]
    assert distances.min() > 0.5
    torch.testing.assert_close(templates.std(1), torch.ones(124, dtype=torch.float64))


def test_interpolation_and_smoothing_by_hand():
    values = torch.tensor([1.0, 3.0, 7.0], dtype=torch.float64)
    places = torch.tensor([0.0, 0.5, 1.0, 1.75, 2.0], dtype=torch.float64)
    assert _interpolate(values, places).tolist() == [1.0, 2.0, 3.0, 6.0, 7.0]
    impulse = torch.zeros(1, 72, dtype=torch.float64)
    impulse[0, 0] = 1
    smooth = _smoothed(impulse)[0]
    assert smooth.sum() == pytest.approx(1) and smooth.argmax() == 0
    assert smooth[1] == pytest.approx(smooth[-1])  # A ring.
    assert (smooth[2] / smooth[0]).item() == pytest.approx(0.60653, abs=1e-4)  # exp(-1/2)
