"""The inference module: tests and predicts top-K items by speculative beam decoding."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torchmetrics import Metric, MetricCollection

from atspeed.checks import require_at_least
from atspeed.data import RequestBatch
from atspeed.decoding import (
    ROOT,
    BoundedTopK,
    Decoded,
    Drafter,
    ItemFilter,
    SpeculativeDecoder,
    Verifier,
    request_seeds,
)
from atspeed.decoding.constructor_arguments import constructor_arguments
from atspeed.decoding.cost import CostModel, keep_cost, measured_cost
from atspeed.decoding.execution import Execution
from atspeed.decoding.forward import Normalize
from atspeed.metrics import CatalogCoverage, ExactShare, HitRateAtK, MRRAtK, NDCGAtK, RecallAtK, Speculation
from atspeed.models import ModelSource, pack_linears
from atspeed.modules.model_building import build_model
from atspeed.modules.stage import StageModule
from atspeed.modules.zero import require_unsharded_models
from atspeed.recommender import (
    PopularItems,
    TransitionCounts,
    answers,
    draft_tokens,
    recommend_popular,
    response_trie,
    unseen_items,
)
from atspeed.recommender.answer_columns import answer_record
from atspeed.recommender.calibration_file import load_calibration
from atspeed.recommender.cost_file import load_costs

RANKING_METRICS: dict[str, Callable[[int], Metric | MetricCollection]] = {
    "recall": RecallAtK,
    "hit_rate": HitRateAtK,
    "ndcg": NDCGAtK,
    "mrr": MRRAtK,
}


class Inference(StageModule):
    """Answers requests for ``test`` and ``predict``.

    A recommended list holds the items of the top-K semantic IDs, best first; items that share a semantic ID are
    neighbours in it, in the order of the catalog.

    ``test`` logs:

    - Recall@k, HitRate@k, NDCG@k and MRR@k of the first k items of that list, averaged over users: Recall@k divides by
      *all* true items of a user, HitRate@k asks for any of them, NDCG@k divides by the ideal of ``min(k, true items)``
      hits;
    - the same with a prefix ``sid_`` for semantic IDs in place of items, where items share some: the list is then the K
      semantic IDs, and a hit is that of a true item, whatever other items have it, too;
    - the share of the catalog that is recommended to at least one user;
    - Recall@k of two baselines without a model;
    - what speculation cost: target and draft calls per request, accepted levels per target call, and the acceptance
      rate (accepted levels over drafted levels), overall and per level;
    - with ``BoundedTopK``, ``test/exact_share``: the share of an answer that is certainly that of strict verification.

    ``predict`` answers the requests of ``RecommendationData.predict_histories``; ``PredictionWriter`` writes the
    answers to a file. Users without history get the popular items (:class:`PopularItems`).

    Args:
        stage: folder in the run folder that logs and predictions go to.
        target: the model whose answer counts.
        drafter: proposes prefixes.
        verifier: decides which of them are accepted.
        draft: the model of a drafter that needs one.
        num_beams: beam width K.
        metrics_at: the values of k for the metrics; the baselines use the largest.
        normalize: how scores are normalised: ``vocabulary``, as ``transformers.generate`` does, or ``allowed``.
        exclude_seen: leave out the items of a user's history: in ``test`` those before the test items, in ``predict``
            all known items.
        seed: of a verifier that samples; an answer depends on it and on the row of its request in the split, but
            neither on the batch nor on the process.
        execution: how searches are run; ``Captured`` replays them as CUDA graphs.

    Raises:
        ValueError: if ``num_beams`` or ``metrics_at`` is out of range.
    """

    def __init__(
        self,
        stage: str,
        target: ModelSource,
        drafter: Drafter,
        verifier: Verifier,
        draft: ModelSource | None = None,
        num_beams: int = 20,
        metrics_at: Sequence[int] = (5, 10, 20),
        normalize: Normalize = "vocabulary",
        exclude_seen: bool = False,
        seed: int = 0,
        execution: Execution | None = None,
    ) -> None:
        super().__init__(stage)
        require_at_least(1, model__num_beams=num_beams)
        if not metrics_at or max(metrics_at) > num_beams:
            raise ValueError(
                f"model.metrics_at is {list(metrics_at)}; expected values up to model.num_beams {num_beams}"
            )
        self.target_source = target
        self.draft_source = draft
        self.drafter = drafter
        self.verifier = verifier
        self.num_beams = num_beams
        self.normalize = normalize
        self.exclude_seen = exclude_seen
        self.seed = seed
        self.execution = execution
        self.ranking, self.sid_ranking = (
            MetricCollection(
                {f"{name}@{k}": metric(k) for name, metric in RANKING_METRICS.items() for k in metrics_at},
                prefix=prefix,
                compute_groups=False,
            )
            for prefix in ("test/", "test/sid_")
        )
        self.baseline_k = max(metrics_at)
        self.popularity_recall, self.transitions_recall = RecallAtK(self.baseline_k), RecallAtK(self.baseline_k)
        self.exact_share = ExactShare()

    def configure_model(self) -> None:
        """Build the models and the trie (here and not earlier: the data module knows the catalog)."""
        if not hasattr(self, "target"):
            require_unsharded_models(self.trainer, "decoding")
            self.target = build_model(self.target_source, self.data.encoder, self.trainer)
            draft = self.draft_source if self.drafter.needs_draft else None
            self.draft = build_model(draft, self.data.draft_encoder, self.trainer) if draft else None
            self.trie = response_trie(self.data.catalog, self.data.encoder)
            self.draft_tokens = draft_tokens(self.data.encoder, self.data.draft_encoder) if draft else None
            self.catalog_coverage = CatalogCoverage(self.data.catalog.num_items, self.num_beams)
            self.speculation = Speculation(self.trie.num_levels)

    def _start(self) -> None:
        pack_linears(self.target)  # not earlier: packed weights cannot be moved to a device or into shards
        if self.draft is not None:
            pack_linears(self.draft)
        if self.drafter.needs_cost:
            self._load_costs()
        self.main_decoder = self.decoder(self.drafter)

    def _load_costs(self) -> None:
        """Look up what calls cost and the draft's calibration.

        One process looks costs up, or measures them, for all: what is proposed shows in what a sampling verifier
        answers, and a batch is to have the same answers on machines of different speed.
        """
        models = [self.target] if self.draft is None else [self.target, self.draft]
        costs: list[CostModel] = []
        if self.trainer.is_global_zero:
            load_costs(self.run_dir, self.target, self.target_source, self.draft, self.draft_source)
            costs = [measured_cost(model) for model in models]
        for model, cost in zip(models, self.trainer.strategy.broadcast(costs), strict=True):
            keep_cost(model, cost)
        load_calibration(self.draft, self.draft_source, self.target_source, self.run_dir)

    def decoder(self, drafter: Drafter) -> SpeculativeDecoder:
        """Return a decoder with this module's models and verifier and the given drafter."""
        return SpeculativeDecoder(
            self.target,
            self.trie,
            drafter,
            self.verifier,
            self.draft,
            self.normalize,
            max_prompt_tokens=self.data.encoder.max_prompt_tokens,
            draft_tokens=self.draft_tokens,
            max_draft_prompt_tokens=self.data.draft_encoder.max_prompt_tokens,
            execution=self.execution,
        )

    def item_filter(self, batch: RequestBatch) -> ItemFilter | None:
        """Return the filter that ``exclude_seen`` asks for; None: every request may get all items."""
        if not self.exclude_seen:
            return None
        users = batch.users.tolist()
        if self.trainer.predicting:
            histories = [self.data.predict_histories.items[user] for user in users]
        else:
            histories = [self.data.test_history(user) for user in users]
        return unseen_items(histories, self.data.catalog.num_items, self.device)

    def recommend(self, batch: RequestBatch, item_filter: ItemFilter | None) -> Decoded:
        """Decode a batch."""
        return self.main_decoder(
            **batch.decoder_inputs,
            num_beams=self.num_beams,
            item_filter=item_filter,
            seeds=request_seeds(self.seed, batch.rows),
        )

    def on_test_start(self) -> None:
        """Make the decoder and the baselines."""
        self._start()
        train, num_items = self.data.dataset.train, self.data.catalog.num_items
        self.popular = recommend_popular(train.values, num_items, self.baseline_k)
        self.transitions = TransitionCounts(train.offsets, train.values, num_items)

    def test_step(self, batch: RequestBatch, batch_idx: int) -> None:
        """Decode a batch and update the metrics."""
        item_filter = self.item_filter(batch)
        decoded = self.recommend(batch, item_filter)
        items = self.trie.concatenated_items(
            decoded.leaves, self.num_beams, item_filter.item_mask if item_filter else None
        )
        self.ranking.update(items, batch.truth)
        self.catalog_coverage.update(items)
        self.speculation.update(decoded.target_calls, decoded.draft_calls, decoded.accepted, decoded.drafted)
        self._update_baselines(batch)
        epoch: dict[str, Any] = {
            **dict(self.ranking.items()),
            f"test/popularity_recall@{self.baseline_k}": self.popularity_recall,
            f"test/transitions_recall@{self.baseline_k}": self.transitions_recall,
            f"test/catalog_coverage@{self.num_beams}": self.catalog_coverage,
        }
        if self.trie.num_leaves < self.data.catalog.num_items:
            sids = decoded.leaves.masked_fill(decoded.leaves == ROOT, -1)
            self.sid_ranking.update(sids, self.trie.leaves(batch.truth).masked_fill(batch.truth < 0, -1))
            epoch.update(self.sid_ranking.items())
        if isinstance(self.verifier, BoundedTopK):
            self.exact_share.update(decoded.leaves, decoded.num_exact)
            epoch["test/exact_share"] = self.exact_share
        self.log_dict(epoch, on_step=False, on_epoch=True, batch_size=len(batch.users))

    def _update_baselines(self, batch: RequestBatch) -> None:
        k = self.baseline_k
        followers = [self.transitions.recommend(self.data.test_history(user), k) for user in batch.users.tolist()]
        self.popularity_recall.update(self.popular.expand(len(followers), -1).to(self.device), batch.truth)
        self.transitions_recall.update(torch.stack(followers).to(self.device), batch.truth)

    def on_test_epoch_end(self) -> None:
        """Log what speculation cost."""
        values = {f"test/{name}": value for name, value in self.speculation.compute().items() if not value.isnan()}
        self.log_dict(values, sync_dist=True)  # the same on all processes; without it Lightning warns
        self.speculation.reset()

    def answer_settings(self) -> dict[str, str]:
        """Return everything that predictions depend on, by the name of the setting; models and data as hashes."""
        settings = {
            "model.drafter": _described(self.drafter),
            "model.verifier": _described(self.verifier),
            "model.target": self.target_source.fingerprint(self.run_dir),
            "trainer.precision": str(self.trainer.precision),
            "data": self.data.predict_fingerprint(),
        }
        if self.draft_source and self.drafter.needs_draft:
            settings["model.draft"] = self.draft_source.fingerprint(self.run_dir)
        for name in ("num_beams", "normalize", "exclude_seen", "seed"):
            settings[f"model.{name}"] = str(getattr(self, name))
        return settings

    def on_predict_start(self) -> None:
        """Make the decoder, and what users without history get."""
        self._start()
        self.popular_items = PopularItems(self.data.dataset.popularity, self.data.catalog, self.trie)

    def predict_step(self, batch: RequestBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Return one record per request: the user's name, what is recommended, and the number of target calls."""
        item_filter = self.item_filter(batch)
        decoded = self.recommend(batch, item_filter)
        known = self.data.predict_histories
        records = []
        for user, answer in zip(
            batch.users.tolist(), answers(decoded, self.trie, self.data.catalog, item_filter), strict=True
        ):
            if not len(known.items[user]):
                answer = self.popular_items.answer(self.num_beams)
            records.append({"user": known.users[user], **answer_record(answer)})
        return records


def _described(part: Drafter | Verifier) -> str:
    """Class and constructor arguments in words."""
    arguments = constructor_arguments(part).items()
    return f"{type(part).__name__}({', '.join(f'{name}={value}' for name, value in arguments)})"
