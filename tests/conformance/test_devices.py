"""CONFORMANCE.md, lines 25 to 32: devices, dtypes, compilation and memory."""

import weakref

import pytest
import torch
from conftest import (
    COORDINATE_RULES,
    clones,
    make_model,
    make_optimizer,
    make_rule,
    same,
    step_with,
    train,
)
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from learned_opt import LearnedOptimizer, list_rules
from learned_opt.optimizer import finite_guard

LOW_DTYPES = [torch.bfloat16, torch.float16]


def test_25_one_optimizer_steps_parameters_of_several_dtypes_and_devices(rule):
    dtypes = [torch.float32, torch.float64, torch.bfloat16]
    tensors = [torch.ones(3, dtype=dtype) for dtype in dtypes]
    optimizer, parameters = make_optimizer(rule, *tensors, torch.ones(3, device="meta"))
    for _ in range(2):
        step_with(optimizer, *(torch.ones_like(p) for p in parameters))
    for parameter, tensor in zip(parameters[:3], tensors, strict=True):
        alone, (expected,) = make_optimizer(rule, tensor)
        for _ in range(2):
            step_with(alone, torch.ones_like(tensor))
        torch.testing.assert_close(parameter, expected)
    assert optimizer.state[parameters[3]]["step"].device.type == "meta"


def test_25_a_rule_on_another_device_is_copied_once_and_follows_its_weights(rule):
    optimizer, _ = make_optimizer(rule, torch.ones(3, device="meta"))
    step_with(optimizer, torch.ones(3, device="meta"))
    meta = torch.device("meta")
    copied = optimizer._copies.on(optimizer.rule, meta)
    assert optimizer._copies.on(optimizer.rule, meta) is copied
    assert copied.device == meta
    if list(rule.parameters()):
        with torch.no_grad():
            next(rule.parameters()).mul_(2)
        assert optimizer._copies.on(optimizer.rule, meta) is not copied
    assert rule.device.type == "cpu"


@pytest.mark.gpu
def test_25_cpu_and_gpu_parameters_in_one_optimizer(rule):
    optimizer, (on_cpu, on_gpu) = make_optimizer(rule, torch.ones(3), torch.ones(3).cuda())
    for _ in range(3):
        step_with(optimizer, torch.ones(3), torch.ones(3).cuda())
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [*LOW_DTYPES, torch.float64])
def test_26_state_stays_float32_and_the_update_is_cast_once(rule, dtype):
    start = torch.linspace(0.5, 1.5, 6, dtype=dtype)
    gradient = torch.linspace(-1, 1, 6, dtype=dtype)
    optimizer, (parameter,) = make_optimizer(rule, start, lr=0.5)
    # In float32 nothing is cast: the same update, before rounding. By the rule's own code in both.
    wide, (reference,) = make_optimizer(rule, start.float(), lr=0.5, fused=False)
    step_with(optimizer, gradient)
    step_with(wide, gradient.float())
    assert {tensor.dtype for tensor in optimizer.state[parameter].values()} == {torch.float32}
    assert same(optimizer.state[parameter], wide.state[reference])
    assert parameter.dtype == dtype
    if dtype in LOW_DTYPES:
        assert same(parameter, reference.detach().to(dtype))
    else:
        torch.testing.assert_close(parameter.float(), reference, rtol=1e-6, atol=1e-7)


def test_27_equal_gradients_keep_replicas_bitwise_equal(rule):
    models = [make_model() for _ in range(2)]
    runs = []
    for model in models:
        optimizer = LearnedOptimizer(model.parameters(), rule=rule, total_steps=100)
        train(model, optimizer, 10)
        runs.append([clones(model.parameters()), optimizer.state_dict()["state"]])
    assert same(*runs)


def test_28_differentiable_is_refused_with_a_pointer(rule):
    with pytest.raises(ValueError, match=r"higher\.innerloop_ctx.*meta_train.inner.loop"):
        make_optimizer(rule, torch.ones(1), differentiable=True)


