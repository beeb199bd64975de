"""CONFORMANCE.md, lines 52 to 55, in two processes: models under `fully_shard`."""

import pytest
import torch
import torch.distributed as dist
from conftest import COORDINATE_RULES, clones, make_rule, same, without_step
from processes import on_two_processes
from spread_models import (
    RULES,
    assert_close,
    load,
    make_alone,
    make_sharded,
    make_spread_rule,
    part,
    refusal,
    save,
    snapshot,
    train,
    whole,
    whole_states,
    whole_weights,
)
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor


@on_two_processes
def test_52_fsdp2_state_is_sharded_like_its_parameter(folder):
    for name in COORDINATE_RULES:
        rule = make_rule(name)
        model, optimizer = make_sharded(rule)
        train(model, optimizer, 1)
        for parameter in model.parameters():
            state = dict(optimizer.state[parameter])
            assert type(state["step"]) is torch.Tensor and state.pop("step").shape == ()
            assert state.keys() == rule.coordinate_state().keys()
            for key, trailing in rule.coordinate_state().items():
                assert isinstance(state[key], DTensor)
                assert state[key].shape == (*parameter.shape, *trailing)
                assert state[key].placements == parameter.placements
                assert state[key].device_mesh == parameter.device_mesh
                expected = (*parameter.to_local().shape, *trailing)
                assert state[key].to_local().shape == expected


@on_two_processes
def test_52_fsdp2_equals_one_process(folder):
    for name in RULES:
        for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
            rule = make_spread_rule(name, dtype)
            sharded, alone = make_sharded(rule), make_alone(rule)
            train(*sharded, 5)
            train(*alone, 5, alone=True)
            assert_close(whole_weights(sharded[0]), whole_weights(alone[0]), tolerance)
            # In float32 the logarithm of a small gradient magnifies its rounding: 2e-6 in h and c.
            if dtype == torch.float64:
                assert_close(whole_states(*sharded), whole_states(*alone), 1e-10)


@on_two_processes
def test_52_fsdp2_resumes_bitwise_from_a_distributed_checkpoint(folder):
    for name in RULES:
        rule = make_spread_rule(name)
        unbroken = make_sharded(rule)
        train(*unbroken, 3)
        save(folder / name, *unbroken)
        saved = snapshot(*unbroken)
        train(*unbroken, 3)
        resumed = make_sharded(rule, seed=1)
        load(folder / name, *resumed)
        assert same(snapshot(*resumed), saved), name
        train(*resumed, 3)
        assert same(snapshot(*resumed), snapshot(*unbroken)), name


@on_two_processes
def test_52_fsdp2_state_is_gathered_and_spread_again(folder):
    """Every process, or only the first, has the whole state; all resume bitwise."""
    rule = make_rule("adam-lstm")
    unbroken = make_sharded(rule)
    train(*unbroken, 3)
    gather = StateDictOptions(full_state_dict=True, cpu_offload=True)
    spread = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    states = get_optimizer_state_dict(*unbroken, options=gather)
    if dist.get_rank() == 0:
        for key, trailing in rule.coordinate_state().items():
            assert states["state"]["0.weight"][key].shape == (5, 3, *trailing)
    resumed = make_sharded(rule, seed=1)
    set_model_state_dict(resumed[0], get_model_state_dict(unbroken[0]))
    set_optimizer_state_dict(*resumed, states, options=spread)
    for pair in (unbroken, resumed):
        train(*pair, 3)
    assert same(snapshot(*resumed), snapshot(*unbroken))


@on_two_processes
def test_52_a_state_dict_loads_whether_sharded_or_whole(folder):
    rule = make_rule("lstm")
    unbroken = make_sharded(rule)
    train(*unbroken, 3)
    sharded = unbroken[1].state_dict()
    full = {
        "state": {
            index: {key: whole(value) for key, value in state.items()}
            for index, state in sharded["state"].items()
        },
        "param_groups": sharded["param_groups"],
    }
    expected = snapshot(*unbroken)
    torch.save(sharded, folder / str(dist.get_rank()))
    for saved in (sharded, full, torch.load(folder / str(dist.get_rank()), weights_only=True)):
        resumed = make_sharded(rule)
        resumed[1].load_state_dict(saved)
        assert same(snapshot(*resumed)[1], expected[1])
        train(*resumed, 1)  # in memory of its own
        assert same(snapshot(*unbroken), expected)

    message = refusal(ValueError, make_alone(rule)[1].load_state_dict, sharded)
    assert "torch.distributed.checkpoint" in message


