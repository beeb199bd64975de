"""Episodes of made-up characters, and of Omniglot where its archives are."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from meta_train.few_shot import episodes
from meta_train.tasks.episodes.omniglot import OmniglotClasses, OmniglotEpisodes
from meta_train.tasks.episodes.sampler import rotated

DATA = Path(__file__).parents[2] / "shared" / "data"
TINY = [
    "few-shot",
    "--outer_steps", "3",
    "--episodes", "6",
    "--progress", "false",
    "--device", "cpu",
]  # fmt: skip
SMALL_SINE = ["--task_settings", '{"hidden": [4]}', "--train", '{"runs": 3}']


def made_up_images(classes=12, per_class=8, size=28):
    """Each class has its own coarse pattern; its images differ by noise."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(classes, 1, 7, 7, generator=random)
    pattern = coarse.repeat_interleave(size // 7, 2).repeat_interleave(size // 7, 3)
    noise = 0.1 * torch.rand(classes, per_class, size, size, generator=random)
    return ((0.9 * pattern + noise) * 255).to(torch.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MadeUp(OmniglotEpisodes):
    """Omniglot's task on made-up images, with a small network."""

    hidden: int = 4

    def images(self):
        images = made_up_images()
        return rotated(images) if self.rotations else images


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallClasses(OmniglotClasses):
    """All classes at once, of made-up images, with a small network."""

    hidden: int = 4
    batch_size: int = 8

    def images(self):
        return made_up_images()


def take_made_up(monkeypatch):
    """Give all methods made-up characters in place of Omniglot's."""
    monkeypatch.setitem(episodes.IMAGES, "omniglot", MadeUp)
    monkeypatch.setitem(episodes.CLASSES, "omniglot", SmallClasses)


def results_of(folder):
    """Results of a few-shot job by method."""
    return json.loads((folder / "table.json").read_text())["rows"]


def data_folder():
    """Folder of the Omniglot archives; skips the test where they are missing."""
    if not (DATA / "omniglot_images_background.zip").is_file():
        pytest.skip("Omniglot's background archive is not here")
    return str(DATA)
