"""Writing the target cache."""

from operator import itemgetter

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from atspeed.alignment.target_cache import Split, TargetCache, cached_prefixes
from atspeed.data import RecommendationData
from atspeed.decoding import ItemTrie, PrefixScorer
from atspeed.modules.alignment import Alignment, search_beams
from atspeed.modules.stage import StageModule


class TargetCaching(StageModule):
    """Writes the target cache that an alignment reads; run by ``Trainer.predict``, a batch is a shard.

    Shards that are there are passed over, so a run that was killed goes on where it stopped. Processes deal the shards
    out among them, by their numbers: another process may have written some since this one looked.

    Args:
        alignment: the module that will read the cache.
        data: the data it will read it for.

    Raises:
        ValueError: if the alignment names no ``target_cache``.
    """

    def __init__(self, alignment: Alignment, data: RecommendationData) -> None:
        super().__init__(alignment.stage)
        if alignment.target_cache is None:
            raise ValueError("model.target_cache is not set: name the folder (in the run folder) of the target cache")
        self.allow_zero_length_dataloader_with_multiple_devices = True  # there may be fewer shards than processes
        self.alignment = alignment
        self.folder = alignment.target_cache
        self._data = data

    @property
    def data(self) -> RecommendationData:
        """The requests; not the Trainer's data module, whose prediction batches are others."""
        return self._data

    def setup(self, stage: str) -> None:
        """Load the data; refuse what would make the target another than :meth:`Alignment.cache_parts` says."""
        if self.zero_stage:
            raise ValueError(
                "trainer.strategy is DeepSpeed, which cannot be used for cache-target: it chooses the dtype of the "
                "weights, and its shards keep processes waiting for each other. Set trainer.strategy to ddp or auto, "
                "where each process holds the whole target, and model.target_dtype bfloat16 if it is too large"
            )
        self.data.setup()

    def configure_model(self) -> None:
        """Build the target."""
        if not hasattr(self, "target"):
            self.target = self.alignment.build_target(self)
            self.trie = ItemTrie(self.data.catalog.tokens)

    def predict_dataloader(self) -> DataLoader:
        """Loader of the shards that this process is to write."""
        self.cache = TargetCache(self.run_dir / self.folder, self.data, self.alignment.cache_parts(self))
        if self.trainer.is_global_zero:
            self.cache.prepare()
        missing = set(self.cache.missing())
        mine = self.cache.shards()[self.trainer.global_rank :: self.trainer.world_size]
        shards = [shard for shard in mine if shard in missing]
        return DataLoader(shards, batch_size=1, collate_fn=itemgetter(0))  # type: ignore[arg-type]

    def predict_step(self, shard: tuple[Split, int], batch_idx: int) -> int:
        """Write a shard; return how many requests it holds."""
        split, number = shard
        trie = self.trie.to(self.device)
        requests = self.cache.requests_of(split, number)
        size = max(1, self.data.max_tokens // self.data.max_prompt_tokens)
        all_beams: dict[int, Tensor] = {}
        all_edges: dict[int, Tensor] = {}
        for batch in self.data.batches_by_length(requests, size, self.device):
            target = PrefixScorer(self.target, trie, batch.prompts, batch.prompt_mask)
            beams = search_beams(target, self.alignment.num_beams)
            truth = trie.leaves(batch.truth[:, 0])
            target.score(trie.path(truth))
            edges, mask = target.child_log_probs(*cached_prefixes(trie, beams, truth))
            for row, leaves, values, exists in zip(
                batch.rows.tolist(), beams.cpu(), edges.cpu(), mask.cpu(), strict=True
            ):
                all_beams[row], all_edges[row] = leaves, values[exists]
        rows = [request.row for request in requests]
        self.cache.write(split, number, torch.stack([all_beams[row] for row in rows]), [all_edges[row] for row in rows])
        return len(requests)
