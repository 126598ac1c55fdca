"""The LightningDataModule: splits, examples and loaders."""

import logging
from functools import partial
from typing import Literal, cast

import lightning.pytorch as pl
from torch.utils.data import DataLoader, Dataset

from atspeed.checks import require_at_least
from atspeed.data.batches import (
    BatchedDataset,
    LengthBucketSampler,
    RequestExample,
    SequenceExample,
    collate_requests,
    collate_sequences,
    evenly_spread,
)
from atspeed.data.interactions import Interactions, InteractionSource
from atspeed.data.prompts import CompactPrompt

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
        seed: seed of the training order.
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

    def predict_history(self, user: int) -> list[int]:
        """All that is known of a user."""
        return [*self.test_history(user), *self.interactions.test[user]]

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

    def train_dataloader(self) -> DataLoader:
        """Loader of sequences or requests, by ``examples``."""
        if self.examples == "sequences":
            return self._fit_loader([SequenceExample(items, False) for _, items in self.training_windows()], True)
        return self._fit_loader(self.requests("train"), shuffle=True)

    def val_dataloader(self) -> DataLoader:
        """Loader of the users with a validation item."""
        requests = self.requests("val")
        if self.examples == "sequences":
            return self._fit_loader([SequenceExample([*r.history, *r.truth], True) for r in requests], shuffle=False)
        return self._fit_loader(requests, shuffle=False)

    def test_dataloader(self) -> DataLoader:
        """Loader of the test users, in the order of the data."""
        return self._request_loader(self.test_requests())

    def predict_dataloader(self) -> DataLoader:
        """As for testing, with all users and their whole histories."""
        users = range(len(self.interactions.users))
        return self._request_loader([RequestExample(user, self.predict_history(user), [], user) for user in users])

    def _request_loader(self, requests: list[RequestExample]) -> DataLoader:
        dataset = cast(Dataset[RequestExample], requests)  # a list does all that a map-style data set must
        return DataLoader(dataset, batch_size=self.batch_size, collate_fn=partial(collate_requests, prompt=self.prompt))

    def _fit_loader(self, examples: list, shuffle: bool) -> DataLoader:
        collate = collate_sequences if self.examples == "sequences" else collate_requests
        items = [len(e.items) if isinstance(e, SequenceExample) else len(e.history) + 1 for e in examples]
        trainer = self.trainer
        sampler = LengthBucketSampler(
            [1 + min(count, self.max_history + 1) * (self.catalog.num_levels + 1) for count in items],
            self.max_tokens,
            shuffle,
            self.seed,
            trainer.global_rank if trainer else 0,
            trainer.world_size if trainer else 1,
        )
        return DataLoader(
            BatchedDataset(examples, partial(collate, prompt=self.prompt)), batch_size=None, sampler=sampler
        )
