"""CONFORMANCE.md, lines 27, 43, 50, 54, 56, in two processes: DDP, ZeRO, resharding, FSDP1.

Everywhere: train, stop, resume, and end bitwise where the unbroken run ends. Only where the number
of processes changes while training goes on do sums change their order: 1e-6.
"""

import functools

import pytest
import torch
import torch.distributed as dist
from conftest import clones, make_rule, same, without_step
from processes import RANKS, on_two_processes
from spread_models import (
    RULES,
    assert_close,
    load,
    make_alone,
    make_model,
    make_replicated,
    make_sharded,
    make_spread_rule,
    refusal,
    save,
    snapshot,
    train,
    whole_states,
    whole_weights,
)
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from learned_opt import LearnedOptimizer
from learned_opt.optimizer.zero import evaluate


@on_two_processes
def test_27_ddp_replicas_are_bitwise_equal(folder):
    for name in RULES:
        model, optimizer = make_replicated(make_spread_rule(name))
        train(model, optimizer, 5)
        everyone = [None] * RANKS
        dist.all_gather_object(everyone, snapshot(model, optimizer))
        assert same(everyone[0], everyone[1]), name
        assert not same(everyone[0][0], clones(make_model().parameters())), name


@on_two_processes
def test_43_ddp_resumes_bitwise_from_a_file_and_from_a_distributed_checkpoint(folder):
    for name in RULES:
        rule = make_spread_rule(name)
        unbroken = make_replicated(rule)
        train(*unbroken, 3)
        model, optimizer = unbroken
        file = folder / f"{name}.{dist.get_rank()}"
        torch.save([model.state_dict(), optimizer.state_dict()], file)
        save(folder / name, *unbroken)
        train(*unbroken, 3)

        resumed = make_replicated(rule, seed=1)
        for target, state in zip(resumed, torch.load(file, weights_only=True), strict=True):
            target.load_state_dict(state)
        train(*resumed, 3)
        assert same(snapshot(*resumed), snapshot(*unbroken)), name

        resumed = make_replicated(rule, seed=1)
        load(folder / name, *resumed)
        train(*resumed, 3)
        assert same(snapshot(*resumed), snapshot(*unbroken)), name


@on_two_processes
def test_50_zero_redundancy_optimizer_resumes_bitwise(folder):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    for name in RULES:
        if name in ("step-size-lstm", "general"):  # reads a mean over the tensors of its process
            continue
        rule = make_spread_rule(name)

        def make(seed=0, rule=rule):
            model = DistributedDataParallel(make_model(seed))
            constructor = functools.partial(LearnedOptimizer, rule=rule)
            return model, ZeroRedundancyOptimizer(model.parameters(), constructor, lr=0.5)

        model, optimizer = unbroken = make()
        train(*unbroken, 3)
        optimizer.consolidate_state_dict(to=0)
        if dist.get_rank() == 0:
            torch.save([model.state_dict(), optimizer.state_dict()], folder / name)
        dist.barrier()
        resumed = make(seed=1)
        for target, state in zip(
            resumed, torch.load(folder / name, weights_only=True), strict=True
        ):
            target.load_state_dict(state)
        for pair in (unbroken, resumed):
            train(*pair, 3)
        assert same(clones(resumed[0].parameters()), clones(model.parameters())), name

        plain, reference = make_replicated(rule)
        reference.param_groups[0]["lr"] = 0.5
        train(plain, reference, 6)
        assert_close(clones(model.parameters()), clones(plain.parameters()))


@on_two_processes
def test_50_zero_redundancy_optimizer_evaluates_at_the_average_in_every_process(folder):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    rule = make_rule("orthogonal-momentum")
    model = DistributedDataParallel(make_model())
    constructor = functools.partial(LearnedOptimizer, rule=rule)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), constructor, lr=0.0068)
    plain, reference = make_replicated(rule)
    for steps in (4, 3):
        for pair in ((model, optimizer), (plain, reference)):
            train(*pair, steps)
        before = clones(model.parameters())
        for _ in range(2):  # also at once again, without a step between
            evaluate(optimizer)
            reference.eval()
            assert_close(clones(model.parameters()), clones(plain.parameters()))
            assert not same(clones(model.parameters()), before)
            evaluate(optimizer, False)
            reference.train()
            assert same(clones(model.parameters()), before)
    other = ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.1)
    assert "must hold a LearnedOptimizer, got SGD" in refusal(TypeError, evaluate, other)


