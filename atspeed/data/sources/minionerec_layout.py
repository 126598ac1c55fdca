"""The file layout of MiniOneRec."""

import csv
import logging
from ast import literal_eval
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from atspeed.data.dataset import SPLITS, Dataset
from atspeed.data.item_sequences import ItemSequences
from atspeed.data.sources.index_file import dataset_of, find_index, read_items
from atspeed.data.sources.interaction_source import InteractionSource
from atspeed.data.sources.text_files import MalformedLines, read_lines, require_folder

log = logging.getLogger(__name__)
COLUMNS = ("user_id", "history_item_id", "item_id", "history_item_sid", "item_sid")
SURPLUS = "more fields than columns"


@dataclass
class _User:
    """What the rows of a user hold: rows of the item table, per split, in time order."""

    train: list[int] = field(default_factory=list)
    valid: list[int] = field(default_factory=list)
    test: list[int] = field(default_factory=list)

    @property
    def items(self) -> list[int]:
        return self.train + self.valid + self.test


class MiniOneRecLayout(InteractionSource):
    """The file layout of MiniOneRec (https://github.com/AkaliKong/MiniOneRec).

    ``index/X.index.json`` maps items to lists of codes and ``index/X.item.json``, which may be missing, to metadata.
    ``info/X*.txt`` has a line ``sid⇥title⇥item`` per item. ``train/X*.csv``, ``valid/X*.csv`` and ``test/X*.csv`` have
    the columns ``user_id, history_item_title, item_title, history_item_id, item_id, history_item_sid, item_sid``; a row
    is a request: an item and the user's last items before it (at most ten), as Python lists. The rows of a user are in
    time order, and so are the three files.

    A user's sequence is put together again: the history of the first row, then the items of the rows, which belong to
    the split of their file; what only histories hold is for training. So the files of some splits may be missing.

    Args:
        root: the folder.
        dataset: what ``X`` is; by default what it is in the only ``index/*.index.json``.
        skip_malformed: skip and count rows that cannot be read or that contradict earlier ones, instead of refusing the
            file. The user's later rows go on from a skipped one and are skipped, too.
    """

    def __init__(self, root: Path, dataset: str | None = None, skip_malformed: bool = False) -> None:
        self.root = Path(root)
        self.dataset = dataset
        self.skip_malformed = skip_malformed

    def load(self) -> Dataset:
        """Read the files and check them against each other; see :meth:`InteractionSource.load`."""
        malformed = MalformedLines(self.skip_malformed)
        require_folder(self.root, "data.source.root")
        index = find_index(self.root / "index", "data.source.root's folder", self.dataset)
        items, left_out = read_items(index)
        reader = _RowReader(items, malformed)
        info = self._find("info", ".txt", index)
        if info is not None:
            titles = reader.read_titles(info)
            if "title" not in items.column_names and any(titles):
                items = items.append_column("title", pa.array(titles, pa.string()))
        files = {split: self._find(split, ".csv", index) for split in SPLITS}
        missing = [split for split, file in files.items() if file is None]
        if len(missing) == len(SPLITS):
            raise FileNotFoundError(
                f"data.source.root {str(self.root)!r} must hold train/{dataset_of(index)}*.csv, valid/… or test/…"
            )
        if missing:
            log.warning(
                "%s has no CSV of the split %s; what only the histories of other rows hold is for training",
                self.root,
                " and ".join(missing),
            )
        for split, file in files.items():
            if file is not None:
                reader.read_rows(file, split, may_skip=split == "test" and files["valid"] is None)
        users = reader.users
        return Dataset(
            items,
            list(users),
            train=ItemSequences.from_lists(user.train for user in users.values()),
            valid=ItemSequences.from_lists(user.valid for user in users.values()),
            test=ItemSequences.from_lists(user.test for user in users.values()),
            skipped=malformed.counts + left_out,
        )

    def _find(self, folder: str, suffix: str, index: Path) -> Path | None:
        """Return the data set's file in a folder, or None; raise ``FileNotFoundError`` if there are several."""
        name = dataset_of(index)
        others = [each for each in map(dataset_of, index.parent.glob(f"{name}*.index.json")) if each != name]
        found = sorted((self.root / folder).glob(f"{name}*{suffix}"))
        found = [file for file in found if not any(map(file.name.startswith, others))]
        if len(found) > 1:
            raise FileNotFoundError(
                f"{self.root / folder} must hold one {name}*{suffix}; found {[file.name for file in found]}"
            )
        return found[0] if found else None


