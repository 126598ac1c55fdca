"""Counting tensor operations: a replayed round takes a few microseconds for each."""

from collections.abc import Iterable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel


class OperationCounter(TorchDispatchMode):
    """Counts the operations within it that compute or move something, those of some models' own forward passes apart.

    Args:
        models: the models.

    Attributes:
        operations: how many there were outside the models.
    """

    def __init__(self, models: Iterable[PreTrainedModel]) -> None:
        super().__init__()
        self.operations = 0
        self._open_modules = 0
        # where a call needs many logits, base and head are called instead of the model (decoding/forward.py)
        self._modules = {part for model in models for part in (model, model.base_model, model.get_output_embeddings())}

    def __enter__(self) -> "OperationCounter":
        self._hooks = []
        for module in self._modules - {None}:
            self._hooks.append(module.register_forward_pre_hook(lambda *_: self._step(1)))
            self._hooks.append(module.register_forward_hook(lambda *_: self._step(-1)))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self._open_modules and not func.is_view:
            self.operations += 1
        return func(*args, **(kwargs or {}))

    def _step(self, change: int) -> None:
        self._open_modules += change