@on_two_processes
def test_52_the_rule_reads_the_mean_of_the_losses_of_all_processes(folder):
    rule = make_rule("step-size-lstm")
    nn.init.normal_(rule.head.weight)
    own, mean = make_sharded(rule), make_sharded(rule)
    for (model, optimizer), losses in ((own, (3.0, 1.0)), (mean, (2.0, 2.0))):
        for step in range(4):
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
            loss = torch.tensor(losses[dist.get_rank()] / (step + 1))
            optimizer.step(lambda loss=loss: loss)
    assert same(snapshot(*own), snapshot(*mean))
    unread = make_sharded(rule)
    for _ in range(4):
        for parameter in unread[0].parameters():
            parameter.grad = torch.ones_like(parameter)
        unread[1].step()
    assert not same(snapshot(*own)[0][:1], snapshot(*unread)[0][:1])


@on_two_processes
def test_52_the_average_of_sharded_weights_is_swapped_in_and_out(folder):
    rule = make_rule("orthogonal-momentum")
    sharded, alone = make_sharded(rule), make_alone(rule)
    train(*sharded, 5)
    train(*alone, 5, alone=True)
    before = snapshot(*sharded)[0]
    sharded[1].eval()
    alone[1].eval()
    assert_close(whole_weights(sharded[0]), whole_weights(alone[0]))
    assert not same(snapshot(*sharded)[0], before)
    sharded[1].train()
    assert same(snapshot(*sharded)[0], before)


@on_two_processes
def test_52_weights_that_one_process_alone_sees_change_are_kept_by_all(folder):
    """Loaded weights whose first part happens to be the average's: no process may undo the load."""
    model, optimizer = make_sharded(make_rule("orthogonal-momentum"))
    train(model, optimizer, 3)
    optimizer.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if dist.get_rank() == 1:
                parameter.to_local().add_(1)
    expected = snapshot(model, optimizer)[0]
    with pytest.warns(UserWarning, match="changed in evaluation mode"):
        optimizer.train()
    # The second process holds nothing of the last two.
    assert same(snapshot(model, optimizer)[0][:2], expected[:2])


@on_two_processes
def test_53_empty_local_shards_work(folder):
    for name in COORDINATE_RULES:
        model, optimizer = make_sharded(make_rule(name))
        before = clones(whole_weights(model))
        train(model, optimizer, 2)
        parts = [parameter.to_local().numel() for parameter in model.parameters()]
        assert parts == ([9, 3, 5, 1] if dist.get_rank() == 0 else [6, 2, 0, 0])
        after = whole_weights(model)
        assert not any(map(torch.equal, before, after)), name


@on_two_processes
def test_53_a_gradient_that_is_not_finite_in_one_process_skips_the_tensor_in_all(folder):
    for name in ("adam", "lstm"):
        model, optimizer = make_sharded(make_rule(name))
        train(model, optimizer, 1)
        before = snapshot(model, optimizer)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        if dist.get_rank() == 1:
            model[0].weight.grad.to_local()[0, 0] = torch.nan
        with pytest.warns(RuntimeWarning, match="not finite"):
            optimizer.step()
        assert optimizer.skipped_updates == 1
        weights, states = snapshot(model, optimizer)
        assert same([weights[0], states[0]], [before[0][0], before[1][0]]), name
        assert [state["step"] for state in states] == [1, 2, 2, 2], name
        assert not torch.equal(weights[1], before[0][1]), name


@on_two_processes
def test_54_on_fsdp2_the_checkpoints_first_state_moves_nothing(folder):
    for name in COORDINATE_RULES:
        model, optimizer = make_sharded(make_rule(name))
        before = [part(parameter) for parameter in model.parameters()]
        get_optimizer_state_dict(model, optimizer)
        parameters, states = snapshot(model, optimizer)
        assert same(parameters, before), name
        for parameter, state in zip(parameters, states, strict=True):
            assert same(without_step(state), without_step(optimizer.rule.init_state(parameter)))


@on_two_processes
def test_55_state_can_be_made_at_once_so_that_processes_agree(folder):
    for name in RULES:
        lazy, eager = make_sharded(make_spread_rule(name)), make_sharded(make_spread_rule(name))
        eager[1].init_state()
        made = [sorted(optimizer.state_dict()["state"]) for optimizer in (lazy[1], eager[1])]
        assert made == [[], [0, 1, 2, 3]], name
        for pair in (lazy, eager):
            train(*pair, 2)
        assert same(snapshot(*eager), snapshot(*lazy)), name
