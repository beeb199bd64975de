"""The few-shot job: train rows, test them on episodes, leave a run folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from learned_opt.initializers import Initialization, save_initialization
from meta_train import report
from meta_train.checkpoint import list_checkpoints
from meta_train.device import choose_device
from meta_train.few_shot.config import FewShotConfig
from meta_train.few_shot.evaluate import Evaluation
from meta_train.few_shot.picture import draw_sine
from meta_train.few_shot.table import as_json, render
from meta_train.few_shot.train import Trained, judge, make_trainer, take
from meta_train.stopping import Interrupted, NotLearning


def run(config: FewShotConfig, write_config: Callable[[Path], object]) -> Path:
    """Run the job.

    Args:
        config: see `FewShotConfig`.
        write_config: is given a path to record the configuration at.

    Returns:
        The run folder: config.yaml, table.json and, of each row (in a folder of its own where there
        are several), initialization.safetensors, checkpoints/ and tensorboard/; of sine curves a
        picture, sine.png.

    Raises:
        ValueError: settings that do not go together, a damaged checkpoint.
        OSError: the data is missing, the folder holds a run and `resume` was not asked for.
        Interrupted: Ctrl-C or SIGTERM; the checkpoint is written.
        NotLearning: outer steps keep being of no use; the checkpoint is written.
    """
    began = time.monotonic()
    torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    several = len(config.rows) > 1
    folder = _folder(config)
    done: dict[str, tuple[Trained, Evaluation]] = {}
    for name in config.rows:
        own = folder / name if several else folder
        trained = _train(name, config, device, own, must_resume=config.resume and not several)
        if not done:
            write_config(folder / "config.yaml")
        evaluation = judge(trained, config, device)
        done[name] = trained, evaluation
        _leave(config, trained, evaluation, own)
        # After each row, so that an interrupted job leaves what it has.
        table = {key: as_json(*found) for key, found in done.items()}
        report.write_table(folder / "table.json", {"config": _plain(config), "rows": table})
        if several:
            _say(render({name: done[name]}, name))
    if config.data == "sine":
        draw_sine(folder / "sine.png", done, config)
    print(render(done, _title(config)))
    print(f"\n{(time.monotonic() - began) / 60:.1f} minutes in all; left in {folder}/")
    return folder


def _train(
    name: str, config: FewShotConfig, device: torch.device, folder: Path, *, must_resume: bool
) -> Trained:
    # Before there is a folder: whatever is refused leaves none behind.
    trainer, _ = make_trainer(name, config, device, None)
    folder.mkdir(parents=True, exist_ok=True)
    trainer.folder = folder
    if config.resume and not trainer.resume() and must_resume:
        raise ValueError(
            f"there is no checkpoint to resume from in {folder / 'checkpoints'}: "
            "begin without --resume"
        )
    _say(f"{name}: run folder {folder}   (watch: tensorboard --logdir {folder})")
    try:
        trainer.train(progress=config.progress)
    except (Interrupted, NotLearning) as stop:
        out = folder if len(config.rows) == 1 else folder.parent
        raise type(stop)(f"{stop}; go on with --out {out} --resume true") from None
    trained = take(name, trainer, config)
    _say(
        f"{name}: {trainer.outer_step} outer steps, {trainer.seconds / 60:.1f} min, "
        f"{trainer.diverged} diverged runs, {trainer.descent.skipped} skipped steps"
    )
    return trained


def _leave(config: FewShotConfig, trained: Trained, evaluation: Evaluation, folder: Path) -> None:
    row = trained.row
    card = {
        "row": trained.name,
        "data": config.data,
        "ways": config.ways if config.data == "omniglot" else None,
        "shots": config.support,
        **as_json(trained, evaluation),
        "torch": torch.__version__,
    }
    save_initialization(
        Initialization(
            parameters={key: value.cpu() for key, value in trained.phi.items()},
            rule=trained.rule.cpu(),
            lr=row.inner_lr,
            steps=row.test_steps,
            card=card,
        ),
        folder / "initialization.safetensors",
    )


def _folder(config: FewShotConfig) -> Path:
    if config.out is None:
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        return Path("runs") / f"{stamp}_few-shot_{config.data}_{config.row}_seed{config.seed}"
    folders = [config.out, *(config.out / name for name in config.rows)]
    if not config.resume and any(list_checkpoints(one / "checkpoints") for one in folders):
        raise FileExistsError(
            f"{config.out} already holds a run: add --resume true, or give another --out"
        )
    return config.out


def _title(config: FewShotConfig) -> str:
    if config.data == "sine":
        return f"sine curves from {config.support} points"
    return f"Omniglot, {config.ways}-way {config.support}-shot"


def _plain(config: FewShotConfig) -> dict[str, object]:
    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stdout)
