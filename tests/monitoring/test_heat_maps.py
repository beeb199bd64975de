"""Heat maps of tensors that appear, disappear and change their sizes."""

import numpy as np
import pytest
import torch

from learned_opt import create_rule
from learned_opt.monitoring.heat_maps import HeatMaps
from learned_opt.monitoring.samples import CoordinateSamples
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.tasks import create_task


def test_a_tensor_of_another_size_leaves_the_rest_blank():
    maps = HeatMaps(8, 32, CoordinateSamples(256, 0))
    for step, size in enumerate((3, 5, 2)):
        maps.column(step)["w", "g"] = np.full(size, step, np.float32)
    band = maps._band(maps.steps(), "w", "g")
    assert band.shape == (5, 3)
    assert np.isfinite(band).sum(0).tolist() == [3, 5, 2]
    for step, column in enumerate(band.T):
        assert set(column[np.isfinite(column)]) == {step}
    maps.figure()


def test_a_family_of_networks_is_trained_and_watched_to_the_end(tmp_path):
    settings = TrainSettings(
        outer_steps=24, runs=1, horizons=(2,), truncation_length=2, gates_every=1
    )
    torch.manual_seed(0)
    task = create_task("random-mlp")
    sizes = set()
    trainer = MetaTrainer(create_rule("gated-lstm"), task, settings, folder=tmp_path)
    step = trainer.take_outer_step

    def noting(**options):
        result = step(**options)
        sizes.add(trainer.groups.runs[0].inner.parameters["0.bias"].numel())
        return result

    trainer.take_outer_step = noting
    trainer.train(progress=False)
    assert len({min(size, 32) for size in sizes}) > 1  # else nothing is tested here
    assert trainer.outer_step == 24


def filled(sizes):
    """Heat maps of two steps, with one row for each tensor."""
    maps = HeatMaps(8, 32, CoordinateSamples(256, 0))
    maps.sizes.update(sizes)
    for step in range(2):
        column = maps.column(step)
        for name in sizes:
            column[name, "forget"] = np.full(1, 0.5, np.float32)
    return maps


def labels(figure):
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_of_many_tensors_the_largest_are_shown_and_the_title_counts_the_rest():
    # Sizes 0, 7, 14, ... modulo 800: every size once, and 799 down to 768 are the 32 largest.
    sizes = {f"layer{k}.weight": 7 * k % 800 for k in range(800)}
    figure = filled(sizes).figure()
    expected = [name for name, size in sizes.items() if size >= 768]
    assert labels(figure) == expected and len(expected) == 32
    assert figure.get_suptitle() == "the 32 largest of 800 tensors (768 left out)"


def test_up_to_32_tensors_and_those_that_are_named_are_all_shown():
    sizes = {f"w{k}": k for k in range(33)}
    figure = filled(sizes).figure()
    assert labels(figure) == [f"w{k}" for k in range(1, 33)]
    figure = filled(sizes).figure(tensors=["w0", "w9"])
    assert labels(figure) == ["w0", "w9"] and not figure.get_suptitle()
    del sizes["w0"]
    figure = filled(sizes).figure()
    assert labels(figure) == list(sizes) and not figure.get_suptitle()


def test_a_long_name_keeps_its_end_and_the_panel_its_width():
    long = "encoder." * 20 + "attention.weight"
    wide = filled({"w": 1, long: 2}).figure()
    assert labels(wide)[1] == "..." + long[-45:]


def test_a_picture_of_one_gate_is_at_least_900_pixels_wide():
    figure = filled({"w": 1}).figure()
    assert figure.get_figwidth() * figure.get_dpi() == 1040


def shown(values):
    """Title and image, one row per coordinate, of a forget gate with `values`, `[rows, steps]`."""
    maps = HeatMaps(8, 32, CoordinateSamples(256, 0))
    for step, column in enumerate(np.asarray(values, np.float32).T):
        maps.column(step)["w", "lstm_forget"] = column
    axes = maps.figure().axes[0]
    return axes.get_title(), np.asarray(axes.get_images()[0].get_array())[:-1]


def test_a_gate_near_one_is_shown_by_the_logarithm_of_the_distance():
    title, image = shown([[0.999, 0.9999], [0.99, 0.99]])
    assert title == "lstm forget gate: log10(1 - f)"
    assert image == pytest.approx(np.array([[-3, -4], [-2, -2]]), abs=1e-3)
    title, image = shown([[0.001, 0.0]])
    assert title == "lstm forget gate: log10(f)"
    assert image == pytest.approx(np.array([[-3, -8]]), abs=1e-3)


def test_rows_that_change_most_are_on_top_of_their_tensor():
    title, image = shown([[0.4, 0.5, 0.4], [0.2, 0.9, 0.2], [0.5, 0.5, 0.5]])
    assert title == "lstm forget gate"
    assert image[:, 1] == pytest.approx([0.9, 0.5, 0.5])
    assert image[:, 0] == pytest.approx([0.2, 0.4, 0.5])


def test_an_unknown_name_among_many_is_a_short_message():
    with pytest.raises(ValueError, match=r"and 790 more were observed, got \['nowhere'\]") as error:
        filled({f"w{k}": 1 for k in range(800)}).figure(tensors=["nowhere"])
    assert len(str(error.value)) < 200
