"""The file layout of LC-Rec and LETTER."""

from pathlib import Path
from typing import Any

from atspeed.data.dataset import Dataset
from atspeed.data.item_sequences import ItemSequences
from atspeed.data.sources.index_file import dataset_of, find_index, read_items
from atspeed.data.sources.interaction_source import InteractionSource
from atspeed.data.sources.text_files import MalformedLines, read_json_object, require_file
from atspeed.data.splitters import leave_one_out

EXPECTED = 'a JSON object, user → items in time order, such as {"0": [4, 7, 4]}'


class LCRecLayout(InteractionSource):
    """The file layout of LC-Rec (https://github.com/RUCAIBox/LC-Rec) and LETTER.

    ``X.index.json`` maps items to lists of codes, ``X.inter.json`` maps users to their items in time order, and
    ``X.item.json``, which may be missing, maps items to metadata such as ``title``. A user's last item is for testing,
    the one before for validation; of users with fewer than three items, all are for training.

    Args:
        root: the folder.
        dataset: what ``X`` is; by default what it is in the only ``*.index.json``.
        skip_malformed: skip and count users whose items cannot be read, instead of refusing the file.
    """

    def __init__(self, root: Path, dataset: str | None = None, skip_malformed: bool = False) -> None:
        self.root = Path(root)
        self.dataset = dataset
        self.skip_malformed = skip_malformed

    def load(self) -> Dataset:
        """Read the files and check them against each other; see :meth:`InteractionSource.load`."""
        malformed = MalformedLines(self.skip_malformed)
        index = find_index(self.root, "data.source.root", self.dataset)
        items, left_out = read_items(index)
        rows = {name: row for row, name in enumerate(items["item"].to_pylist())}
        sequences = self._read_sequences(self.root / f"{dataset_of(index)}.inter.json", rows, malformed)
        splits = leave_one_out(ItemSequences.from_lists(sequences.values()))
        return Dataset(items, list(sequences), *splits, skipped=malformed.counts + left_out)

    @staticmethod
    def _read_sequences(file: Path, rows: dict[str, int], malformed: MalformedLines) -> dict[str, list[int]]:
        require_file(file, EXPECTED)
        try:
            content = read_json_object(file)
        except ValueError as error:
            raise ValueError(f"{file}: expected {EXPECTED}: {error}") from error
        sequences: dict[str, list[int]] = {}
        for user, names in content.items():
            fault = _fault(names, rows)
            if fault:
                malformed.report(file, None, f"user {user!r} {fault}")
            else:
                sequences[user] = [rows[str(name)] for name in names]
        if not any(sequences.values()):
            raise ValueError(f"{file} has no interaction")
        return sequences


def _fault(names: Any, rows: dict[str, int]) -> str | None:
    """Return what is wrong with a user's items."""
    if not isinstance(names, list):
        return f"has {names!r}; expected a list of items"
    unknown = [name for name in names if str(name) not in rows]
    return f"has the item {unknown[0]!r}, which has no semantic ID" if unknown else None
