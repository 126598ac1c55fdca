"""What is in a data set, and what it means for decoding."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from atspeed.data import Dataset
from atspeed.data.dataset import SPLITS
from atspeed.decoding import ItemTrie
from atspeed.preparation.sid_statistics import SidReport, describe_sids
from atspeed.preparation.trie_prediction import TrieRow, conclude, predict_trie

QUANTILES = {"least": 0.0, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "most": 1.0}
LONGEST = 50
NO_SIDS = (
    "The items have no semantic IDs, which training and decoding need: make some with python -m atspeed semantic-ids."
)


@dataclass(frozen=True)
class SplitRow:
    """One of the three splits.

    Attributes:
        split: its name.
        users: users with an item in it.
        interactions: items in it.
    """

    split: str
    users: int
    interactions: int


@dataclass(frozen=True)
class DataReport:
    """The content of ``report.json``.

    Attributes:
        origin: the source's class and settings, and when it was read.
        writer: class of the writer.
        fingerprint: of the data set; see :func:`atspeed.data.fingerprint.fingerprint`.
        users: number of users.
        items: number of items.
        items_without_sid: how many of them have no semantic ID.
        skipped: what of the source was left out: reason → how many.
        splits: users and interactions of each split.
        history_lengths: quantiles of the number of a user's items, in all splits together.
        users_by_length: users with 0, 1, 2 … items; the last entry counts those with more than all before.
        sids: the semantic IDs, if there are any.
        trie_drafter: target calls and tokens that ``TrieDrafter`` will take; empty without semantic IDs.
        conclusion: whether a learned draft is needed, in a sentence.
    """

    origin: dict[str, Any]
    writer: str
    fingerprint: str
    users: int
    items: int
    items_without_sid: int
    skipped: dict[str, int]
    splits: list[SplitRow]
    history_lengths: dict[str, float]
    users_by_length: list[int]
    sids: SidReport | None
    trie_drafter: list[TrieRow]
    conclusion: str


def describe(dataset: Dataset, fingerprint: str, writer: str) -> DataReport:
    """Return the report on a data set.

    Args:
        dataset: the data set.
        fingerprint: its fingerprint.
        writer: class of the writer.

    Raises:
        ValueError: if it has no user, or semantic IDs that are no catalog.
    """
    if not len(dataset.users):
        raise ValueError("the data set has no user")
    splits = {name: getattr(dataset, name).lengths for name in SPLITS}
    lengths = np.sum(list(splits.values()), axis=0)
    sids, rows, conclusion = None, [], NO_SIDS
    if dataset.has_sids:
        trie = ItemTrie(dataset.catalog.codes)
        sids = describe_sids(dataset.catalog, trie)
        rows = predict_trie(trie, dataset.train.values)
        conclusion = conclude(rows, sids.num_levels)
    return DataReport(
        origin=dict(dataset.origin),
        writer=writer,
        fingerprint=fingerprint,
        users=len(dataset.users),
        items=dataset.items.num_rows,
        items_without_sid=0 if sids else dataset.items.num_rows,
        skipped=dict(dataset.skipped),
        splits=[SplitRow(name, int((each > 0).sum()), int(each.sum())) for name, each in splits.items()],
        history_lengths={name: float(np.quantile(lengths, share)) for name, share in QUANTILES.items()},
        users_by_length=np.bincount(np.minimum(lengths, LONGEST + 1), minlength=LONGEST + 2).tolist(),
        sids=sids,
        trie_drafter=rows,
        conclusion=conclusion,
    )
