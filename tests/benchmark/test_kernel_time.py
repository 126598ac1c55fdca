import time

import pytest
import torch

from atspeed.benchmark.kernel_time import kernel_seconds

VALUES = torch.rand(600, 600)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_kernels_of_a_replayed_graph_count() -> None:
    values, graph = VALUES.cuda(), torch.cuda.CUDAGraph()
    values @ values
    with torch.cuda.graph(graph):
        for _ in range(20):
            values @ values
    launched = kernel_seconds(lambda: [values @ values for _ in range(20)], values.device)
    assert 0.5 * launched < kernel_seconds(graph.replay, values.device) < 2 * launched


def test_waiting_is_no_kernel_time() -> None:
    def work() -> None:
        for _ in range(5):
            VALUES @ VALUES
            time.sleep(0.02)

    start = time.perf_counter()
    seconds = kernel_seconds(work, torch.device("cpu"))
    assert 0 < seconds < time.perf_counter() - start - 0.1
