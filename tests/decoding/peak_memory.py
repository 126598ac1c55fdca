"""How much memory tensor operations on a CPU take at their peak."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def peak_bytes(function: Callable[[], object]) -> int:
    """Return the most bytes that were allocated at once by torch while a function ran, its result included.

    By the allocator's own records, so what an operation takes for itself counts, and the process around it does not.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiled:
        function()
    records = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    allocated = most = 0
    for record in sorted(records, key=lambda event: event.start_ns()):
        allocated += record.nbytes()
        most = max(most, allocated)
    return most
