"""The C library that fits the CPU is loaded; one of other sources is not."""

import subprocess
import sys

import pytest
import torch

from learned_opt import c_library as library

compiled = pytest.mark.skipif(library.load_library() is None, reason="C was not compiled")

STEP = """
import torch
from learned_opt import LearnedOptimizer, create_rule
from learned_opt.c_library import library_level
print(library_level())
tensor = torch.nn.Parameter(torch.ones(100001))
tensor.grad = torch.arange(100001.0)
LearnedOptimizer([tensor], lr=1e-5, rule=create_rule("sgd"), fused=True).step()
print(float((tensor.detach().double() - (1 - 1e-5 * torch.arange(100001.0).double())).abs().max()))
"""


@compiled
@pytest.mark.parametrize(
    ("capability", "level"), [("default", "generic"), ("avx2", "avx2"), ("avx512", "avx512")]
)
def test_each_level_steps(capability, level, monkeypatch):
    if not (library.FOLDER / f"{level}.so").exists():
        pytest.skip(f"{level} is for other CPUs")
    best = torch.backends.cpu.get_cpu_capability().lower()
    if (capability, best) in {("avx512", "avx2"), ("avx512", "default"), ("avx2", "default")}:
        pytest.skip(f"this CPU has no {level}")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)
    done = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True, check=True)
    name, error = done.stdout.split()
    assert name == level
    assert float(error) < 1e-7


@compiled
def test_a_library_of_other_sources_is_not_used(monkeypatch):
    library.load_library.cache_clear()
    monkeypatch.setattr(library, "_digest", lambda sources: "0123456789abcdef")
    with pytest.warns(RuntimeWarning, match="compiled from other C sources and is not used"):
        assert library.load_library() is None
    monkeypatch.undo()
    library.load_library.cache_clear()
    assert library.load_library() is not None


def test_work_is_shared_where_it_is_worth_it():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        counts = [library.thread_count(elements) for elements in (0, 1, 500_000, 1 << 19, 10**8)]
        assert counts == [1, 1, 1, 2, 2]
    finally:
        torch.set_num_threads(threads)
