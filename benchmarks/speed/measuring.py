"""Time and peak memory of one call, and the CPU, for the programs of this folder."""

import platform
import time

import torch
from torch.profiler import ProfilerActivity, profile


def seconds(function, device="cpu", *, processor=False):
    """Seconds that one call takes.

    Args:
        function: takes no arguments.
        device: the device that it computes on; a GPU is waited for.
        processor: measure processor time of all threads instead of wall-clock time; other programs
            disturb it less.
    """
    clock = time.process_time if processor else time.perf_counter
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
    begin = clock()
    function()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - begin


def peak_bytes(function, device="cpu"):
    """Peak memory of one call in bytes, above the memory allocated before it.

    Counts what torch's allocator holds on the device.
    """
    if torch.device(device).type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    held = peak = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def processor():
    """The CPU's name, and the vectors that torch computes with."""
    facts = {}
    try:
        with open("/proc/cpuinfo") as file:
            lines = [line.split(":", 1) for line in file if ":" in line]
        facts = {key.strip(): value.strip() for key, value in lines}
    except OSError:  # not Linux
        pass
    name = facts.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in facts:
        name += f" (family {facts['cpu family']}, model {facts['model']})"
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"
