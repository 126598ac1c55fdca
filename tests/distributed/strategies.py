"""The real DeepSpeed engine on CPU processes over gloo (Lightning's strategy wants CUDA)."""

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy


class CPUDeepSpeedStrategy(DeepSpeedStrategy):
    """Lightning's strategy without its checks for CUDA; ``DS_ACCELERATOR=cpu`` must be set."""

    def setup_environment(self) -> None:
        assert self.accelerator is not None
        self.accelerator.setup_device(self.root_device)
        self.setup_distributed()

    def setup_distributed(self) -> None:
        import deepspeed

        # plain gloo: shared memory would be compiled first, and a killed compiler's lock stops all later runs
        deepspeed.ops.__compatible_ops__ = {}
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu", 0)  # DeepSpeed wants an index
