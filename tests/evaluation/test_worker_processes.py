"""Worker processes end with the process that started them, however that one ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meta_train.evaluation.processes import interrupts_held
from meta_train.runtime.signals import sigterm_like_ctrl_c

ROOT = Path(__file__).parents[2]
PARENT = """
import os
from meta_train.evaluation.processes import worker_pool

if __name__ == "__main__":
    with worker_pool(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        input()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="asks for a process by a POSIX signal")
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.Signals(9)])
def test_a_worker_does_not_outlive_a_killed_parent(tmp_path, end):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )
    with parent:
        worker = int(parent.stdout.readline())
        os.kill(worker, 0)  # it lives
        parent.send_signal(end)
        parent.wait()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and _lives(worker):
            time.sleep(0.1)
        lives = _lives(worker)
        if lives:
            os.kill(worker, signal.SIGKILL)
    assert not lives


def _lives(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return not _is_zombie(process)


def _is_zombie(process):
    """Ended, but not collected: a container's first process may collect no orphans."""
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is held there")
def test_sigterm_waits_until_workers_have_started_and_they_do_not_inherit_that():
    order = []
    code = "import signal; print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "
    code += "signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    with pytest.raises(KeyboardInterrupt), sigterm_like_ctrl_c():
        with interrupts_held():
            os.kill(os.getpid(), signal.SIGTERM)
            started = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            order.append("held")
        order.append("let through too late")
    assert order == ["held"]
    assert started.stdout.split() == ["True", "False"]
