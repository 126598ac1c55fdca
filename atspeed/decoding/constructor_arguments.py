"""What a plug-in was constructed with."""

import inspect
from typing import Any


def constructor_arguments(part: object) -> dict[str, Any]:
    """Return the constructor arguments that the object keeps as attributes of the same names, in their order.

    >>> from atspeed.decoding import ModelDrafter
    >>> constructor_arguments(ModelDrafter(draft_beams=20))
    {'draft_beams': 20, 'gamma': 3}
    """
    names = inspect.signature(type(part)).parameters
    return {name: getattr(part, name) for name in names if hasattr(part, name)}
