"""The Triton cases on a GPU, and others that the interpreter cannot run."""

import pytest
import torch
from triton_cases import *  # noqa: F403
from triton_memory_cases import *  # noqa: F403
from triton_overflow_cases import *  # noqa: F403
from triton_pair import DEVICE, SHAPES, Pair, gradients

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(DEVICE != "cuda", reason="is interpreted")]
pytest.importorskip("triton")


def test_two_runs_are_equal_bits(name):
    runs = []
    for _ in range(2):
        pair = Pair(name, [(3000, 700), (70,), (5,)])
        pair.run()
        runs.append(pair.copies(0))
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)


def test_large_tensors_agree(name):
    pair = Pair(name, [(4096, 1024), (1 << 20,), (1000, 3)])
    pair.run(2)
    pair.check(rtol=1e-4, atol=1e-4)


def test_a_step_never_waits_for_the_gpu(name):
    pair = Pair(name)
    pair.run(2)
    try:
        torch.cuda.set_sync_debug_mode("error")
        pair.optimizers[0].step(lambda: pair.parameters[0][0].sum())
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_step_is_captured_in_a_cuda_graph(name):
    pair = Pair(name, lr=torch.tensor(0.01, device=DEVICE))
    loss = torch.tensor(1.5, device=DEVICE)
    pair.run(2)
    parameters, optimizer = pair.parameters[0], pair.optimizers[0]
    static = [gradient.to(DEVICE) for gradient in gradients(SHAPES[name], 5)]
    for parameter, gradient in zip(parameters, static, strict=True):
        parameter.grad = gradient
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    before = pair.copies(0)
    with torch.cuda.graph(graph):
        optimizer.step(lambda: loss)
    assert all(torch.equal(a, b) for a, b in zip(before, pair.copies(0), strict=True))
    for step in range(5, 9):
        fresh = [gradient.to(DEVICE) for gradient in gradients(SHAPES[name], step)]
        if step == 7:  # a step outside of the graph must not free what the graph reads
            for parameter, gradient in zip(parameters, fresh, strict=True):
                parameter.grad = gradient
            optimizer.step(lambda: loss)
        else:
            for own, gradient in zip(static, fresh, strict=True):
                own.copy_(gradient)
            graph.replay()
        for parameter, gradient in zip(pair.parameters[1], fresh, strict=True):
            parameter.grad = gradient
        pair.optimizers[1].step(lambda: loss)
    torch.cuda.synchronize()
    pair.check()


def test_the_second_gpu_is_stepped_there(name):
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    pair = Pair(name, [(9, 7), (5,)])
    for parameters in pair.parameters:
        for parameter in parameters:
            parameter.data = parameter.data.to("cuda:1")
    for step in range(2):
        for parameters, optimizer in zip(pair.parameters, pair.optimizers, strict=True):
            for parameter, gradient in zip(parameters, gradients(pair.shapes, step), strict=True):
                parameter.grad = gradient.to("cuda:1")
            optimizer.step(lambda: torch.tensor(1.0))
    pair.check()
