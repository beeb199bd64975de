"""Events are read back as written; a full disk ends the events, never the training."""

import threading

import pytest
import torch
from full_disk import full_disk
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from learned_opt import GateMonitor, LearnedOptimizer
from learned_opt.monitoring.event_writer import EventWriter


def scalars(folder, tag="loss"):
    return [(e.step, e.value) for e in EventAccumulator(str(folder)).Reload().Scalars(tag)]


def test_what_is_written_is_on_disk_at_once_and_no_thread_runs(tmp_path):
    threads = threading.active_count()
    writer = EventWriter(tmp_path / "new" / "folder")
    writer.add_scalar("loss", 0.5, 3)
    writer.add_scalar("loss", 0.25, torch.tensor(4))
    assert threading.active_count() == threads
    assert scalars(tmp_path / "new" / "folder") == [(3, 0.5), (4, 0.25)]
    writer.close()


def test_a_resumed_run_hides_the_steps_that_it_takes_again(tmp_path):
    for first, value in ((None, 1.0), (3, 2.0)):
        writer = EventWriter(tmp_path, first)
        for step in range(first or 1, 5):
            writer.add_scalar("loss", value, step)
        writer.close()
    assert len(list(tmp_path.iterdir())) == 2  # made within one second
    assert scalars(tmp_path) == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]


def test_a_closed_writer_begins_another_file_as_torchs_does(tmp_path):
    writer = EventWriter(tmp_path)
    writer.add_scalar("loss", 1.0, 1)
    writer.close()
    writer.add_scalar("loss", 2.0, 2)
    writer.close()
    assert scalars(tmp_path) == [(1, 1.0), (2, 2.0)]


def test_a_full_disk_is_one_warning_that_names_the_folder(tmp_path):
    writer = EventWriter(tmp_path)
    writer.add_scalar("loss", 1.0, 1)
    with full_disk(), pytest.warns(UserWarning) as caught:
        for step in range(2, 50):
            writer.add_scalar("loss", 1.0, step)
    assert [str(w.message) for w in caught] == [
        f"could not write to {tmp_path}: File too large; training goes on without TensorBoard"
    ]
    assert writer.failed
    writer.add_scalar("loss", 1.0, 50)  # there is room again, but a gap would be no curve
    writer.flush()
    writer.close()
    assert scalars(tmp_path) == [(1, 1.0)]


def test_a_disk_that_is_full_from_the_start_is_one_warning(tmp_path):
    with full_disk(), pytest.warns(UserWarning, match="File too large") as caught:
        writer = EventWriter(tmp_path)
        writer.add_scalar("loss", 1.0, 1)
        writer.close()
    assert len(caught) == 1


def test_a_folder_that_is_a_file_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError):
        EventWriter(tmp_path / "file")


def trained(monitor=None):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = LearnedOptimizer(model.named_parameters(), rule="digits-lstm")
    if monitor is not None:
        monitor.attach(optimizer)
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
    return optimizer, torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_monitored_training_goes_on_when_the_disk_is_full(tmp_path):
    _, alone = trained()
    monitor = GateMonitor(tmp_path, every=1, heat_map_every=2)
    with full_disk(), pytest.warns(UserWarning) as caught:
        _, watched = trained(monitor)
        monitor.close()
    assert torch.equal(watched, alone)
    assert [str(w.message) for w in caught] == [
        f"could not write to {tmp_path}: File too large; training goes on without TensorBoard"
    ]


def test_so_does_one_that_writes_to_the_users_own_writer(tmp_path, monkeypatch):
    # The thread of a SummaryWriter dies with a traceback: not to be blamed on a later test.
    monkeypatch.setattr(threading, "excepthook", lambda details: None)
    before = set(threading.enumerate())
    _, alone = trained()
    writer = SummaryWriter(str(tmp_path))
    monitor = GateMonitor(writer, every=1, heat_map_every=2)
    with full_disk(), pytest.warns(UserWarning) as caught:
        optimizer, watched = trained(monitor)
        monitor.close()
    assert torch.equal(watched, alone)
    assert not optimizer._update_hooks
    assert [str(w.message) for w in caught] == [
        f"could not write to {tmp_path}: File too large; training goes on without TensorBoard"
    ]
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=60)
