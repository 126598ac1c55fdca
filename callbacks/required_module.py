"""The check that a callback was given the module that it serves."""

from typing import TypeVar

import lightning.pytorch as pl

ModuleType = TypeVar("ModuleType", bound=pl.LightningModule)


def require_module(callback: pl.Callback, module: pl.LightningModule, module_class: type[ModuleType]) -> ModuleType:
    """Return the module; raise ``TypeError`` if it is not of the class that the callback needs."""
    if isinstance(module, module_class):
        return module
    name = module_class.__name__
    article = "an" if name[0] in "AEIOU" else "a"
    raise TypeError(f"{type(callback).__name__} needs {article} {name}, not {type(module).__name__}")
