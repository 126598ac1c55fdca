"""From a history of items to the tokens that a model reads. No Lightning."""

from atspeed.prompts.compact import CompactPrompt

__all__ = ["CompactPrompt"]
