"""Stop signals are collected, and their echo is not taken for a second one."""

import os
import signal
import threading

import pytest

from meta_train.runtime import signals
from meta_train.runtime.signals import sigterm_like_ctrl_c, stop_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_by_name_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with stop_signals() as seen:
        assert not seen
        os.kill(os.getpid(), number)
        assert seen == [number.name]
    assert signal.getsignal(number) is before


def test_a_second_signal_kills_but_the_echo_of_the_first_does_not(monkeypatch):
    with stop_signals() as seen:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # as torchrun passes a Ctrl-C on
        assert seen == ["SIGINT"]
        monkeypatch.setattr(signals, "ECHO", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_echo_lasts_two_seconds(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    with stop_signals():
        os.kill(os.getpid(), signal.SIGINT)
        now[0] = 101.9
        os.kill(os.getpid(), signal.SIGINT)
        now[0] = 102.1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_main_thread_nothing_is_caught():
    seen = []

    def work():
        with stop_signals() as names:
            seen.append(list(names))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [[]]


def test_sigterm_is_like_ctrl_c_and_as_before_afterwards():
    with pytest.raises(KeyboardInterrupt), sigterm_like_ctrl_c():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_of_the_program_stays_in_place():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with sigterm_like_ctrl_c():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]
