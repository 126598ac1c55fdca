"""The LightningDataModule: settings, splits and loaders."""

import hashlib
import json
import logging
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader

from atspeed.checks import require_at_least
from atspeed.data import splits
from atspeed.data.batches import BatchedDataset, RequestBatch, collate_requests, collate_sequences
from atspeed.data.dataset import Dataset
from atspeed.data.examples import Examples, RequestExample, SequenceExample
from atspeed.data.histories import Histories, read_histories
from atspeed.data.item_sequences import concatenate
from atspeed.data.samplers import BatchesInTurn, LengthBucketSampler
from atspeed.data.sources.interaction_source import InteractionSource
from atspeed.prompts import CompactPrompt, Prompt

log = logging.getLogger(__name__)


class RecommendationData(pl.LightningDataModule):
    """Users' histories as training sequences or as requests.

    Histories are cut to their last ``max_history`` items. Training cuts longer ones into windows that share one item,
    so that each item is a label once. Validation asks for the first item after the training items. Testing asks for
    all test items, given the training and validation items.

    Args:
        source: the data set.
        prompt: how the target reads a history and writes an item, or, in ``fit`` of a target or draft, that model;
            ``CompactPrompt`` if not given.
        draft_prompt: how the draft does; as the target if not given.
        examples: what ``fit`` trains on: ``sequences``, where every position is a label (fine-tuning), or
            ``requests``, a history and its next item (alignment). Of a prompt that learns the response only, a
            sequence is a history and its next item, too.
        cuts: where such a pair cuts a training history: ``last`` asks for its last item only, ``every`` for each of
            its items but the first, given those before it (on Amazon Beauty five times as many requests).
        max_history: most items in a history.
        max_tokens: most tokens in a training or validation batch, padding included.
        batch_size: requests of a test or predict batch.
        num_test_users: test on this many users only, evenly spread over the data; all if not given.
        seed: seed of the training order and of dropout.
        histories: predict for the histories of this file, JSON lines ``{"user": …, "history": [item, …]}`` with items
            as the data names them; by default for all users of the data.
        skip_unknown_items: leave out items of these histories that the catalog does not have, and log how many.

    Attributes:
        dataset: the data set, from ``setup`` on.
        catalog: its items, from ``setup`` on.
        encoder: turns histories into the target's tokens, from ``setup`` on.
        draft_encoder: turns them into the draft's; the same object where the draft reads what the target does.
        predict_rows: indices of the requests that ``predict_dataloader`` yields; None: all. ``PredictionWriter`` leaves
            out those that an interrupted run has answered.
    """

    def __init__(
        self,
        source: InteractionSource,
        prompt: Prompt | None = None,
        draft_prompt: Prompt | None = None,
        examples: Literal["sequences", "requests"] = "sequences",
        cuts: splits.Cuts = "last",
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
        self.prompt = prompt or CompactPrompt()
        self.draft_prompt = draft_prompt
        self.examples = examples
        self.cuts = cuts
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
        if hasattr(self, "dataset"):
            return
        self.dataset: Dataset = self.source.load()
        self.catalog = self.dataset.catalog
        self.encoder = self.prompt.encoder(self.catalog, self.max_history)
        self.draft_encoder = self.encoder
        if self.draft_prompt is not None:
            self.draft_encoder = self.draft_prompt.encoder(self.catalog, self.max_history)
        log.info(
            "%d users, %d items, %d interactions to train on",
            len(self.dataset.users),
            self.catalog.num_items,
            len(self.dataset.train.values),
        )
        if self.dataset.skipped:
            log.info("left out: %s", ", ".join(f"{number} {what}" for what, number in self.dataset.skipped.items()))

    def training_windows(self) -> Examples[SequenceExample]:
        """Each user's training items, cut into windows; see :func:`splits.training_windows`."""
        return splits.training_windows(self.dataset.train, self.max_history)

    def requests(self, split: Literal["train", "val"]) -> Examples[RequestExample]:
        """Histories and their next item: of the training windows, or of the users with a validation item."""
        if split == "train":
            return splits.training_requests(self.training_windows(), self.cuts)
        return splits.validation_requests(self.dataset)

    def test_history(self, user: int) -> np.ndarray:
        """Return what is known of a user before the test items: training and validation items."""
        return splits.test_history(self.dataset, user)

    def test_requests(self) -> Examples[RequestExample]:
        """The test users' histories (training and validation items) and distinct test items."""
        return splits.test_requests(self.dataset, self.num_test_users)

    @cached_property
    def predict_histories(self) -> Histories:
        """Who gets predictions, and all that is known of them."""
        if self.histories is not None:
            return read_histories(Path(self.histories), self.catalog, self.skip_unknown_items)
        data = self.dataset
        return Histories(data.users, concatenate(data.train, data.valid, data.test))

    def predict_fingerprint(self) -> str:
        """Return a hash of everything in the data that predictions depend on."""
        digest = hashlib.sha256(self.encoder.fingerprint().encode())
        known = self.predict_histories
        for names in (self.max_history, self.catalog.names, self.catalog.words, list(known.users)):
            digest.update(json.dumps(names).encode())
        for array in (self.catalog.codes.numpy(), self.dataset.popularity, known.items.offsets, known.items.values):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def batches_by_length(
        self, requests: Sequence[RequestExample], batch_size: int, device: torch.device
    ) -> list[RequestBatch]:
        """Return requests on a device, in batches of similar length, which keeps the padding small."""
        requests = sorted(requests, key=lambda request: len(request.history))
        starts = range(0, len(requests), batch_size)
        batches = [self._collate_requests(requests[start : start + batch_size]) for start in starts]
        return [RequestBatch(*(tensor.to(device) for tensor in batch)) for batch in batches]

    def train_dataloader(self) -> DataLoader:
        """Loader of sequences or requests, by ``examples``."""
        if self.examples == "requests":
            return self._fit_loader(self.requests("train"), train=True)
        learns_history = self.encoder.learns_history
        sequences = self.training_windows() if learns_history else splits.response_sequences(self.requests("train"))
        return self._fit_loader(sequences, train=True)

    def val_dataloader(self) -> DataLoader:
        """Loader of the users with a validation item."""
        requests = self.requests("val")
        sequences = splits.response_sequences(requests)
        return self._fit_loader(sequences if self.examples == "sequences" else requests, train=False)

    def test_dataloader(self) -> DataLoader:
        """Loader of the test users, in the order of the data."""
        requests = self.test_requests()
        return self._request_loader(requests, range(len(requests)))

    def predict_dataloader(self) -> DataLoader:
        """Loader of the requests of :attr:`predict_histories` (only of ``predict_rows``, if set), in order."""
        self.allow_zero_length_dataloader_with_multiple_devices = True  # an interrupted run may have left few requests
        histories = self.predict_histories.items
        requests = Examples(histories.lengths + 1, lambda row: RequestExample(row, histories[row], [], row))
        return self._request_loader(requests, range(len(requests)) if self.predict_rows is None else self.predict_rows)

    def _request_loader(self, requests: Examples[RequestExample], rows: Sequence[int]) -> DataLoader:
        return DataLoader(
            BatchedDataset(requests, self._collate_requests),
            batch_size=None,
            sampler=BatchesInTurn(rows, self.batch_size, *self._process()),
        )

    def _fit_loader(self, examples: Examples[SequenceExample] | Examples[RequestExample], train: bool) -> DataLoader:
        sequences = self.examples == "sequences"
        collate = partial(collate_sequences, encoder=self.encoder) if sequences else self._collate_requests
        trainer = self.trainer
        sampler = LengthBucketSampler(
            self.encoder.num_tokens(examples.num_items),
            self.max_tokens,
            train,
            self.seed,
            *self._process(),
            (lambda: trainer.fit_loop.epoch_loop.batch_progress.current.ready) if trainer and train else (lambda: 0),
        )
        return DataLoader(BatchedDataset(examples, collate), batch_size=None, sampler=sampler)

    def _collate_requests(self, examples: Sequence[RequestExample]) -> RequestBatch:
        return collate_requests(examples, self.encoder, self.draft_encoder)

    def _process(self) -> tuple[int, int]:
        """Return the rank of this process, and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
