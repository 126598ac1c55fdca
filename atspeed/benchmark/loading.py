"""The models and the trie that a benchmark works with, on one device."""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from atspeed.data import RecommendationData
from atspeed.decoding.probe import check_tree_attention
from atspeed.models import ModelSource, pack_linears
from atspeed.prompts import PromptEncoder
from atspeed.recommender import draft_tokens, response_trie


def pick_device(device: str | None) -> torch.device:
    """Return a device; if none is named, a GPU if there is one."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


class ModelLoader:
    """Loads the models of a run folder for one catalog onto one device.

    Args:
        data: set up already; its prompts give the vocabularies of the models.
        run_dir: the run folder, where models of earlier stages are looked up.
        device: where models and trie go.
        num_threads: CPU threads of torch; set for the whole process.

    Attributes:
        trie: of what the target writes.
        draft_tokens: see :func:`atspeed.recommender.response_trie.draft_tokens`.
    """

    def __init__(self, data: RecommendationData, run_dir: Path, device: torch.device, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self.data = data
        self.run_dir = run_dir
        self.device = device
        self.trie = response_trie(data.catalog, data.encoder).to(device)
        self.draft_tokens = draft_tokens(data.encoder, data.draft_encoder)

    def load(self, source: ModelSource, encoder: PromptEncoder) -> PreTrainedModel:
        """Build a model, with its weights as ``transformers`` loads them.

        Args:
            source: where it comes from.
            encoder: of its prompts.

        Raises:
            ValueError: if it cannot take a tree attention mask at the longest prompt of the data.
        """
        model: Any = source.build(encoder.vocabulary, self.run_dir)
        model.to(self.device)
        check_tree_attention(model, encoder.max_prompt_tokens, self.trie.max_depth)
        return model

    def load_packed(self, source: ModelSource, encoder: PromptEncoder) -> PreTrainedModel:
        """Build a model and pack its weights; see :func:`atspeed.models.pack_linears`."""
        return pack_linears(self.load(source, encoder))
