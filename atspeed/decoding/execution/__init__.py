"""How the rounds of a search are run: with sizes as the data need, or with fixed shapes that replay as CUDA graphs."""

from atspeed.decoding.execution.captured import Captured
from atspeed.decoding.execution.captured_search import Capture
from atspeed.decoding.execution.eager import Eager
from atspeed.decoding.execution.execution import Engine, Execution, Requests

__all__ = ["Capture", "Captured", "Eager", "Engine", "Execution", "Requests"]
