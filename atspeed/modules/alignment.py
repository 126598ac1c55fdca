"""Training a draft to agree with a frozen target."""

import logging
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from atspeed.alignment.sequences import SequenceShares, pack
from atspeed.alignment.target_cache import Split, TargetCache
from atspeed.checks import require_at_least
from atspeed.data import RequestBatch
from atspeed.decoding import ROOT, ItemTrie, NoDrafter, PrefixScorer, ScoredPrefixes, StrictTopK, search
from atspeed.losses import AlignmentLoss, Prefixes
from atspeed.models import ModelSource, cast
from atspeed.modules.optimization import cosine_adamw
from atspeed.modules.stage import StageModule

log = logging.getLogger(__name__)


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
        target_cache: folder of the target cache, relative to the run folder; without it the target works online.
        target_dtype: dtype of the frozen target's weights: bfloat16 halves their memory, which a precision of
            ``bf16-mixed`` does not, and rounds its scores; log-probabilities and losses are float32 in any case. With
            DeepSpeed the precision decides instead: ``bf16-mixed`` holds all weights in bfloat16.
        learning_rate: peak of the schedule (linear warm-up, then cosine to zero).
        weight_decay: of AdamW, on matrices.
        warmup_steps: optimiser steps of warm-up.

    Raises:
        ValueError: if ``alpha`` or ``num_beams`` is out of range, or the draft's own sequences, which nobody can score
            in advance, are wanted with a cache.
    """

    def __init__(
        self,
        stage: str,
        target: ModelSource,
        draft: ModelSource,
        loss: AlignmentLoss,
        alpha: float = 0.5,
        num_beams: int = 20,
        sources: SequenceShares = SequenceShares(),  # noqa: B008 (never written to)
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
        """Build the models (here and not earlier, so that a strategy may shard them), or open the target cache."""
        if hasattr(self, "model"):
            return
        self.trie = ItemTrie(self.data.catalog.tokens)
        if self.target_cache is None:
            self.target = self.build_target(self)
        else:
            self.cache = TargetCache(self.run_dir / self.target_cache, self.data, self.cache_parts(self))
            self.cache.require_complete()
        self.model = self.build(self.draft_source).train()

    def build_target(self, module: StageModule) -> PreTrainedModel:
        """Return the frozen target, in the run of some module."""
        target = module.build(self.target_source).requires_grad_(False)
        if module.zero_stage:
            precision = module.trainer.precision
            log.info(
                "DeepSpeed: trainer.precision %s decides the dtype of the target, not model.target_dtype", precision
            )
        else:
            cast(target.parameters(), self.target_dtype)
        return target

    def cache_parts(self, module: StageModule) -> dict[str, str]:
        """Return what the target cache depends on beside the data, in the run of some module."""
        return {
            "model.target": self.target_source.fingerprint(module.run_dir),
            "model.num_beams": str(self.num_beams),
            "trainer.precision": str(module.trainer.precision),
            "model.target_dtype": self.target_dtype,
        }

    def configure_optimizers(self) -> Any:
        """AdamW with a cosine schedule, on the draft."""
        return cosine_adamw(self, self.model, self.learning_rate, self.weight_decay, self.warmup_steps)

    def train(self, mode: bool = True) -> Self:
        """Switch the draft's mode; the target stays in evaluation mode."""
        super().train(mode)
        if hasattr(self, "target"):
            self.target.eval()
        return self

    def losses(self, batch: RequestBatch, split: Split = "train") -> tuple[Tensor, Tensor]:
        """Return ``L_rec`` (nats a code) and ``L_align`` of a batch of a split."""
        trie = self.trie.to(self.device)
        truth = trie.leaves(batch.truth[:, 0])  # [B]
        with torch.no_grad():
            own = self._own_beams(batch) if self.sources.draft else truth[:, None][:, :0]
            beams, target = self._target(batch, split, truth, own)
        levels = pack(trie, *self._sequences(beams, own, truth))
        draft = PrefixScorer(self.model, trie, batch.prompts, batch.prompt_mask)
        draft.score(torch.cat([*(level.nodes for level in levels), trie.path(truth)], dim=1))

        align_loss = torch.zeros_like(batch.truth[:, 0], dtype=torch.float32)  # [B]
        draft_scores = target_scores = torch.zeros_like(align_loss)[:, None]  # of the root
        for number, level in enumerate(levels):
            children, draft_log_probs = draft.children(level.nodes)  # [B, W, C]
            draft_log_probs = draft_log_probs.log_softmax(-1)
            target_log_probs = target.children(level.nodes)[1].log_softmax(-1)
            align_loss = align_loss + self.loss(
                Prefixes(
                    draft_log_probs,
                    target_log_probs,
                    draft_scores,
                    target_scores,
                    level.shares,
                    level.next_shares(children),
                    number,
                    trie.num_levels,
                )
            )
            if number + 1 < len(levels):
                following = levels[number + 1].nodes
                place = (children.flatten(1)[:, None] == following[..., None]).max(2).indices  # [B, W']
                draft_scores, target_scores = (
                    (scores[..., None] + log_probs).flatten(1).gather(1, place).masked_fill(following == ROOT, 0.0)
                    for scores, log_probs in ((draft_scores, draft_log_probs), (target_scores, target_log_probs))
                )
        return -draft.log_probs(trie.path(truth)).mean(), align_loss.mean()

    def _target(self, batch: RequestBatch, split: Split, truth: Tensor, own: Tensor) -> tuple[Tensor, ScoredPrefixes]:
        """Return the target's beams ``[B, K]`` and its scores at the prefixes of all sequences."""
        if self.target_cache is not None:
            return self.cache.read(split, batch.rows.tolist(), self.trie, truth)
        target = PrefixScorer(self.target, self.trie, batch.prompts, batch.prompt_mask)
        beams = search_beams(target, self.num_beams)
        if self.sources.draft or self.sources.truth:
            target.score(self.trie.path(torch.cat([own, truth[:, None]], dim=1)).flatten(1), always=True)
        return beams, target

    def _own_beams(self, batch: RequestBatch) -> Tensor:
        """Return the draft's own beams, ``[B, K]``."""
        self.model.eval()
        beams = search_beams(PrefixScorer(self.model, self.trie, batch.prompts, batch.prompt_mask), self.num_beams)
        self.model.train(self.training)
        return beams

    def _sequences(self, beams: Tensor, own: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sequences of all sources ``[B, n]`` and the share of each."""
        leaves = torch.cat([beams, own, truth[:, None]], dim=1)
        sources = self.sources.target, self.sources.draft, self.sources.truth
        shares = torch.cat(
            [
                share * (part != ROOT) / (part != ROOT).sum(1, keepdim=True).clamp(min=1)
                for share, part in zip(sources, (beams, own, truth[:, None]), strict=True)
            ],
            dim=1,
        )
        used = (shares > 0).any(0)
        return leaves[:, used], shares[:, used] / sum(sources)

    def training_step(self, batch: RequestBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        return self._log_losses("train", batch)

    def validation_step(self, batch: RequestBatch, batch_idx: int) -> None:
        """Log the losses of the validation users."""
        self._log_losses("val", batch)

    def _log_losses(self, split: Split, batch: RequestBatch) -> Tensor:
        rec_loss, align_loss = self.losses(batch, split)
        loss = (1 - self.alpha) * rec_loss + self.alpha * align_loss
        values = {f"{split}/loss": loss, f"{split}/rec_loss": rec_loss, f"{split}/align_loss": align_loss}
        self.log_dict(values, prog_bar=True, batch_size=len(batch.users), sync_dist=split == "val")
        return loss


def search_beams(scorer: PrefixScorer, num_beams: int) -> Tensor:
    """Return the leaves of plain beam search, ``[B, K]``; the scorer keeps what it has scored.

    One forward pass a level, whatever the data: processes that share a model's shards stay in step.
    """
    return search(scorer, None, NoDrafter(), StrictTopK(), num_beams, drop_finished=False).leaves