@on_two_processes
def test_50_a_shard_is_stepped_by_the_shape_of_the_whole(folder):
    """A wide matrix and a kernel: how long their steps are depends on their whole shapes."""
    rule = make_rule("orthogonal-momentum")

    def make():
        torch.manual_seed(0)
        return nn.ParameterList([nn.Parameter(torch.randn(s)) for s in ((300, 6), (5, 3, 2, 2))])

    sharded, alone = make(), make()
    fully_shard(sharded, mesh=init_device_mesh("cpu", (RANKS,)))
    pairs = [(model, LearnedOptimizer(model.parameters(), rule=rule)) for model in (sharded, alone)]
    for step in range(3):
        for model, optimizer in pairs:
            torch.manual_seed(step)
            for parameter in model.parameters():
                gradient = torch.randn(parameter.shape)
                parameter.grad = (
                    distribute_tensor(gradient, parameter.device_mesh, parameter.placements)
                    if isinstance(parameter, DTensor)
                    else gradient
                )
            optimizer.step()
    assert_close(whole_weights(sharded), whole_weights(alone), 1e-5)


@on_two_processes
def test_52_resharding_from_two_processes_to_one_and_back(folder):
    for name in RULES:
        rule = make_spread_rule(name)
        unbroken = make_sharded(rule)
        train(*unbroken, 2)
        save(folder / f"{name}-2", *unbroken)
        saved = whole_weights(unbroken[0]), whole_states(*unbroken)
        if dist.get_rank() == 0:
            alone = make_alone(rule, seed=1)
            load(folder / f"{name}-2", *alone, no_dist=True)
            assert same((whole_weights(alone[0]), whole_states(*alone)), saved), name
            save(folder / f"{name}-same", *alone, no_dist=True)
            train(*alone, 2, alone=True)
            save(folder / f"{name}-1", *alone, no_dist=True)
        dist.barrier()
        moved, resumed = make_sharded(rule, seed=2), make_sharded(rule, seed=3)
        load(folder / f"{name}-same", *moved)
        load(folder / f"{name}-1", *resumed)
        for pair, steps in ((unbroken, 4), (moved, 4), (resumed, 2)):
            train(*pair, steps)
        assert same(snapshot(*moved), snapshot(*unbroken)), name
        assert_close(whole_weights(resumed[0]), whole_weights(unbroken[0]))


@on_two_processes
def test_56_fsdp1_is_refused_with_a_pointer_to_fsdp2(folder):
    for whole_names in (False, True):
        model = FullyShardedDataParallel(
            make_model(), use_orig_params=whole_names, device_id=torch.device("cpu")
        )
        message = refusal(
            RuntimeError, LearnedOptimizer, model.parameters(), rule=make_rule("adam")
        )
        assert "fully_shard" in message


@pytest.mark.parametrize("tensor_lr", [False, True])
def test_54_the_checkpoints_first_state_moves_nothing(rule, tensor_lr):
    model = make_model()
    before = clones(model.parameters())
    lr = torch.tensor(0.5) if tensor_lr else 0.5
    settings = {"lr": lr, "weight_decay": 0.1, "total_steps": 9}
    optimizer = LearnedOptimizer(model.parameters(), rule=rule, **settings)
    get_optimizer_state_dict(model, optimizer)
    assert same(clones(model.parameters()), before)
    assert optimizer.param_groups[0]["lr"] == 0.5
    for parameter in model.parameters():
        expected = without_step(rule.init_state(parameter))
        assert same(without_step(optimizer.state[parameter]), expected)


def test_50_a_step_that_zero_redundancy_optimizer_left_on_the_cpu_follows_its_parameter(rule):
    parameter = nn.Parameter(torch.ones(3, device="meta"))
    optimizer = LearnedOptimizer([parameter], rule=rule, total_steps=100)
    optimizer.init_state()
    optimizer.state[parameter]["step"] = torch.tensor(3.0)
    optimizer.init_state()
    assert optimizer.state[parameter]["step"].device.type == "meta"
