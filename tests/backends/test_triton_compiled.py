"""The kernels compile for an H100 or H200 without one, and read memory by vectors."""

import re

import pytest

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from learned_opt.backends.triton.kernels import (  # noqa: E402
    adam_lstm,
    blocks,
    orthogonal,
    step_size,
)

TABLE = {"table": "*i64", "blocks": "*i64"}
FLOATS = ("log_range", "log_gain", "direction_gain", "fade_share", "smallest")
WEIGHTS = ("numbers", "decays", "weight", "bias", "head", "head_bias", "bend_bound")
BLOCKS = {"WIDTH": 8, "BLOCK": 2048}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """Compile anew, and leave nothing in the home folder."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def compiled(kernel, arguments, constants, warps):
    """PTX for sm_90, with the alignment that a launch finds in torch's tensors."""
    signature = {
        name: "constexpr" if name in constants else arguments[name] for name in kernel.arg_names
    }
    pointers = [k for k, kind in enumerate(signature.values()) if kind.startswith("*")]
    aligned = {(k,): [["tt.divisibility", 16]] for k in pointers}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    target = GPUTarget("cuda", 90, 32)
    return triton.compile(source, target=target, options={"num_warps": warps}).asm["ptx"]


def loads(ptx):
    return len(re.findall(r"ld\.global\.v4", ptx))


def stores(ptx):
    return len(re.findall(r"st\.global\.v4", ptx))


@pytest.mark.parametrize("dtype", [tl.float32, tl.bfloat16], ids=str)
def test_step_size_lstm(dtype):
    types = {"P_TYPE": dtype, "G_TYPE": dtype, **BLOCKS}
    measure = compiled(
        step_size.measure_blocks,
        {**TABLE, "partial": "*fp32", "sign": "fp32"},
        {"COLUMNS": 32, **types},
        warps=8,
    )
    combine = compiled(
        step_size.combine_blocks,
        {**TABLE, "coefficients": "*fp32", "ok": "*i8", "sign": "fp32"},
        {"COEFFICIENTS": 6, **types},
        warps=8,
    )
    # Eight elements for each thread: two loads of an array in float32, one in bfloat16.
    expected = 10 if dtype is tl.float32 else 8
    assert loads(measure) == loads(combine) == expected
    assert stores(combine) == (8 if dtype is tl.float32 else 7)
    if dtype is tl.bfloat16:
        assert "cvt.rn.bf16" in combine  # rounds to nearest


@pytest.mark.parametrize("is_matrix", [True, False])
def test_orthogonal_momentum(is_matrix):
    types = {"P_TYPE": tl.float32, "G_TYPE": tl.float32, "IS_MATRIX": is_matrix, **BLOCKS}
    arguments = {**TABLE, "numbers": "*fp32", "decays": "*fp32", "sign": "fp32"}
    measure = compiled(
        orthogonal.measure_blocks,
        {**arguments, "partial": "*fp64"},
        {"NUMBERS": 3, "COLUMNS": 8, **types},
        warps=8,
    )
    combine = compiled(
        orthogonal.combine_blocks,
        {**arguments, "ok": "*i8"},
        {"NUMBERS": 5, **types},
        warps=8,
    )
    # Gradient, parameter, momentum, average; and v, or the direction.
    assert loads(measure) == (8 if is_matrix else 10)
    assert loads(combine) == 10
    assert stores(combine) == (6 if is_matrix else 8)


@pytest.mark.parametrize("unit_major", [True, False])
def test_adam_lstm(unit_major):
    ptx = compiled(
        adam_lstm.step_blocks,
        {
            **TABLE,
            **dict.fromkeys(WEIGHTS, "*fp32"),
            **dict.fromkeys(("finite", "skipped", "moved"), "*i8"),
            **dict.fromkeys(("sign", *FLOATS), "fp32"),
        },
        {
            "H": 12,
            "BETAS": 3,
            "MAIN": 1,
            "SHORTEST": 0,
            "UNIT_MAJOR": unit_major,
            "NUMBERS": 12,
            "WIDTH": 10,
            "BLOCK": 512,
            "P_TYPE": tl.float32,
            "G_TYPE": tl.float32,
        },
        warps=4,
    )
    # Gradient, parameter and both mean squares, four elements for each thread.
    assert loads(ptx) >= 4
    assert stores(ptx) >= 3


@pytest.mark.parametrize("partial, columns", [("*fp32", 32), ("*fp64", 8)])
def test_the_sums_of_blocks(partial, columns):
    ptx = compiled(
        blocks.add_blocks,
        {"table": "*i64", "partial": partial, "total": "*fp64", "count": "i32"},
        {"COLUMNS": columns, "WIDTH": 8, "ROWS": 256},
        warps=8,
    )
    assert "add.f64" in ptx
    # No atomic addition: its order, and so the last bits, would change from run to run.
    assert not re.search(r"\b(atom|red)\.", ptx)
