"""A checkpoint records the C library that computed it; a run that goes on with another says so."""

import pytest
import torch
from test_trainer import make_trainer

from learned_opt.c_library import library_level
from meta_train.outer import c_library_record
from meta_train.outer.c_library_record import libraries_in_use
from meta_train.runtime.checkpoint_files import list_checkpoints, read_checkpoint, write_checkpoint
from meta_train.runtime.distributed import DistributedContext

CPU = torch.device("cpu")


def use(monkeypatch, level):
    monkeypatch.setattr(c_library_record, "library_level", lambda: level)


def train_until_step_2(folder, **settings):
    trainer = make_trainer(folder, **settings)
    for _ in range(2):
        trainer.take_outer_step()
    trainer.save()


def said_by_resuming(folder, capsys, **settings):
    trainer = make_trainer(folder, **settings)
    capsys.readouterr()
    assert trainer.resume()
    assert trainer.outer_step == 2
    return [line for line in capsys.readouterr().out.splitlines() if "C library" in line]


def line(before, now):
    return (
        f"C library: {before} in the checkpoint, {now} now. The last digits may differ from those "
        "of the unbroken run"
    )


@pytest.mark.parametrize(
    ("before", "now"), [("avx512", "avx2"), ("avx2", None), (None, "generic"), ("avx2", "avx2")]
)
def test_another_library_is_said_in_one_line(before, now, tmp_path, monkeypatch, capsys):
    use(monkeypatch, before)
    train_until_step_2(tmp_path)
    use(monkeypatch, now)
    expected = [] if before == now else [line(before or "none", now or "none")]
    assert said_by_resuming(tmp_path, capsys) == expected


def test_the_record_is_renewed_by_the_next_checkpoint(tmp_path, monkeypatch, capsys):
    use(monkeypatch, "avx512")
    train_until_step_2(tmp_path)
    use(monkeypatch, "avx2")
    trainer = make_trainer(tmp_path)
    trainer.resume()
    trainer.save()
    assert said_by_resuming(tmp_path, capsys) == []


def test_a_checkpoint_from_before_the_record_resumes_in_silence(tmp_path, monkeypatch, capsys):
    use(monkeypatch, "avx2")
    train_until_step_2(tmp_path)
    (path,) = list_checkpoints(tmp_path / "checkpoints")
    tensors, facts = read_checkpoint(path)
    assert facts.pop("c_library") == "avx2"
    write_checkpoint(tmp_path / "checkpoints", 2, tensors, facts)
    assert said_by_resuming(tmp_path, capsys) == []


def test_the_library_counts_where_c_can_take_part(tmp_path, monkeypatch, capsys):
    """It computes in float32 on the CPU."""
    use(monkeypatch, "avx2")
    alone = DistributedContext()
    assert libraries_in_use(CPU, torch.float32, alone) == "avx2"
    assert libraries_in_use(CPU, torch.float64, alone) == "none"
    assert libraries_in_use(torch.device("meta"), torch.float32, alone) == "none"
    train_until_step_2(tmp_path, dtype="float64")
    use(monkeypatch, None)
    assert said_by_resuming(tmp_path, capsys, dtype="float64") == []


def test_the_libraries_of_all_processes_are_recorded(monkeypatch):
    use(monkeypatch, "avx2")

    class Two(DistributedContext):
        def gather(self, thing):
            return ["generic", thing, thing]

    assert libraries_in_use(CPU, torch.float32, Two()) == "avx2, generic"


def test_the_library_in_use_is_recorded():
    assert make_trainer().state_dict().facts["c_library"] == (library_level() or "none")
