"""Triton's interpreter takes the steps of the Triton cases on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CASES = ("triton_cases.py", "triton_memory_cases.py", "triton_overflow_cases.py")

pytest.importorskip("triton")


@pytest.mark.slow
def test_interpreted_steps_equal_the_rules():
    """In a process of its own: Triton reads the variable when a kernel is imported."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    result = subprocess.run(
        [*command, *map(Path(__file__).with_name, CASES)],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert " skipped" not in result.stdout