@pytest.mark.parametrize("name", ["foreach", "fused", "capturable"])
def test_29_another_implementation_is_not_promised(rule, name):
    """Frameworks pass None or False on; `fused=True` is tested beside the faster code."""
    optimizer, _ = make_optimizer(rule, torch.ones(1), **{name: None})
    assert name not in optimizer.defaults
    make_optimizer(rule, torch.ones(1), **{name: False})
    if name == "fused":
        return
    with pytest.raises(ValueError, match=f"{name}=True is not supported"):
        make_optimizer(rule, torch.ones(1), **{name: True})


class _Operations(TorchDispatchMode):
    """Names of the operations that run inside, and the most bytes that they held at once."""

    def __init__(self):
        super().__init__()
        self.names, self.live, self.peak, self._known = set(), 0, 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        name = function._schema.name
        self.names.add(name)
        if name == "aten::_to_copy" and kwargs.get("device", args[0].device) != args[0].device:
            self.names.add("between devices")
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return result

    def ignore(self, tensors):
        self._known |= {tensor.untyped_storage()._cdata for tensor in tensors}

    def _note(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key, size):
        self._known.discard(key)
        self.live -= size


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["float lr", "tensor lr"])
def test_30_a_step_never_waits_for_the_device(rule, lr, monkeypatch):
    # Values on the CPU can be read at once, and are; here the step must take the way of a GPU.
    monkeypatch.setattr(finite_guard, "_is_readable", lambda values: False)
    options = {"lr": lr, "chunk_size": 3, "fused": False}
    optimizer, _ = make_optimizer(rule, torch.ones(3), torch.ones(2, 2), **options)
    loss = torch.tensor(1.0)
    for p in optimizer.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    with _Operations() as operations:
        optimizer.step(lambda: loss)
    waits = {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero"}
    assert operations.names.isdisjoint(waits)
    assert "aten::copy_" in operations.names


def test_30_planned_steps_and_losses_are_made_on_the_device(rule):
    """Copying them there from the host would wait for the device, and end a CUDA graph capture."""
    optimizer, (parameter,) = make_optimizer(rule, torch.ones(3, device="meta"), total_steps=9)
    optimizer.init_state()
    optimizer._copies.on(optimizer.rule, parameter.device)
    parameter.grad = torch.ones_like(parameter)
    with _Operations() as operations:
        optimizer.step(lambda: torch.ones((), device="meta"))
    assert operations.names.isdisjoint({"between devices", "aten::lift_fresh"})


def test_30_state_is_updated_in_place(rule):
    optimizer, (parameter,) = make_optimizer(rule, torch.ones(3))
    step_with(optimizer, torch.ones(3))
    before = {key: tensor.data_ptr() for key, tensor in optimizer.state[parameter].items()}
    address = parameter.data_ptr()
    step_with(optimizer, torch.ones(3))
    assert {k: tensor.data_ptr() for k, tensor in optimizer.state[parameter].items()} == before
    assert parameter.data_ptr() == address


@pytest.mark.gpu
def test_30_a_step_can_be_captured_in_a_cuda_graph(rule):
    optimizer, (parameter,) = make_optimizer(rule.cuda(), torch.ones(3).cuda(), total_steps=9)
    plain, (expected,) = make_optimizer(rule, torch.ones(3).cuda(), total_steps=9)
    loss = torch.tensor(1.0, device="cuda")
    parameter.grad, expected.grad = (torch.ones(3, device="cuda") for _ in range(2))
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            optimizer.step(lambda: loss)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step(lambda: loss)
    graph.replay()
    for _ in range(4):
        plain.step(lambda: loss)
    torch.testing.assert_close(parameter, expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("rule_name", "lr"),
    [*((name, 0.1) for name in list_rules()), ("adam", torch.tensor(0.1))],
    ids=str,
)
def test_31_a_compiled_step_equals_the_eager_one_and_is_not_compiled_again(rule, lr):
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    rule.requires_grad_(False)
    optimizer, parameters = make_optimizer(rule, torch.ones(3), torch.ones(2, 2), lr=lr)
    plain, expected = make_optimizer(rule, torch.ones(3), torch.ones(2, 2), lr=lr)
    counter, loss, counts = CompileCounter(), torch.tensor(1.0), []
    compiled = torch.compile(optimizer.step, backend=counter)
    for k in range(5):
        for p in [*parameters, *expected]:
            p.grad = torch.full_like(p, 1.0 + k)
        compiled(lambda: loss)
        plain.step(lambda: loss)
        counts.append(counter.frame_count)
    torch.testing.assert_close(parameters, expected)
    assert counts[1] == counts[4] > 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rule_name", ["adam", "lstm"])
def test_31_a_compiled_step_in_chunks_equals_the_eager_one(rule):
    torch._dynamo.reset()
    optimizer, parameters = make_optimizer(rule, torch.ones(7), torch.ones(2, 2), chunk_size=3)
    plain, expected = make_optimizer(rule, torch.ones(7), torch.ones(2, 2), chunk_size=3)
    compiled = torch.compile(optimizer.step, backend="aot_eager")
    for k in range(3):
        for p in [*parameters, *expected]:
            p.grad = torch.full_like(p, 1.0 + k)
        compiled()
        plain.step()
    torch.testing.assert_close(parameters, expected)


def peak_of_a_step(rule, size, chunk_size):
    options = {"chunk_size": chunk_size, "fused": False}
    optimizer, (parameter,) = make_optimizer(rule, torch.ones(size), **options)
    optimizer.init_state()
    parameter.grad = torch.ones(size)
    operations = _Operations()
    kept = [parameter, parameter.grad, *optimizer.state[parameter].values(), *rule.parameters()]
    operations.ignore(kept)
    loss = torch.tensor(1.0)
    with operations:
        optimizer.step(lambda: loss)
    return operations.peak


@pytest.mark.parametrize("rule_name", COORDINATE_RULES)
def test_32_memory_of_a_step_is_bounded_by_the_chunk_and_not_the_parameter(rule):
    small, large = (peak_of_a_step(rule, size, 256) for size in (512, 512 * 16))
    assert small > 0
    # A view of each piece costs nothing: the peak may not grow with the parameter.
    assert large <= small * 1.1
    assert peak_of_a_step(rule, 512 * 16, 512 * 16) > 8 * large


def test_32_chunks_change_nothing(rule_name):
    results = []
    for chunk_size in (1, 5, 1 << 16):
        rule = make_rule(rule_name, torch.float64)
        tensors = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in (1, 7, 12)]
        tensors[2] = tensors[2].reshape(3, 4)
        optimizer, parameters = make_optimizer(rule, *tensors, chunk_size=chunk_size)
        for _ in range(3):
            step_with(optimizer, *(torch.cos(9 * tensor) for tensor in tensors))
        states = [dict(optimizer.state[p]) for p in parameters]
        results.append([clones(parameters), states])
    torch.testing.assert_close(results[0], results[2], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(results[1], results[2], rtol=1e-12, atol=1e-14)


@pytest.mark.gpu
def test_32_peak_of_gpu_memory_is_bounded(rule):
    optimizer, (parameter,) = make_optimizer(rule.cuda(), torch.ones(1 << 20, device="cuda"))
    optimizer.init_state()
    parameter.grad = torch.ones_like(parameter)
    loss = torch.tensor(1.0, device="cuda")
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    optimizer.step(lambda: loss)
    assert torch.cuda.max_memory_allocated() - before < 256 * 2**20


def test_32_state_costs_what_the_rule_says(rule):
    optimizer, (parameter,) = make_optimizer(rule, nn.init.ones_(torch.empty(5, 2)))
    optimizer.init_state()
    state = optimizer.state[parameter]
    # What a tensor has besides, whatever its size, is not counted.
    total = sum(tensor.nbytes for tensor in state.values() if tensor.shape[:2] == (5, 2))
    assert total == 10 * rule.state_bytes_per_parameter()
