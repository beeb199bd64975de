"""What the steps in Triton do without Triton: tables, rates, counts, and who is refused."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_optimizer
from torch import nn

from learned_opt import LearnedOptimizer
from learned_opt.backends.registry import FUSED_STEPS
from learned_opt.backends.triton.rates import Rates
from learned_opt.backends.triton.step_in_triton import StepInTriton, interprets
from learned_opt.backends.triton.table import TensorTable, Upload
from learned_opt.optimizer.pending_updates import pending_updates

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def test_a_table_names_tensors_and_blocks():
    values = [torch.zeros(9), torch.zeros(()), torch.zeros(0, 3), torch.zeros(4, 2)]
    states = [torch.zeros_like(value) for value in values]
    table = TensorTable(4)
    table.point_to(list(zip(values, states, strict=True)))
    rows = table.rows.reshape(4, 5).tolist()
    assert [row[0] for row in rows] == [9, 1, 0, 8]
    assert [row[2] for row in rows] == [0, 3, 4, 5]
    assert [row[3] for row in rows] == [value.data_ptr() for value in values]
    assert [row[4] for row in rows] == [state.data_ptr() for state in states]
    pairs = [(entry >> 32, entry & 0xFFFFFFFF) for entry in table.blocks.tolist()]
    assert pairs == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (3, 0), (3, 1)]
    assert (table.tensors, table.count, table.width) == (4, 7, 5)


def test_a_row_is_aligned_if_all_its_addresses_are():
    memory = torch.zeros(64)
    start = (-memory.data_ptr() // 4) % 4  # elements up to a multiple of 16 bytes
    aligned, shifted = memory[start : start + 8], memory[start + 1 : start + 9]
    table = TensorTable(4)
    table.point_to([[aligned, aligned], [aligned, shifted]])
    assert [row[1] for row in table.rows.reshape(2, 5).tolist()] == [1, 0]


def test_a_table_follows_tensors_that_move():
    table = TensorTable(4)
    one, other = torch.zeros(5), torch.zeros(5)
    table.point_to([[one]])
    kept = table.blocks
    table.point_to([[other]])
    assert int(table.rows[3]) == other.data_ptr()
    assert table.blocks is kept


def test_an_upload_is_made_anew_only_when_its_key_changes():
    upload, made = Upload(), []

    def make():
        made.append(len(made))
        return torch.tensor(made).numpy()

    first = upload.get("a", make, CPU)
    assert upload.get("a", make, CPU) is first
    assert upload.get("b", make, CPU).tolist() == [0, 1]


def test_rates_are_those_of_each_tensors_group():
    one = {"lr": 0.5, "weight_decay": 0.1}
    two = {"lr": torch.tensor([0.25]), "weight_decay": 0.0}
    rates = Rates()
    assert rates.get([one, one], CPU).tolist() == [[0.5, 0.05], [0.5, 0.05]]
    assert rates.get([one, two, one], CPU).tolist() == [[0.5, 0.05], [0.25, 0.0], [0.5, 0.05]]
    two["lr"].fill_(2.0)
    assert rates.get([two], CPU).tolist() == [[2.0, 0.0]]


def test_tensors_that_a_device_skipped_are_counted_by_name():
    optimizer, parameters = make_optimizer("sgd", torch.ones(2), torch.ones(3), torch.ones(1))
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    updates = list(pending_updates(optimizer.param_groups, optimizer._state_of, "optimizer"))
    for _ in range(2):
        optimizer._guard.count_on_device(updates, torch.tensor([True, False, True]))
    assert optimizer.skipped_updates == 2
    with pytest.warns(RuntimeWarning, match="parameter 1 of group 0"):
        optimizer._guard.warn(optimizer.param_groups)


def test_a_gpu_is_the_last_choice_and_refuses_the_cpu():
    found = []
    for rows in FUSED_STEPS.values():
        flags = [issubclass(row, StepInTriton) for row in rows]
        assert flags == sorted(flags)
        found += [row for row in rows if issubclass(row, StepInTriton)]
    assert len(found) == 3
    assert not interprets()
    for row in found:
        assert row().refuses_parameter(nn.Parameter(torch.ones(2))) == "it is on cpu, not on a GPU"


def test_a_double_parameter_on_the_cpu_gets_the_first_refusal():
    parameter = nn.Parameter(torch.ones(2, dtype=torch.float64))
    with pytest.raises(ValueError) as raised:
        LearnedOptimizer([parameter], fused=True)
    assert "GPU" not in str(raised.value)


def test_a_machine_without_a_gpu_never_imports_kernels():
    """To import a kernel is to import Triton. (torch does so itself, where it is installed.)"""
    code = """
import sys, torch
from learned_opt import LearnedOptimizer
for rule in ("orthogonal-momentum", "step-size-lstm", "digits-lstm"):
    parameter = torch.nn.Parameter(torch.ones(3, 2))
    plan = {"total_steps": 9} if rule == "step-size-lstm" else {}
    optimizer = LearnedOptimizer([parameter], rule=rule, **plan)
    parameter.grad = torch.ones(3, 2)
    optimizer.step()
assert "learned_opt.backends.triton" in sys.modules
assert "learned_opt.backends.triton.kernels" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
