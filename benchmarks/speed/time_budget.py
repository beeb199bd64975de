"""Keeps a program within its time: what is left of it, and commands that are killed at its end."""

import os
import signal
import subprocess
import time


class OutOfTime(Exception):
    """What comes next does not fit in the time that is left."""


class TimeBudget:
    """Counts down from a number of seconds.

    Args:
        seconds: from now on.
        clock: gives the time in seconds.
    """

    def __init__(self, seconds, clock=time.monotonic):
        self._clock = clock
        self._end = clock() + seconds

    def left(self):
        """Seconds that are left, 0 after the end."""
        return max(0.0, self._end - self._clock())

    def need(self, seconds=0.0):
        """Raise OutOfTime unless more than this number of seconds is left."""
        if self.left() <= seconds:
            raise OutOfTime(f"{seconds:.1f} s are needed, {self.left():.1f} s are left")


def run(command, folder, limit):
    """Run a program with its output shown; say whether it succeeded within the time limit.

    At the limit it is killed with all programs that it started.

    Args:
        command: the program and its arguments.
        folder: to run it in.
        limit: in seconds.
    """
    print("$", *command, flush=True)
    process = subprocess.Popen(command, cwd=folder, start_new_session=True)
    try:
        return process.wait(limit) == 0
    except subprocess.TimeoutExpired:
        print(f"stopped after {limit:.0f} seconds", flush=True)
        return False
    finally:  # after Ctrl-C, too
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            _wait_a_little(process)


def _wait_a_little(process):
    """Wait for a killed process; a driver that hangs can keep it for longer."""
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        print("it is killed, but does not end", flush=True)
