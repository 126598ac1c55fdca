"""The file layout of GRID and of NVIDIA's SID-GR example."""

import logging
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import pyarrow as pa
import torch

from atspeed.catalog.written_codes import write_codes
from atspeed.data.dataset import Dataset
from atspeed.data.item_sequences import ItemSequences
from atspeed.data.sources.interaction_source import InteractionSource
from atspeed.data.sources.parquet_columns import item_lists, name_column, read_columns
from atspeed.data.sources.sid_file import find_sids
from atspeed.data.sources.text_files import MalformedLines, require_folder

log = logging.getLogger(__name__)
SPLITS = ("training", "evaluation", "testing")
SEQUENCES = "Parquet with the columns user_id and sequence_data (a user's items in time order, by their number from 0)"
CODES = "a tensor of whole numbers, [levels, items], as torch.save writes it"


@dataclass(frozen=True)
class _Rows:
    """The rows of all splits.

    Attributes:
        users: names, ``[rows]``.
        splits: indices into ``SPLITS``, ``[rows]``, int64.
        numbers: number of each row in its split, from 1, ``[rows]``, int64.
        items: items by their number, a sequence per row.
    """

    users: pa.Array
    splits: np.ndarray
    numbers: np.ndarray
    items: ItemSequences

    def filter(self, kept: np.ndarray) -> "_Rows":
        """Return some of the rows (``kept``: ``[rows]``, bool)."""
        items = ItemSequences.from_slices(
            self.items.values, self.items.offsets[:-1][kept], self.items.offsets[1:][kept]
        )
        return _Rows(self.users.filter(pa.array(kept)), self.splits[kept], self.numbers[kept], items)

    def distinct_users(self) -> tuple[list[str], np.ndarray]:
        """Return the names of the users in order of appearance, and each row's index into them, ``[rows]``."""
        encoded = self.users.dictionary_encode()
        return encoded.dictionary.to_pylist(), encoded.indices.to_numpy()


