"""Where a few-shot job leaves what: which folders are its own, and which of another run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from meta_train.few_shot.settings import FewShotConfig
from meta_train.few_shot.training import row_of
from meta_train.jobs.run_folders import claim_folder
from meta_train.runtime.checkpoint_files import list_checkpoints

CONFIG, TABLE, BEGIN = "config.yaml", "table.json", "begins_with.json"
MOST_NAMES = 4
"""Rows that a folder's name has; of more it has the number."""


def job_folder(config: FewShotConfig) -> Path:
    """The run folder of a job: one that is made now, or `out`, which need not be there yet.

    Raises:
        FileExistsError: it holds a run, and `resume` was not asked for.
        ValueError: `resume` was asked for, and it holds none, or one of other rows.
    """
    if config.out is None:
        names = config.rows if len(config.rows) <= MOST_NAMES else [f"{len(config.rows)}-rows"]
        return claim_folder(f"few-shot_{config.data}_{'+'.join(names)}_seed{config.seed}")
    found = config.out.glob("**/checkpoints")
    begun = [checkpoints.parent for checkpoints in found if list_checkpoints(checkpoints)]
    if begun and not (config.out / CONFIG).exists():
        raise FileExistsError(
            f"{config.out} holds runs of other jobs, as in {begun[0]}: give another --out"
        )
    if begun and not config.resume:
        raise FileExistsError(
            f"{config.out} already holds a run: go on with it ({resume_arguments(config.out)}), or "
            "give another --out"
        )
    if config.resume and not begun:
        raise ValueError(
            f"there is no checkpoint to resume from in {config.out}: begin without --resume"
        )
    own = set(_places(config))
    for folder in begun:
        if folder not in own:
            raise ValueError(
                f"{folder} is not of a job of --row {config.row}: go on with "
                f"{resume_arguments(config.out)}"
            )
    return config.out


def row_folder(config: FewShotConfig, folder: Path, name: str) -> Path:
    """Where a row of the job trains: in a folder of its own if there are several."""
    return folder / name if len(config.rows) > 1 else folder


def resume_arguments(folder: Path) -> str:
    """What goes on with the run in a folder."""
    config, out = shlex.quote(str(folder / CONFIG)), shlex.quote(str(folder))
    return f"--config {config} --out {out} --resume true"


def _places(config: FewShotConfig) -> Iterator[Path]:
    """Every folder that the job may train in."""
    assert config.out is not None
    for name in config.rows:
        folder = row_folder(config, config.out, name)
        yield folder
        row = row_of(name, config)
        yield from (folder / other for other in (row.uses, row.begins_with) if other is not None)
