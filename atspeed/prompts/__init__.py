"""From a history of items to the tokens that a model reads. No Lightning."""

from atspeed.prompts.chat_prompt import ChatPrompt
from atspeed.prompts.compact_prompt import CompactPrompt
from atspeed.prompts.prompt import PaddedTokens, Prompt, PromptEncoder
from atspeed.prompts.text_prompt import TextPrompt

__all__ = ["ChatPrompt", "CompactPrompt", "PaddedTokens", "Prompt", "PromptEncoder", "TextPrompt"]
