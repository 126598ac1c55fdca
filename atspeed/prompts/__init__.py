"""From a history of items to the tokens that a model reads. No Lightning."""

from atspeed.prompts.compact_prompt import CompactPrompt
from atspeed.prompts.prompt import PaddedTokens, Prompt, PromptEncoder

__all__ = ["CompactPrompt", "PaddedTokens", "Prompt", "PromptEncoder"]