class _RowReader:
    """Reads the files whose lines name items by number and by semantic ID, and checks that both say the same."""

    def __init__(self, items: pa.Table, malformed: MalformedLines) -> None:
        self.rows = {name: row for row, name in enumerate(items["item"].to_pylist())}
        self.sids = ["".join(codes) for codes in items["sid"].to_pylist()]
        self.malformed = malformed
        self.users: dict[str, _User] = {}

    def read_titles(self, file: Path) -> list[str | None]:
        """Return each item's title in a file of lines ``sid⇥title⇥item``."""
        titles: list[str | None] = [None] * len(self.rows)
        for number, line in read_lines(file):
            try:
                sid, *title, name = line.split("\t")
                if not title:
                    raise ValueError(f"expected 'sid⇥title⇥item', not {line!r}")
                titles[self._item(name, sid)] = "\t".join(title) or None
            except ValueError as error:
                self.malformed.report(file, number, str(error))
        return titles

    def read_rows(self, file: Path, split: str, may_skip: bool) -> None:
        """Add the items of a CSV file to the users.

        Args:
            file: the file.
            split: its split.
            may_skip: whether a file is missing whose items come between those that were read before and those of this
                file, so that a user's first row may go on from items that only its history holds.
        """
        seen: set[str] = set()
        for number, row in _csv_rows(file):
            try:
                self._read_row(row, split, may_skip, seen)
            except ValueError as error:
                self.malformed.report(file, number, str(error))

    def _read_row(self, row: dict[str, str], split: str, may_skip: bool, seen: set[str]) -> None:
        if SURPLUS in row:
            raise ValueError("the row has more fields than there are columns")
        history = self._history(row)
        item = self._item(row["item_id"], row["item_sid"])
        name = row["user_id"]
        user = self.users.get(name, _User(train=history))
        new = history[_overlap(user.items, history) :]
        if new and may_skip and name not in seen:
            user.train.extend(new)
        elif new or (user.items and not history):
            raise ValueError(
                f"the history of user {name!r} does not go on from the user's earlier rows; rows must be in time order"
            )
        getattr(user, split).append(item)
        self.users[name] = user
        seen.add(name)

    def _history(self, row: dict[str, str]) -> list[int]:
        names, sids = (_parse_list(row[column], column) for column in ("history_item_id", "history_item_sid"))
        if len(names) != len(sids):
            raise ValueError(f"{len(names)} items in history_item_id, but {len(sids)} in history_item_sid")
        return [self._item(str(name), sid) for name, sid in zip(names, sids, strict=True)]

    def _item(self, name: str, sid: object) -> int:
        """Return an item's row in the item table."""
        if name not in self.rows:
            raise ValueError(f"item {name!r} has no semantic ID")
        item = self.rows[name]
        if sid != self.sids[item]:
            raise ValueError(f"item {name!r} has the semantic ID {sid!r}, but {self.sids[item]!r} in the index")
        return item


def _csv_rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a CSV file and the number of the line that they end in."""
    last = 0  # number of the line that was read last

    def lines() -> Iterator[str]:
        nonlocal last
        for number, line in read_lines(file):
            last = number
            yield line + "\n"

    reader = csv.DictReader(lines(), restkey=SURPLUS, restval="", strict=True)
    try:
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(
                f"{file}: the column {missing[0]!r} is missing; expected at least the columns {', '.join(COLUMNS)}"
            )
        for row in reader:
            yield last, row
    except csv.Error as error:
        raise ValueError(f"{file}:{last}: not CSV: {error}") from error


def _parse_list(text: str, column: str) -> list[object]:
    try:
        value = literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise ValueError(f"{column} is {text[:80]!r}; expected a list as Python writes it, such as [4, 7]")
    return value


def _overlap(known: list[int], history: list[int]) -> int:
    """Return how many items of a history are known: those that the known ones end with, at the history's start.

    >>> _overlap([1, 2, 3], [2, 3]), _overlap([1, 2, 3], [3, 4]), _overlap([1, 2, 3], [4])
    (2, 1, 0)
    """
    lengths = range(min(len(known), len(history)), -1, -1)
    return next(length for length in lengths if known[len(known) - length :] == history[:length])
