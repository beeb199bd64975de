"""Finds and loads the C library that fits the CPU, and calls it.

setup.py compiles the sources of `backends/c/` once for each level of vector instructions. There are
none where nothing was compiled: on Windows, and where there was no compiler. It lies below rules
and backends, since both call it.
"""

from __future__ import annotations

import ctypes
import hashlib
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FOLDER = Path(__file__).parent / "backends" / "c"
"""The C sources and the libraries: no package, or Python would take libraries for modules."""

LEVELS = {"AVX512": ("avx512", "avx2"), "AVX2": ("avx2",)}
"""Libraries by what torch calls the CPU's capability, best first; `generic` fits any CPU."""

ELEMENTS_PER_THREAD = 1 << 18
"""Fewest elements that are worth a thread."""


@lru_cache(maxsize=1)
def load_library() -> ctypes.CDLL | None:
    """Load the library for this CPU; None if there is none.

    `torch.backends.cpu.get_cpu_capability` chooses it, so the environment variable
    `ATEN_CPU_CAPABILITY` does, too.

    Warns:
        RuntimeWarning: the library was compiled from other sources than those that lie beside it,
            as after a pull in an editable install. It is not used then.
    """
    levels = (*LEVELS.get(torch.backends.cpu.get_cpu_capability(), ()), "generic")
    paths = [FOLDER / f"{level}.so" for level in levels]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return None
    library = ctypes.CDLL(str(path))
    library.learned_opt_source_digest.restype = ctypes.c_char_p
    sources = sorted(path for path in FOLDER.glob("*") if path.suffix in (".c", ".h"))
    if sources and library.learned_opt_source_digest().decode() != _digest(sources):
        warnings.warn(
            f"{path.name} was compiled from other C sources and is not used: to compile it anew, "
            "install the package again",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return library


def missing_library() -> str | None:
    """Why there is no C library to use; None if there is one."""
    if load_library() is not None:
        return None
    return (
        f"{FOLDER} has no compiled C library: the package was installed without a compiler, or "
        "this is a clone that was not installed with `pip install -e`"
    )


def is_generic() -> bool:
    """Whether the library in use has no vector instructions beyond those of any CPU."""
    return library_level() == "generic"


def library_level() -> str | None:
    """The level of vector instructions of the library in use; None if there is no library."""
    library = load_library()
    return None if library is None else Path(library._name).stem


def thread_count(elements: int) -> int:
    """The number of threads for work on this number of elements, at most torch's setting."""
    return max(1, min(torch.get_num_threads(), elements // ELEMENTS_PER_THREAD))


def call_c(function: str, *arguments: NDArray[Any] | int | float) -> None:
    """Call a function of the C library.

    Args:
        function: its name, without `learned_opt_`.
        arguments: contiguous arrays, which C gets as pointers; ints, as `int64_t`; floats, as
            `double`.

    Raises:
        RuntimeError: there is no library; ask `missing_library` before.
        MemoryError: there was no memory for the work; nothing was written.
    """
    library = load_library()
    if library is None:
        raise RuntimeError(missing_library())
    if getattr(library, f"learned_opt_{function}")(*map(_as_c, arguments)):
        raise MemoryError(f"no memory for the work of {function}")


def _as_c(argument: NDArray[Any] | int | float) -> Any:
    if isinstance(argument, np.ndarray):
        if not argument.flags.c_contiguous:
            raise ValueError(f"C reads contiguous arrays, got strides {argument.strides}")
        return ctypes.c_void_p(argument.__array_interface__["data"][0])
    return ctypes.c_int64(argument) if isinstance(argument, int) else ctypes.c_double(argument)


def addresses(tensors: Sequence[Tensor]) -> NDArray[np.uintp]:
    """Where the elements of each tensor lie, as C reads them."""
    return np.fromiter(map(Tensor.data_ptr, tensors), np.uintp, len(tensors))


def _digest(sources: list[Path]) -> str:
    """The hash of the sources, as setup.py computes it."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
