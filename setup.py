"""Builds the C code of `learned_opt/backends/c`; everything else is described in setup.cfg.

The libraries need neither Python's headers nor torch: Python calls them through ctypes, so one
wheel serves every Python. There is one for each level of vector instructions. Where a level does
not compile, or there is no compiler, the package is built without it and works, more slowly.
"""

import hashlib
import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FOLDER = Path("learned_opt/backends/c")
SOURCES = sorted(path.as_posix() for path in FOLDER.glob("*.c"))
HEADERS = sorted(path.as_posix() for path in FOLDER.glob("*.h"))

# No -ffast-math: it assumes that there is no NaN, and makes the whole process flush subnormals.
FLAGS = [
    "-std=gnu11",
    "-O3",
    "-g0",
    "-fPIC",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp-simd",
]
LEVELS = {"generic": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    LEVELS["avx2"] = ["-mavx2", "-mfma"]
    LEVELS["avx512"] = [
        *("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"),
        "-mprefer-vector-width=512",
    ]


def digest():
    """The hash of the C sources; `learned_opt.c_library` computes the same."""
    parts = (Path(path).read_bytes() for path in sorted(SOURCES + HEADERS))
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


class BuildLibraries(build_ext):
    """Gives the libraries names without Python's version, since they do not depend on it."""

    def finalize_options(self):
        """Compile one level after the other."""
        super().finalize_options()
        self.parallel = None  # they share the folder of object files

    def get_ext_filename(self, fullname):
        """A path without Python's version."""
        return fullname.replace(".", "/") + ".so"


class AnyPythonWheel(bdist_wheel):
    """Tags the wheel for any Python; for any machine, too, if nothing was compiled."""

    def get_tag(self):
        """Python, ABI and platform."""
        built = list(Path(self.bdist_dir).rglob("*.so"))
        return "py3", "none", super().get_tag()[2] if built else "any"


def library(level, flags):
    """The library of one level: all sources with its flags."""
    return Extension(
        f"learned_opt.backends.c.{level}",
        sources=SOURCES,
        depends=HEADERS,
        define_macros=[("SOURCE_DIGEST", f'"{digest()}"')],
        extra_compile_args=FLAGS + flags,
        extra_link_args=["-lm", "-pthread"],
        optional=True,
    )


setup(
    # MSVC takes other flags and has no pthreads.
    ext_modules=[]
    if sys.platform == "win32"
    else [library(level, flags) for level, flags in LEVELS.items()],
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": AnyPythonWheel},
)
