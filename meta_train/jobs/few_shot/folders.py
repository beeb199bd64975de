"""Run folders of few-shot jobs: finds them, and refuses those of other runs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from meta_train.few_shot.episodes import method_settings
from meta_train.few_shot.settings import FewShotConfig
from meta_train.jobs.command import CONFIG
from meta_train.jobs.run_folders import claim_folder
from meta_train.runtime.checkpoint_files import list_checkpoints

TABLE, BEGIN = "table.json", "begins_with.json"
MAX_NAMES = 4
"""Methods that the name of a folder lists; it counts more than these."""


def job_folder(config: FewShotConfig) -> Path:
    """The run folder of a job: a new one, or `out`, which need not exist.

    Raises:
        FileExistsError: the folder holds a run, and `resume` is false.
        ValueError: `resume` is true, and the folder holds no run or a run of other methods.
    """
    if config.out is None:
        methods = config.methods
        names = "+".join(methods) if len(methods) <= MAX_NAMES else f"{len(methods)}-methods"
        return claim_folder(f"few-shot_{config.data}_{names}_seed{config.seed}")
    found = config.out.glob("**/checkpoints")
    begun = [checkpoints.parent for checkpoints in found if list_checkpoints(checkpoints)]
    if begun and not (config.out / CONFIG).exists():
        raise FileExistsError(
            f"{config.out} holds runs of other jobs, such as {begun[0]}: give another --out"
        )
    if begun and not config.resume:
        raise FileExistsError(
            f"{config.out} already holds a run: resume it ({resume_arguments(config.out)}), or "
            "give another --out"
        )
    if config.resume and not begun:
        raise ValueError(
            f"there is no checkpoint to resume from in {config.out}: start without --resume"
        )
    own = set(_training_folders(config))
    for folder in begun:
        if folder not in own:
            raise ValueError(
                f"{folder} does not belong to a job with --row {config.row}: continue with "
                f"{resume_arguments(config.out)}"
            )
    return config.out


def method_folder(config: FewShotConfig, folder: Path, name: str) -> Path:
    """Folder of a method of the job: its own subfolder if the job has several methods."""
    return folder / name if len(config.methods) > 1 else folder


def resume_arguments(folder: Path) -> str:
    """Arguments of the command that resume the run in a folder."""
    return f"--out {shlex.quote(str(folder))} --resume true"


def _training_folders(config: FewShotConfig) -> Iterator[Path]:
    """All folders that the job may train in."""
    assert config.out is not None
    for name in config.methods:
        folder = method_folder(config, config.out, name)
        yield folder
        method = method_settings(name, config)
        needed = (method.uses, method.begins_with)
        yield from (folder / other for other in needed if other is not None)
