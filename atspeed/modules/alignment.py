"""Training a draft to agree with a frozen target."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from atspeed.alignment.comparison import compare
from atspeed.alignment.sequences import LevelPrefixes, SequenceShares, pack, search_beams
from atspeed.alignment.target_cache import Split, TargetCache, target_settings
from atspeed.checks import require_at_least
from atspeed.data import RequestBatch
from atspeed.decoding import ItemTrie, PrefixScorer, ScoredPrefixes
from atspeed.decoding.probe import check_tree_attention
from atspeed.losses import AlignmentLoss
from atspeed.models import ModelSource
from atspeed.modules.model_building import build_frozen_model, build_model, without_dropout
from atspeed.modules.optimization import cosine_adamw
from atspeed.modules.stage import StageModule
from atspeed.prompts import PromptEncoder
from atspeed.recommender import draft_tokens, response_trie


class Alignment(StageModule):
    """Aligns a draft with the target (AtSpeed, arXiv 2410.05165): ``L = (1 − α)·L_rec + α·L_align``.

    ``L_rec`` is the cross-entropy of the next item's codes. ``L_align`` compares both models at every prefix of some
    sequences, over the legal children only. A user's sequences are packed as a trie, so that each model sees the
    prompt and every prefix once. The target's beams and scores are computed online, or read from a cache
    (``python -m atspeed cache-target``); then the target is not loaded at all.

    Args:
        stage: where in the run folder the aligned draft goes.
        target: the frozen target.
        draft: the draft to start from.
        loss: the alignment loss.
        alpha: weight α of the alignment loss, 0 to 1.
        num_beams: beam width K of the target's (and the draft's own) sequences.
        sources: where the sequences come from.
        target_cache: folder of the target cache, relative to the run folder; without it the target runs online.
        target_dtype: dtype of the frozen target's weights: bfloat16 halves their memory, which a precision of
            ``bf16-mixed`` does not, and rounds its scores; log-probabilities and losses are always float32. With
            DeepSpeed the precision decides instead: ``bf16-mixed`` holds all weights in bfloat16.
        learning_rate: peak of the schedule (linear warm-up, then cosine to zero).
        weight_decay: of AdamW, on matrices.
        warmup_steps: optimiser steps of warm-up.

    Raises:
        ValueError: if ``alpha`` or ``num_beams`` is out of range, or if the draft's own sequences, which cannot be
            scored in advance, are combined with a cache.
    """

    def __init__(
        self,
        stage: str,
        target: ModelSource,
        draft: ModelSource,
        loss: AlignmentLoss,
        alpha: float = 0.5,
        num_beams: int = 20,
        sources: SequenceShares = SequenceShares(),  # noqa: B008 (it is frozen)
        target_cache: Path | None = None,
        target_dtype: Literal["float32", "bfloat16"] = "float32",
        learning_rate: float = 1e-3,
        weight_decay: float = 0.1,
        warmup_steps: int = 50,
    ) -> None:
        super().__init__(stage)
        if not 0 <= alpha <= 1:
            raise ValueError(f"model.alpha is {alpha}; expected 0 to 1")
        require_at_least(1, model__num_beams=num_beams)
        if target_cache is not None and sources.draft > 0:
            raise ValueError(
                f"model.sources.draft is {sources.draft}: the target has to score the draft's own sequences online, "
                f"so model.target_cache ({target_cache}) cannot serve them; set one of the two to 0 or null"
            )
        self.target_source = target
        self.draft_source = draft
        self.loss = loss
        self.alpha = alpha
        self.num_beams = num_beams
        self.sources = sources
        self.target_cache = target_cache
        self.target_dtype = target_dtype
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps

    def configure_model(self) -> None:
        """Build the models (not in the constructor, so that a strategy can shard them), or open the target cache."""
        if hasattr(self, "model"):
            return
        self.trie = response_trie(self.data.catalog, self.data.encoder)
        self.draft_tokens = draft_tokens(self.data.encoder, self.data.draft_encoder)
        if self.target_cache is None:
            self.target = build_frozen_model(self.target_source, self.target_dtype, self.data.encoder, self.trainer)
        else:
            settings = target_settings(
                self.target_source, self.run_dir, self.num_beams, str(self.trainer.precision), self.target_dtype
            )
            self.cache = TargetCache(self.run_dir / self.target_cache, self.data, settings)
            self.cache.require_complete()
        self.model = without_dropout(build_model(self.draft_source, self.encoder, self.trainer).train())

    def on_fit_start(self) -> None:
        """Refuse models that do not take a tree mask, in all processes; see :func:`check_tree_attention`."""
        check_tree_attention(self.model, self.encoder.max_prompt_tokens, self.trie.num_levels)
        if self.target_cache is None:
            check_tree_attention(self.target, self.data.encoder.max_prompt_tokens, self.trie.max_depth)

    @property
    def encoder(self) -> PromptEncoder:
        """Encodes prompts for the draft."""
        return self.data.draft_encoder

    @cached_property  # not at every step: it has arrays of its own where the draft has a vocabulary of its own
    def draft_trie(self) -> ItemTrie:
        """The trie as the draft searches it."""
        return self.trie.for_draft(self.draft_tokens)

    def configure_optimizers(self) -> Any:
        """AdamW with a cosine schedule, on the draft."""
        return cosine_adamw(self, self.model, self.learning_rate, self.weight_decay, self.warmup_steps)

    def train(self, mode: bool = True) -> Self:
        """Switch the draft's mode; the target stays in evaluation mode."""
        super().train(mode)
        if hasattr(self, "target"):
            self.target.eval()
        return self

    def training_step(self, batch: RequestBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        return self._weigh("train", batch, *self.losses(batch, "train"))

    def validation_step(self, batch: RequestBatch, batch_idx: int) -> None:
        """Log the losses of the validation users."""
        self._weigh("val", batch, *self.losses(batch, "val"))

    def losses(self, batch: RequestBatch, split: Split = "train") -> tuple[Tensor, Tensor]:
        """Return ``L_rec`` (nats per code) and ``L_align`` of a batch of a split."""
        trie = self.trie.to(self.device)
        truth = trie.leaves(batch.truth[:, 0])  # [B]
        with torch.no_grad():
            draft_beams = self._draft_beams(batch)  # [B, K], or [B, 0]
            target_beams, target = self._score_target(batch, split, draft_beams, truth)  # [B, K]
        levels = pack(trie, *self.sources.combine(target_beams, draft_beams, truth))
        if not self.loss.compares_leaves:
            levels = levels[: max(1, trie.num_levels - 1)]
        draft = self._score_draft(batch, levels, truth)
        nothing = torch.zeros_like(truth, dtype=torch.float32)
        align_losses = sum((self.loss(prefixes) for prefixes in compare(draft, target, levels)), start=nothing)  # [B]
        rec_losses = -draft.log_probs(trie.code_path(truth))  # [B, L]
        return rec_losses.mean(), align_losses.mean()

    def _draft_beams(self, batch: RequestBatch) -> Tensor:
        """Return the draft's own beams, ``[B, K]``; ``[B, 0]`` if they are not wanted."""
        if not self.sources.draft:
            return batch.users.new_empty(len(batch.users), 0)
        self.model.eval()
        beams = search_beams(self._draft_scorer(batch), self.num_beams)
        self.model.train(self.training)
        return beams

    def _score_target(
        self, batch: RequestBatch, split: Split, draft_beams: Tensor, truth: Tensor
    ) -> tuple[Tensor, ScoredPrefixes]:
        """Return the target's beams, ``[B, K]``, and its scores at the prefixes of all sequences."""
        if self.target_cache is not None:
            return self.cache.read(split, batch.rows.tolist(), self.trie, truth)
        target = PrefixScorer(self.target, self.trie, batch.prompts, batch.prompt_mask)
        beams = search_beams(target, self.num_beams)
        if self.sources.draft or self.sources.truth:
            target.score(self.trie.path(torch.cat([draft_beams, truth[:, None]], dim=1)).flatten(1), always=True)
        return beams, target

    def _score_draft(self, batch: RequestBatch, levels: list[LevelPrefixes], truth: Tensor) -> PrefixScorer:
        """Return the draft's scores at all prefixes and at those of the true item, of one forward pass."""
        draft = self._draft_scorer(batch)
        draft.score(torch.cat([*(level.nodes for level in levels), self.trie.code_path(truth)], dim=1))
        return draft

    def _draft_scorer(self, batch: RequestBatch) -> PrefixScorer:
        return PrefixScorer(self.model, self.draft_trie.to(self.device), batch.draft_prompts, batch.draft_prompt_mask)

    def _weigh(self, split: Split, batch: RequestBatch, rec_loss: Tensor, align_loss: Tensor) -> Tensor:
        """Return ``(1 − α)·L_rec + α·L_align``; log it and its terms."""
        loss = (1 - self.alpha) * rec_loss + self.alpha * align_loss
        values = {f"{split}/loss": loss, f"{split}/rec_loss": rec_loss, f"{split}/align_loss": align_loss}
        self.log_dict(values, prog_bar=True, batch_size=len(batch.users), sync_dist=split == "val")
        return loss
