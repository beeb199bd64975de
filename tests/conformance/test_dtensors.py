"""CONFORMANCE.md, line 52, in two processes: DTensors of any placement, without `fully_shard`."""

import torch
from conftest import make_rule
from processes import RANKS, on_two_processes
from spread_models import assert_close, make_spread_rule, plan_of, refusal, whole
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from learned_opt import LearnedOptimizer
from learned_opt.rules.base import UpdateRule


@on_two_processes
def test_52_any_placement_steps_its_local_part(folder):
    line, square = init_device_mesh("cpu", (RANKS,)), init_device_mesh("cpu", (1, RANKS))
    rule = make_rule("lstm")
    value = torch.linspace(-1, 1, 15).reshape(3, 5)
    plain = nn.Parameter(value.clone())
    alone = LearnedOptimizer([plain], rule=rule, total_steps=100)
    placements = [(line, [Shard(0)]), (line, [Shard(1)]), (line, [Replicate()])]
    placements.append((square, [Replicate(), Shard(0)]))
    spread = [nn.Parameter(distribute_tensor(value, *where)) for where in placements]
    optimizer = LearnedOptimizer(spread, rule=rule, total_steps=100, chunk_size=4)
    for _ in range(3):
        plain.grad = 3 * plain.detach() - 0.5
        for parameter in spread:
            gradient = plain.grad.clone() / RANKS
            # As autograd may leave it: each process holds one term of the sum.
            mesh = parameter.device_mesh
            unreduced = [Replicate()] * (mesh.ndim - 1) + [Partial()]
            parameter.grad = DTensor.from_local(gradient, mesh, unreduced)
        optimizer.step()
        alone.step()
    for parameter in spread:
        assert_close([whole(parameter)], [plain.detach()])


@on_two_processes
def test_52_rules_of_whole_tensors_step_them_wherever_their_parts_are(folder):
    """Tensors of several shapes, cut along several axes: exchanged, gathered, or on one process."""
    for name in ("orthogonal-momentum", "step-size-lstm", "general"):
        step_wherever_the_parts_are(make_spread_rule(name, torch.float64))


def step_wherever_the_parts_are(rule):
    line, square = init_device_mesh("cpu", (RANKS,)), init_device_mesh("cpu", (1, RANKS))
    shapes = [(4, 6), (7, 3), (6, 4), (3, 5), (5, 2, 3), (1, 4), (9,), (2,), (8200, 2)]
    wheres = [(line, [Shard(0)]), (line, [Shard(1)]), (line, [Replicate()])]
    wheres += [(square, [Replicate(), Shard(0)]), (square, [Shard(1), Shard(0)])]
    torch.manual_seed(0)
    values, alone, spread = [], [], []
    for shape in shapes:
        for mesh, placements in wheres:
            if any(one == Shard(1) for one in placements) and len(shape) == 1:
                continue
            value = torch.randn(shape, dtype=torch.float64)
            values.append(value)
            alone.append(nn.Parameter(value.clone()))
            spread.append(nn.Parameter(distribute_tensor(value, mesh, placements)))
    plain = LearnedOptimizer(alone, rule=rule, **plan_of(rule))
    optimizer = LearnedOptimizer(spread, rule=rule, **plan_of(rule))
    for _ in range(3):
        for one, parameter in zip(alone, spread, strict=True):
            one.grad = torch.randn_like(one)
            if len(one) > 2:
                one.grad[0] = 0
            if len(one) > 2 and one.dim() > 1:
                one.grad[1, : one.shape[1] // 2] = 0  # zero in one process and not in the other
            parameter.grad = distribute_tensor(
                one.grad, parameter.device_mesh, parameter.placements
            )
        plain.step()
        optimizer.step()
    assert_close([whole(p) for p in spread], [p.detach() for p in alone], 1e-12)
    for one, parameter in zip(alone, spread, strict=True):
        state = {key: whole(value) for key, value in optimizer.state[parameter].items()}
        expected = plain.state[one]
        assert {key: value.shape for key, value in state.items()} == {
            key: value.shape for key, value in expected.items()
        }
        assert_close(state.values(), expected.values(), 1e-12)
    if rule.averages:
        plain.eval()
        optimizer.eval()
        assert_close([whole(p) for p in spread], [p.detach() for p in alone], 1e-12)


@on_two_processes
def test_52_what_cannot_be_stepped_in_parts_is_refused(folder):
    mesh = init_device_mesh("cpu", (RANKS,))
    rule = make_rule("adam")

    def spread(value, placement=None):
        return nn.Parameter(distribute_tensor(value, mesh, [placement or Shard(0)]))

    unreduced = nn.Parameter(DTensor.from_local(torch.ones(4), mesh, [Partial()]))
    for parameter, word in (
        (spread(torch.ones(4, dtype=torch.complex64)), "complex"),
        (unreduced, "Partial"),
    ):
        assert word in refusal(RuntimeError, LearnedOptimizer, [parameter], rule=rule)

    class Whole(UpdateRule):
        def init_tensor_state(self, parameter):
            return {}

        def update(self, gradients, parameters, states, context):
            return gradients, states

    parameters = [spread(torch.ones(4))]
    assert "Whole" in refusal(RuntimeError, LearnedOptimizer, parameters, rule=Whole())
