"""Updates that are not finite are skipped, counted, and warned about once."""

import copy
import math
import warnings

import pytest
import torch
from conftest import clones, make_optimizer, make_rule, same, step_with
from torch import nn

from learned_opt import LearnedOptimizer, create_rule
from learned_opt.optimizer import finite_guard
from learned_opt.rules import CoordinateRule

QUIET = pytest.mark.filterwarnings("ignore:the update of")


@pytest.fixture(params=["values can be read", "as on a GPU"], autouse=True)
def path(request, monkeypatch):
    if request.param == "as on a GPU":
        monkeypatch.setattr(finite_guard, "_is_readable", lambda values: False)


def spoilt(gradient, bad=math.nan):
    gradient = gradient.clone()
    gradient.view(-1)[-1] = bad
    return gradient


def snapshot(optimizer, parameters):
    return copy.deepcopy([clones(parameters), optimizer.state_dict()["state"]])


@QUIET
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("chunk_size", [2, 1 << 16])
def test_a_tensor_with_a_bad_gradient_stays_and_the_others_move(rule, bad, chunk_size):
    tensors = [torch.linspace(-1, 1, 6).reshape(2, 3), torch.ones(4), torch.ones(())]
    optimizer, parameters = make_optimizer(rule, *tensors, chunk_size=chunk_size)
    alone, expected = make_optimizer(rule, *tensors, chunk_size=chunk_size)
    for k, spoil in enumerate([True, False, True, True, False]):
        gradients = [torch.cos(tensor + k) for tensor in tensors]
        first = spoilt(gradients[0], bad) if spoil else gradients[0]
        step_with(optimizer, first, *gradients[1:])
        step_with(alone, None if spoil else gradients[0], *gradients[1:])
    assert optimizer.state[parameters[0]]["step"] == 2
    torch.testing.assert_close(parameters, expected, rtol=1e-5, atol=1e-6)
    assert optimizer.skipped_updates == 3
    before = snapshot(optimizer, parameters)
    step_with(optimizer, *(spoilt(gradient, bad) for gradient in gradients))
    assert same(snapshot(optimizer, parameters), before)
    assert optimizer.skipped_updates == 6


@QUIET
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.complex64])
def test_every_dtype_is_guarded(rule, dtype):
    optimizer, parameters = make_optimizer(rule, torch.ones(3, dtype=dtype), torch.ones(3))
    step_with(optimizer, torch.ones(3, dtype=dtype), torch.ones(3))
    before = snapshot(optimizer, parameters[:1])
    step_with(optimizer, spoilt(torch.ones(3, dtype=dtype)), torch.ones(3))
    assert same(snapshot(optimizer, parameters[:1])[0], before[0])
    assert same(optimizer.state_dict()["state"][0], before[1][0])
    assert optimizer.state[parameters[1]]["step"] == 2


def test_the_warning_comes_once_and_names_the_tensors(rule):
    model = nn.ModuleDict({"a": nn.Linear(2, 1), "b": nn.Linear(2, 1)})
    optimizer = LearnedOptimizer(model.named_parameters(), rule=rule, total_steps=100)
    gradients = [torch.ones_like(p) for p in model.parameters()]
    bad = [*map(spoilt, gradients[:2]), *gradients[2:]]
    with pytest.warns(RuntimeWarning, match=r"the update of a\.weight, a\.bias was not") as caught:
        step_with(optimizer, *bad)
    assert len(caught) == 1
    assert caught[0].filename.endswith("conftest.py")  # where step was called
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step_with(optimizer, *map(spoilt, gradients))
    assert optimizer.skipped_updates == 6


def test_huge_gradients_are_not_mistaken_for_infinite_ones(rule):
    optimizer, (parameter,) = make_optimizer(rule, torch.ones(4, dtype=torch.float64))
    step_with(optimizer, torch.tensor([1e-30, 1e18, -1.0, 0.0], dtype=torch.float64))
    assert optimizer.skipped_updates == 0
    assert optimizer.state[parameter]["step"] == 1


@QUIET
def test_a_state_that_would_overflow_is_not_kept():
    optimizer, (parameter,) = make_optimizer(create_rule("rmsprop"), torch.ones(2))
    step_with(optimizer, torch.tensor([1.0, 1e25]))  # its square overflows, and stays so
    assert same(parameter, torch.ones(2))
    assert optimizer.skipped_updates == 1
    assert optimizer.state[parameter]["v"].eq(0).all()


@QUIET
def test_a_parameter_that_would_overflow_is_not_moved():
    optimizer, (parameter,) = make_optimizer(
        create_rule("sgd"), torch.ones(2, dtype=torch.float16), lr=1e4
    )
    step_with(optimizer, torch.tensor([1.0, 10.0], dtype=torch.float16))
    assert same(parameter, torch.ones(2, dtype=torch.float16))
    assert optimizer.skipped_updates == 1


