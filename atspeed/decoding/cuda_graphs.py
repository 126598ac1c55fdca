"""Capturing what runs on a GPU as CUDA graphs."""

from collections.abc import Callable

import torch

WARM_UPS = 3  # before a capture: libraries choose their kernels and allocate their workspaces


def warm_up(run: Callable[[], object]) -> None:
    """Run a few times on a stream of its own, as a capture does."""
    current, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            run()
    current.wait_stream(side)


def captured_graph(run: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """Return a call as one CUDA graph, warmed up; it may ask nothing of the device."""
    warm_up(run)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph
