"""Training a draft to agree with a frozen target."""

from typing import Any, Self

import torch
from torch import Tensor

from atspeed.checks import require_at_least
from atspeed.data import RequestBatch
from atspeed.decoding import ROOT, ItemTrie, PrefixScorer, StrictTopK, TrieDrafter, search
from atspeed.losses import AlignmentLoss
from atspeed.models import ModelSource
from atspeed.modules.base import StageModule
from atspeed.modules.optimization import cosine_adamw


class Alignment(StageModule):
    """Aligns a draft with the target (AtSpeed, arXiv 2410.05165): ``L = (1 − α)·L_rec + α·L_align``.

    ``L_rec`` is the cross-entropy of the next item's codes. ``L_align`` compares both models at every prefix of the
    target's top-K sequences, over the legal children only; each sequence and level counts the same. The target's beams
    are searched online; a user's sequences are packed as a trie, so that the draft sees prompt and prefixes once, and
    the target's scores are those that its own search left behind.

    Args:
        stage: where in the run folder the aligned draft goes.
        target: the frozen target.
        draft: the draft to start from.
        loss: the alignment loss.
        alpha: weight α of the alignment loss, 0 to 1.
        num_beams: beam width K of the target's search.
        learning_rate: peak of the schedule (linear warm-up, then cosine to zero).
        weight_decay: of AdamW, on matrices.
        warmup_steps: optimiser steps of warm-up.

    Raises:
        ValueError: if ``alpha`` or ``num_beams`` is out of range.
    """

    def __init__(
        self,
        stage: str,
        target: ModelSource,
        draft: ModelSource,
        loss: AlignmentLoss,
        alpha: float = 0.5,
        num_beams: int = 20,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.1,
        warmup_steps: int = 50,
    ) -> None:
        super().__init__(stage)
        if not 0 <= alpha <= 1:
            raise ValueError(f"model.alpha is {alpha}; expected 0 to 1")
        require_at_least(1, model__num_beams=num_beams)
        self.target_source = target
        self.draft_source = draft
        self.loss = loss
        self.alpha = alpha
        self.num_beams = num_beams
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.strict_loading = False  # the checkpoint has the draft only; see on_save_checkpoint

    def configure_model(self) -> None:
        """Build both models (here and not earlier, so that a strategy may shard them)."""
        if not hasattr(self, "model"):
            self.target = self.build(self.target_source).requires_grad_(False)
            self.model = self.build(self.draft_source).train()
            self.trie = ItemTrie(self.data.catalog.tokens)

    def configure_optimizers(self) -> Any:
        """AdamW with a cosine schedule, on the draft."""
        return cosine_adamw(self, self.model, self.learning_rate, self.weight_decay, self.warmup_steps)

    def train(self, mode: bool = True) -> Self:
        """Switch the draft's mode; the target stays in evaluation mode."""
        super().train(mode)
        if hasattr(self, "target"):
            self.target.eval()
        return self

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen target out of the checkpoint."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if not name.startswith("target.")}

    def losses(self, batch: RequestBatch) -> tuple[Tensor, Tensor]:
        """Return ``L_rec`` (nats a code) and ``L_align`` of a batch."""
        trie = self.trie.to(self.device)
        target, draft = (
            PrefixScorer(model, trie, batch.prompts, batch.prompt_mask) for model in (self.target, self.model)
        )
        with torch.no_grad():
            beams = search(target, None, TrieDrafter(), StrictTopK(), self.num_beams, drop_finished=False).leaves
        truth = trie.leaves(batch.truth[:, 0])  # [B]
        prefixes = trie.path(beams)[..., 1:].flatten(1)  # [B, K · (L - 1)], those that end before the last code
        draft.score(torch.cat([prefixes, trie.path(truth)], dim=1))

        root, exists = torch.zeros_like(truth)[:, None], prefixes != ROOT
        at_root = self._divergence(draft.children(root)[1], target.children(root)[1])  # [B, 1]
        deeper = self._divergence(draft.children(prefixes)[1][exists], target.children(prefixes)[1][exists])
        per_prefix = torch.cat([at_root.expand_as(beams).flatten(), deeper])
        return -draft.log_probs(trie.path(truth)).mean(), per_prefix.mean()

    def _divergence(self, draft_log_probs: Tensor, target_log_probs: Tensor) -> Tensor:
        """Return the loss at each prefix, with both models normalised over its legal children."""
        return self.loss(draft_log_probs.log_softmax(-1), target_log_probs.log_softmax(-1))

    def training_step(self, batch: RequestBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        return self._log_losses("train", batch)

    def validation_step(self, batch: RequestBatch, batch_idx: int) -> None:
        """Log the losses of the validation users."""
        self._log_losses("val", batch)

    def _log_losses(self, split: str, batch: RequestBatch) -> Tensor:
        rec_loss, align_loss = self.losses(batch)
        loss = (1 - self.alpha) * rec_loss + self.alpha * align_loss
        values = {f"{split}/loss": loss, f"{split}/rec_loss": rec_loss, f"{split}/align_loss": align_loss}
        self.log_dict(values, prog_bar=True, batch_size=len(batch.users), sync_dist=split == "val")
        return loss
