"""Writing the target cache."""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor
from torch.utils.data import DataLoader

from atspeed.alignment.sequences import search_beams
from atspeed.alignment.target_cache import Split, TargetCache, TargetShard, cached_prefixes, target_settings
from atspeed.data import RecommendationData
from atspeed.decoding import PrefixScorer
from atspeed.decoding.beams import beams_by_depth
from atspeed.decoding.probe import check_tree_attention
from atspeed.modules.alignment import Alignment
from atspeed.modules.model_building import build_frozen_model
from atspeed.modules.stage import StageModule
from atspeed.modules.zero import zero_stage
from atspeed.recommender import response_trie


class TargetCaching(StageModule):
    """Computes the target cache that an alignment reads; run by ``Trainer.predict``, a batch is a shard.

    Shards that exist are skipped, so an interrupted run resumes with the next one. Shards are dealt out to the
    processes by their numbers, not by what is missing: another process may have written some since this one looked.

    Args:
        alignment: the module that will read the cache; only its settings are used.
        data: the data that it will read it for.

    Raises:
        ValueError: if the alignment names no ``target_cache``.
    """

    def __init__(self, alignment: Alignment, data: RecommendationData) -> None:
        super().__init__(alignment.stage)
        if alignment.target_cache is None:
            raise ValueError("model.target_cache is not set: name the folder (in the run folder) of the target cache")
        self.allow_zero_length_dataloader_with_multiple_devices = True  # there may be fewer shards than processes
        self.folder = alignment.target_cache
        self.target_source = alignment.target_source
        self.target_dtype = alignment.target_dtype
        self.num_beams = alignment.num_beams
        self._data = data

    @property
    def data(self) -> RecommendationData:
        """The requests; not the Trainer's data module, whose prediction batches are others."""
        return self._data

    def configure_callbacks(self) -> list[pl.Callback]:
        """Return the callback that writes the shards."""
        return [TargetShardWriter()]

    def setup(self, stage: str) -> None:
        """Load the data; refuse what would make a target that differs from that of the settings."""
        if zero_stage(self.trainer):
            raise ValueError(
                "trainer.strategy is DeepSpeed, which cannot be used for cache-target: it chooses the dtype of the "
                "weights, and its shards keep processes waiting for each other. Set trainer.strategy to ddp or auto, "
                "where each process holds the complete target, and model.target_dtype bfloat16 if it is too large"
            )
        self.data.setup()

    def configure_model(self) -> None:
        """Build the target."""
        if not hasattr(self, "target"):
            self.target = build_frozen_model(self.target_source, self.target_dtype, self.data.encoder, self.trainer)
            self.trie = response_trie(self.data.catalog, self.data.encoder)

    def predict_dataloader(self) -> DataLoader:
        """Loader of the shards that this process is to write."""
        settings = target_settings(
            self.target_source, self.run_dir, self.num_beams, str(self.trainer.precision), self.target_dtype
        )
        self.cache = TargetCache(self.run_dir / self.folder, self.data, settings)
        if self.trainer.is_global_zero:
            self.cache.prepare()
        missing = set(self.cache.missing())
        mine = self.cache.shards()[self.trainer.global_rank :: self.trainer.world_size]
        shards = [shard for shard in mine if shard in missing]
        return DataLoader(shards, batch_size=1, collate_fn=itemgetter(0))  # type: ignore[arg-type]

    def on_predict_start(self) -> None:
        """Refuse a target that does not take a tree mask; see :func:`check_tree_attention`."""
        check_tree_attention(self.target, self.data.encoder.max_prompt_tokens, self.trie.max_depth)

    def predict_step(self, shard: tuple[Split, int], batch_idx: int) -> TargetShard:
        """Return the content of a shard."""
        trie = self.trie.to(self.device)
        requests = self.cache.shard_requests(*shard)
        size = max(1, self.data.max_tokens // self.data.encoder.max_sequence_tokens)
        found: dict[int, tuple[Tensor, ...]] = {}
        for batch in self.data.batches_by_length(requests, size, self.device):
            target = PrefixScorer(self.target, trie, batch.prompts, batch.prompt_mask)
            leaves = search_beams(target, self.num_beams)  # [B, K]
            truth = trie.leaves(batch.truth[:, 0])  # [B]
            target.score(trie.path(truth))
            log_probs, mask = target.child_log_probs(*cached_prefixes(trie, leaves, truth))  # [B, W]
            levels = beams_by_depth(target, self.num_beams)[1:]  # all of them are scored by now
            no_level = leaves[:, None][:, :0]  # [B, 0, K]
            prefixes = torch.stack([level.nodes for level in levels], dim=1) if levels else no_level
            scores = torch.stack([level.scores for level in levels], dim=1) if levels else no_level.float()
            parts = (part.cpu() for part in (leaves, prefixes, scores, log_probs, mask))
            for row, *row_parts, row_log_probs, exists in zip(batch.rows.tolist(), *parts, strict=True):
                found[row] = *row_parts, row_log_probs[exists]
        *stacked, child_log_probs = zip(*(found[request.row] for request in requests), strict=True)
        beams, prefixes, scores = (torch.stack(part) for part in stacked)
        return TargetShard(*shard, beams, prefixes, scores, child_log_probs)


class TargetShardWriter(BasePredictionWriter):
    """Writes each shard to the cache as soon as it is computed, so that a kill loses one shard at most."""

    def __init__(self) -> None:
        super().__init__(write_interval="batch")

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: TargetCaching,  # type: ignore[override]
        prediction: TargetShard,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write a shard."""
        pl_module.cache.write(prediction)
