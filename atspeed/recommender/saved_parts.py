"""Drafters, verifiers and prompts as JSON: the name of a class and what it is constructed with."""

import inspect
import json
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from atspeed.decoding.constructor_arguments import constructor_arguments

T = TypeVar("T")


def part_to_json(part: object) -> dict[str, Any]:
    """Return class and settings of a part, as a config has them: ``class_path`` and ``init_args``.

    Raises:
        ValueError: if the part does not keep its settings as attributes, or one of them is not JSON.

    >>> from atspeed.decoding import ModelDrafter
    >>> part_to_json(ModelDrafter(draft_beams=20))
    {'class_path': 'atspeed.decoding.ModelDrafter', 'init_args': {'draft_beams': 20, 'gamma': 3}}
    """
    cls = type(part)
    arguments = {
        name: str(value) if isinstance(value, Path) else value for name, value in constructor_arguments(part).items()
    }
    if lost := inspect.signature(cls).parameters.keys() - arguments.keys():
        raise ValueError(
            f"{cls.__name__} does not keep its settings {sorted(lost)} as attributes of these names, so that they "
            "cannot be saved"
        )
    try:
        json.dumps(arguments)
    except TypeError as error:
        raise ValueError(f"the settings of {cls.__name__} cannot be saved: {error}") from error
    package = ".".join(cls.__module__.split(".")[:2])
    is_public = getattr(import_module(package), cls.__name__, None) is cls  # a file inside the package may move
    return {"class_path": f"{package if is_public else cls.__module__}.{cls.__name__}", "init_args": arguments}


def part_from_json(record: dict[str, Any], base: type[T], trust_code: bool) -> T:
    """Return the part that :func:`part_to_json` described.

    Args:
        record: what it returned.
        base: what the part must be a subclass of.
        trust_code: whether classes outside atspeed may be imported.

    Raises:
        ValueError: if the class is not there or not allowed, or does not take these settings.
    """
    path = record["class_path"]
    module, _, name = path.rpartition(".")
    if module.partition(".")[0] != "atspeed" and not trust_code:
        raise ValueError(
            f"{path} is a class outside atspeed, and would be imported, which runs code; set trust_code if you know it"
        )
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no class {path} here: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ValueError(f"{path} is no {base.__name__}")
    try:
        return cls(**record["init_args"])
    except TypeError as error:
        raise ValueError(f"{path} does not take the settings {record['init_args']}: {error}") from error