@QUIET
def test_a_parameter_may_hold_infinities_of_its_own():
    optimizer, (parameter,) = make_optimizer(create_rule("sgd"), torch.tensor([-math.inf, 1]), lr=1)
    step_with(optimizer, torch.tensor([0.0, 0.5]))
    assert same(parameter, torch.tensor([-math.inf, 0.5]))
    assert optimizer.skipped_updates == 0
    step_with(optimizer, torch.tensor([0.0, math.inf]))
    assert optimizer.skipped_updates == 1


@QUIET
def test_a_loss_that_is_not_finite_skips_all_tensors_of_a_rule_that_reads_it():
    rule = make_rule("gated-lstm", spread=0.3)
    optimizer, parameters = make_optimizer(rule, torch.ones(3), torch.ones(2))
    step_with(optimizer, torch.ones(3), torch.ones(2))
    before = snapshot(optimizer, parameters)
    step_with(optimizer, torch.ones(3), torch.ones(2), loss=math.nan)
    assert same(snapshot(optimizer, parameters), before)
    assert optimizer.skipped_updates == 2


class _Overflows(CoordinateRule):
    """Gradient descent, but to infinity where the gradient is above 9."""

    def coordinate_state(self):
        return {"seen": ()}

    def update_coordinates(self, gradient, parameter, state, context, gates=None):
        return torch.where(gradient > 9, math.inf, -gradient), {"seen": state["seen"] + 1}


@QUIET
def test_where_only_the_rule_overflows_other_pieces_of_the_tensor_move():
    optimizer, (parameter,) = make_optimizer(_Overflows(), torch.zeros(4), chunk_size=2)
    state = optimizer.state[parameter]
    step_with(optimizer, torch.tensor([1.0, 1.0, 1.0, 10.0]))
    assert same(parameter, torch.tensor([-1.0, -1.0, 0.0, 0.0]))
    assert same(state["seen"], torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert (state["step"], optimizer.skipped_updates) == (1, 1)
    step_with(optimizer, torch.tensor([10.0, 1.0, 1.0, 10.0]))
    assert same(parameter, torch.tensor([-1.0, -1.0, 0.0, 0.0]))
    assert (state["step"], optimizer.skipped_updates) == (1, 2)


@QUIET
def test_the_count_is_not_saved_or_copied_and_survives_loading(rule):
    optimizer, _ = make_optimizer(rule, torch.ones(2))
    step_with(optimizer, spoilt(torch.ones(2)))
    saved = optimizer.state_dict()
    assert saved.keys() == {"state", "param_groups"}
    optimizer.load_state_dict(saved)
    assert optimizer.skipped_updates == 1
    assert copy.deepcopy(optimizer).skipped_updates == 0
    with pytest.raises(AttributeError):
        optimizer.skipped_updates = 0


@pytest.mark.parametrize("rule_name", ["adam", "lstm"])
def test_a_compiled_step_skips_counts_and_warns_without_compiling_again(rule):
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    optimizer, parameters = make_optimizer(rule.requires_grad_(False), torch.ones(3), torch.ones(2))
    counter, loss, counts = CompileCounter(), torch.tensor(1.0), []
    compiled = torch.compile(optimizer.step, backend=counter)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in range(6):
            for p in parameters:
                p.grad = torch.full_like(p, 1.0)
            if k > 2:
                parameters[1].grad[0] = math.nan
                before = parameters[1].detach().clone()
            compiled(lambda: loss)
            counts.append(counter.frame_count)
    assert counts[1] == counts[5]
    assert (
        sum("the update of parameter 1 of group 0 was not finite" in str(w.message) for w in caught)
        == 1
    )
    assert same(parameters[1], before)
    assert [optimizer.state[p]["step"] for p in parameters] == [6, 3]
    assert optimizer.skipped_updates == 3


def test_steps_on_the_meta_device_have_nothing_to_read(rule):
    optimizer, (parameter,) = make_optimizer(rule, torch.ones(3, device="meta"))
    step_with(optimizer, torch.ones_like(parameter))
    assert optimizer.skipped_updates == 0


@pytest.mark.gpu
def test_a_gpu_counts_without_waiting_in_replays_of_a_graph_too(rule):
    optimizer, (parameter,) = make_optimizer(rule.cuda(), torch.ones(3).cuda())
    parameter.grad = torch.ones_like(parameter)
    loss = torch.tensor(1.0, device="cuda")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            optimizer.step(lambda: loss)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step(lambda: loss)
    before = parameter.detach().clone()
    parameter.grad.fill_(math.nan)
    graph.replay()
    assert same(parameter.detach().cpu(), before.cpu())
    assert optimizer.skipped_updates == 1
    with pytest.warns(RuntimeWarning, match="the update of"):
        optimizer.step(lambda: loss)
        torch.cuda.synchronize()
        optimizer.step(lambda: loss)
