"""The LightningDataModule: splits, examples and loaders."""

import hashlib
import json
import logging
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from atspeed.checks import require_at_least
from atspeed.data.batches import (
    BatchedDataset,
    RequestBatch,
    RequestExample,
    SequenceExample,
    collate_requests,
    collate_sequences,
    evenly_spread,
)
from atspeed.data.histories import Histories, read_histories
from atspeed.data.interactions import Interactions
from atspeed.data.samplers import BatchesInTurn, LengthBucketSampler
from atspeed.data.sources.interaction_source import InteractionSource
from atspeed.prompts.compact import CompactPrompt

log = logging.getLogger(__name__)


class RecommendationData(pl.LightningDataModule):
    """Users' histories as training sequences or as requests.

    Histories are cut to their last ``max_history`` items. Training cuts longer ones into windows that share one item,
    so that each item is a label once. Validation asks for the first item after the training items; testing for all
    test items, given training and validation items.

    Args:
        source: the data set.
        examples: what ``fit`` trains on: ``sequences``, where every position is a label (fine-tuning), or
            ``requests``, a history and its next item (alignment).
        max_history: items of a history at most.
        max_tokens: tokens of a training or validation batch at most, padding included.
        batch_size: requests of a test or predict batch.
        num_test_users: test on so many users only, evenly spread over the file; all if not given.
        seed: seed of the training order and, with it, of dropout.
        histories: predict for the histories of this file, JSON lines ``{"user": …, "history": [item, …]}`` with items
            as the data names them; by default for all users of the data.
        skip_unknown_items: leave items that the catalog does not have out of these histories, and log how many.

    Attributes:
        predict_rows: places of the requests that ``predict_dataloader`` gives; None: all. ``PredictionWriter`` leaves
            out those that an interrupted run has answered.
    """

    def __init__(
        self,
        source: InteractionSource,
        examples: Literal["sequences", "requests"] = "sequences",
        max_history: int = 20,
        max_tokens: int = 4096,
        batch_size: int = 16,
        num_test_users: int | None = None,
        seed: int = 0,
        histories: Path | None = None,
        skip_unknown_items: bool = False,
    ) -> None:
        super().__init__()
        require_at_least(1, data__max_history=max_history, data__max_tokens=max_tokens)
        require_at_least(1, data__batch_size=batch_size, data__num_test_users=num_test_users)
        self.source = source
        self.examples = examples
        self.max_history = max_history
        self.max_tokens = max_tokens
        self.batch_size = batch_size
        self.num_test_users = num_test_users
        self.seed = seed
        self.histories = histories
        self.skip_unknown_items = skip_unknown_items
        self.predict_rows: Sequence[int] | None = None

    def setup(self, stage: str | None = None) -> None:
        """Load the data set (once)."""
        if hasattr(self, "interactions"):
            return
        self.interactions: Interactions = self.source.load()
        self.catalog = self.interactions.catalog
        self.prompt = CompactPrompt(self.catalog, self.max_history)
        log.info(
            "%d users, %d items, %d interactions to train on",
            len(self.interactions.users),
            self.catalog.num_items,
            sum(map(len, self.interactions.train)),
        )

    @property
    def max_prompt_tokens(self) -> int:
        """Tokens of the longest prompt or training sequence."""
        return 1 + (self.max_history + 1) * (self.catalog.num_levels + 1)

    def training_windows(self) -> list[tuple[int, list[int]]]:
        """User and items of each window of at most ``max_history + 1`` training items."""
        step = self.max_history
        return [
            (user, items[start : start + step + 1])
            for user, items in enumerate(self.interactions.train)
            for start in range(0, max(len(items) - 1, 1), step)
            if items
        ]

    def test_history(self, user: int) -> list[int]:
        """What is known of a user before the test items: training and validation items."""
        return [*self.interactions.train[user], *self.interactions.valid[user]]

    @cached_property
    def predict_histories(self) -> Histories:
        """Who gets predictions, and all that is known of them."""
        if self.histories is not None:
            return read_histories(Path(self.histories), self.catalog, self.skip_unknown_items)
        users = self.interactions.users
        return Histories(users, [[*self.test_history(row), *self.interactions.test[row]] for row in range(len(users))])

    def predict_fingerprint(self) -> str:
        """Return a hash of all that predictions take from the data."""
        digest = hashlib.sha256(json.dumps(self.max_history).encode())
        for item, name in enumerate(self.catalog.names):
            digest.update(json.dumps([name, self.catalog.sid(item)]).encode())
        for request in zip(self.predict_histories.users, self.predict_histories.items, strict=True):
            digest.update(json.dumps(request).encode())
        return digest.hexdigest()

    def test_requests(self) -> list[RequestExample]:
        """The test users' histories (training and validation items) and distinct test items."""
        data = self.interactions
        users = [user for user, truth in enumerate(data.test) if truth]
        if not users:
            raise ValueError("no user has a test item")
        chosen = evenly_spread(users, self.num_test_users or len(users))
        return [
            RequestExample(user, self.test_history(user), list(dict.fromkeys(data.test[user])), row)
            for row, user in enumerate(chosen)
        ]

    def requests(self, split: Literal["train", "val"]) -> list[RequestExample]:
        """Histories and their next item: of the training windows, or of the users with a validation item."""
        data = self.interactions
        if split == "train":
            pairs = [(user, items[:-1], items[-1:]) for user, items in self.training_windows()]
        else:
            pairs = [(user, data.train[user], items[:1]) for user, items in enumerate(data.valid) if items]
        return [RequestExample(*pair, row) for row, pair in enumerate(pairs)]

    def batches_by_length(
        self, requests: Sequence[RequestExample], batch_size: int, device: torch.device
    ) -> list[RequestBatch]:
        """Return requests in batches of similar length, which keeps their padding small, on a device."""
        requests = sorted(requests, key=lambda request: len(request.history))
        starts = range(0, len(requests), batch_size)
        batches = [collate_requests(requests[start : start + batch_size], self.prompt) for start in starts]
        return [RequestBatch(*(tensor.to(device) for tensor in batch)) for batch in batches]

    def train_dataloader(self) -> DataLoader:
        """Loader of sequences or requests, by ``examples``."""
        if self.examples == "sequences":
            return self._fit_loader([SequenceExample(*window, False) for window in self.training_windows()], train=True)
        return self._fit_loader(self.requests("train"), train=True)

    def val_dataloader(self) -> DataLoader:
        """Loader of the users with a validation item."""
        requests = self.requests("val")
        if self.examples == "sequences":
            examples = [SequenceExample(r.user, [*r.history, *r.truth], True) for r in requests]
            return self._fit_loader(examples, train=False)
        return self._fit_loader(requests, train=False)

    def test_dataloader(self) -> DataLoader:
        """Loader of the test users, in the order of the data."""
        return self._request_loader(self.test_requests())

    def predict_dataloader(self) -> DataLoader:
        """Loader of the requests of :attr:`predict_histories` (of ``predict_rows`` only, if set), in order."""
        self.allow_zero_length_dataloader_with_multiple_devices = True  # few requests are left of an interrupted run
        histories = self.predict_histories.items
        requests = [RequestExample(row, history, [], row) for row, history in enumerate(histories)]
        return self._request_loader(requests, self.predict_rows)

    def _request_loader(self, requests: list[RequestExample], rows: Sequence[int] | None = None) -> DataLoader:
        positions = range(len(requests)) if rows is None else rows
        trainer = self.trainer
        process = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        return DataLoader(
            BatchedDataset(requests, partial(collate_requests, prompt=self.prompt)),
            batch_size=None,
            sampler=BatchesInTurn(positions, self.batch_size, *process),
        )

    def _fit_loader(self, examples: list, train: bool) -> DataLoader:
        collate = collate_sequences if self.examples == "sequences" else collate_requests
        items = [len(e.items) if isinstance(e, SequenceExample) else len(e.history) + 1 for e in examples]
        trainer = self.trainer
        sampler = LengthBucketSampler(
            [1 + min(count, self.max_history + 1) * (self.catalog.num_levels + 1) for count in items],
            self.max_tokens,
            train,
            self.seed,
            trainer.global_rank if trainer else 0,
            trainer.world_size if trainer else 1,
            (lambda: trainer.fit_loop.epoch_loop.batch_progress.current.ready) if trainer and train else (lambda: 0),
        )
        return DataLoader(
            BatchedDataset(examples, partial(collate, prompt=self.prompt)), batch_size=None, sampler=sampler
        )