class GridLayout(InteractionSource):
    """The file layout of GRID (https://github.com/snap-research/GRID), as NVIDIA's SID-GR example has it.

    A ``*.pt`` holds the semantic IDs, an integer tensor ``[levels, items]``. Its codes are written ``<a_3> <b_7> …``,
    and items are named by their number from 0. The folders ``training``, ``evaluation`` and ``testing`` hold Parquet
    files whose rows are ``user_id`` and ``sequence_data``, the user's items in time order. The last item of a row of
    ``evaluation`` is for validation, that of ``testing`` for testing; what comes before is for training::

        training       4 7 9              train   4 7 9
        evaluation     4 7 9 2            valid         2
        testing        4 7 9 2 5          test            5

    A user may have several rows; all begin like the longest. Folders of some splits may be missing.

    Args:
        root: the folder.
        sids: name of its file with semantic IDs; by default its only ``*.pt``.
        skip_malformed: skip and count rows that cannot be read or that contradict a longer one, instead of refusing the
            file.
    """

    def __init__(self, root: Path, sids: str | None = None, skip_malformed: bool = False) -> None:
        self.root = Path(root)
        self.sids = sids
        self.skip_malformed = skip_malformed

    def load(self) -> Dataset:
        """Read the files and check them against each other; see :meth:`InteractionSource.load`."""
        require_folder(self.root, "data.source.root")
        malformed = MalformedLines(self.skip_malformed)
        codes = self._read_codes()
        rows = self._read_rows()
        rows = self._keep(rows, _unreadable(rows, len(codes)), malformed)
        if not len(rows.items.values):
            raise ValueError(f"{self.root} has no interaction")
        rows = self._keep(rows, {"it does not begin like the user's longest row": _contradicting(rows)}, malformed)
        names, users = rows.distinct_users()
        longest = _longest(users, rows.items.lengths)
        starts, ends = rows.items.offsets[longest], rows.items.offsets[longest + 1]
        test = _first_asked(rows, users, "testing", ends - starts)
        valid = _first_asked(rows, users, "evaluation", test)
        for split, asked in (("training", valid), ("evaluation", test)):
            known = (rows.splits == SPLITS.index(split)) & (rows.items.lengths > asked[users])
            if known.any():
                raise ValueError(
                    f"{self.root / split}:{rows.numbers[known][0]}: user {names[users[known][0]]!r} has an item here "
                    "that a later split asks for"
                )
        return Dataset(
            pa.table({"item": pa.array(range(len(codes))).cast(pa.string()), "sid": write_codes(codes)}),
            names,
            train=ItemSequences.from_slices(rows.items.values, starts, starts + valid),
            valid=ItemSequences.from_slices(rows.items.values, starts + valid, starts + test),
            test=ItemSequences.from_slices(rows.items.values, starts + test, ends),
            skipped=malformed.counts,
        )

    def _read_rows(self) -> "_Rows":
        tables = {
            split: read_columns(self.root / split, ["user_id", "sequence_data"], SEQUENCES)
            for split in SPLITS
            if (self.root / split).exists()
        }
        missing = [split for split in SPLITS if split not in tables]
        if not tables:
            raise FileNotFoundError(
                f"data.source.root {str(self.root)!r} must hold the folders training, evaluation and testing, or some "
                f"of them, with {SEQUENCES}"
            )
        if missing:
            log.warning("%s has no folder %s; it is read without", self.root, " and ".join(missing))
        parts = [table["sequence_data"] for table in tables.values()]
        names, items = item_lists(self.root, "sequence_data", parts)
        try:
            numbers = names.cast(pa.int64()).to_numpy()
        except pa.ArrowInvalid as error:
            raise ValueError(f"{self.root}: sequence_data names items by text; expected {SEQUENCES}") from error
        return _Rows(
            pa.concat_arrays([name_column(self.root / split, table, "user_id") for split, table in tables.items()]),
            np.repeat([SPLITS.index(split) for split in tables], [len(table) for table in tables.values()]),
            np.concatenate([np.arange(1, len(table) + 1) for table in tables.values()]),
            ItemSequences(items.offsets, numbers[items.values]),
        )

    def _keep(self, rows: "_Rows", faults: dict[str, np.ndarray], malformed: MalformedLines) -> "_Rows":
        """Report rows with a fault (fault → which rows, ``[rows]``, bool) and return the others."""
        kept = np.full(len(rows.users), True)
        for fault, wrong in faults.items():
            for row in np.flatnonzero(wrong & kept).tolist():
                malformed.report(self.root / SPLITS[rows.splits[row]], int(rows.numbers[row]), fault)
            kept &= ~wrong
        return rows.filter(kept)

    def _read_codes(self) -> np.ndarray:
        """Return the semantic IDs, ``[items, L]``."""
        file = find_sids(self.root, ".pt", self.sids)
        try:
            codes = torch.load(file, map_location="cpu", weights_only=True)
        except (UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            raise ValueError(f"{file}: expected {CODES}: {str(error).splitlines()[0]}") from error
        if not isinstance(codes, torch.Tensor):
            raise ValueError(f"{file}: expected {CODES}, not {type(codes).__name__}")
        whole = codes.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
        if not whole or codes.ndim != 2 or not 0 < len(codes) <= min(26, codes.shape[1]):
            raise ValueError(f"{file}: expected {CODES}, not {list(codes.shape)} of {codes.dtype}")
        if (codes < 0).any():
            item = int((codes < 0).any(0).nonzero()[0])
            raise ValueError(f"{file}: item {item} has the codes {codes[:, item].tolist()}; expected 0 or more")
        return codes.T.numpy()


def _unreadable(rows: _Rows, num_items: int) -> dict[str, np.ndarray]:
    """Return which rows cannot be used for themselves: fault → ``[rows]``, bool."""
    unknown = (rows.items.values < 0) | (rows.items.values >= num_items)
    holder = np.arange(len(rows.users)).repeat(rows.items.lengths)  # the row of each item
    return {
        "the row has no user_id": rows.users.is_null().to_numpy(zero_copy_only=False),
        f"it has an item without semantic ID; there are {num_items}, numbered from 0": np.bincount(
            holder[unknown], minlength=len(rows.users)
        )
        > 0,
        "the row has no item to ask for": (rows.splits > 0) & (rows.items.lengths == 0),
    }


def _longest(users: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return each user's longest row, ``[users]``, given each row's user and number of items, ``[rows]``."""
    longest = np.empty(users.max() + 1, dtype=np.int64)
    by_length = lengths.argsort(kind="stable")
    longest[users[by_length]] = by_length  # of several values for one user, the last one stays
    return longest


def _contradicting(rows: _Rows) -> np.ndarray:
    """Return which rows do not begin like their user's longest row, ``[rows]``, bool."""
    items = rows.items
    _, users = rows.distinct_users()
    shift = items.offsets[_longest(users, items.lengths)[users]] - items.offsets[:-1]  # from a row to the longest
    expected = items.values[np.arange(len(items.values)) + shift.repeat(items.lengths)]
    holder = np.arange(len(users)).repeat(items.lengths)  # the row of each item
    return np.bincount(holder[items.values != expected], minlength=len(users)) > 0


def _first_asked(rows: _Rows, users: np.ndarray, split: str, otherwise: np.ndarray) -> np.ndarray:
    """Return the position of the first item that rows of a split ask for, ``[users]``.

    Args:
        rows: the rows.
        users: each row's user, ``[rows]``.
        split: the split.
        otherwise: what to return for users without such a row, ``[users]``.
    """
    asking = rows.splits == SPLITS.index(split)
    first = np.full(len(otherwise), np.iinfo(np.int64).max)
    np.minimum.at(first, users[asking], rows.items.lengths[asking] - 1)
    return np.where(first == np.iinfo(np.int64).max, otherwise, first)
