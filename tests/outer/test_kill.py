"""Killed at any moment, a resumed run ends bitwise where the unbroken one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killed_training.py")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["truncated", "pes"])
def test_killed_runs_resume_to_bitwise_the_unbroken_one(tmp_path, name):
    result = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), name],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["kills"] == 20
    assert report["in_save"] > 0
    assert report["finished"] > 0
