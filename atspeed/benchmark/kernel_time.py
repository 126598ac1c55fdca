"""How long a device computes: what is left of a request is time in which it waits for the process."""

from collections.abc import Callable, Iterable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

KINDS = {"cuda": (ProfilerActivity.CUDA, DeviceType.CUDA), "cpu": (ProfilerActivity.CPU, DeviceType.CPU)}


def kernel_seconds(function: Callable[[], object], device: torch.device) -> float:
    """Run a function under torch's profiler, and return the seconds in which a kernel or a copy ran on the device.

    A profiler makes launches slower, kernels hardly: so this is to be compared with a time that was taken without one.
    Those of a replayed CUDA graph count like others. On a CPU, operators take the place of kernels.

    Args:
        function: what to run; it need not wait for the device.
        device: where its kernels run.
    """
    activity, kind = KINDS[device.type]
    with profile(activities=[activity]) as profiler:
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    spans = ((event.time_range.start, event.time_range.end) for event in profiler.events() if event.device_type == kind)
    return covered(spans) / 1e6


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length of what spans cover together.

    >>> covered([(0, 4), (6, 7), (1, 2), (3, 5)])
    6.0
    """
    total, end = 0.0, float("-inf")
    for begin, until in sorted(spans):
        total += max(until - max(begin, end), 0)
        end = max(end, until)
    return total
