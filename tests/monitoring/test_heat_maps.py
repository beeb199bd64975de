"""Heat maps of tensors that appear, disappear and change their sizes."""

import numpy as np
import torch

from learned_opt import create_rule
from learned_opt.monitoring.heat_maps import HeatMaps
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.tasks import create_task


def test_a_tensor_of_another_size_leaves_the_rest_blank():
    maps = HeatMaps(8)
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
