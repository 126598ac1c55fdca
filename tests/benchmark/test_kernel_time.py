import time

import torch

from atspeed.benchmark.kernel_time import kernel_seconds

VALUES = torch.rand(600, 600)


def test_waiting_is_no_kernel_time() -> None:
    def work() -> None:
        for _ in range(5):
            VALUES @ VALUES
            time.sleep(0.02)

    start = time.perf_counter()
    seconds = kernel_seconds(work, torch.device("cpu"))
    assert 0 < seconds < time.perf_counter() - start - 0.1
