"""The file layout of the AtSpeed reference implementation."""

from pathlib import Path

from atspeed.data.dataset import SPLITS, Dataset, item_table
from atspeed.data.item_sequences import ItemSequences
from atspeed.data.sources.interaction_source import InteractionSource
from atspeed.data.sources.sid_file import find_sids
from atspeed.data.sources.text_files import MalformedLines, read_json_object, read_lines, require_file, require_folder


class AtSpeedLayout(InteractionSource):
    """The file layout of the AtSpeed reference implementation (https://github.com/Linxyhaha/AtSpeed).

    ``<any>.json`` maps item numbers *from 0* to lists of codes. ``sequential_{train,valid,test}.txt`` hold one user
    per line, ``user item item …``, with users and items numbered *from 1*. Users and items are named as in the sequence
    files.

    Args:
        root: the folder.
        sids: name of its file with semantic IDs; by default its only ``*.json``.
        skip_malformed: skip and count lines of the sequence files that cannot be read, instead of refusing the file.
    """

    def __init__(self, root: Path, sids: str | None = None, skip_malformed: bool = False) -> None:
        self.root = Path(root)
        self.sids = sids
        self.skip_malformed = skip_malformed

    def load(self) -> Dataset:
        """Read the four files and check them against each other; see :meth:`InteractionSource.load`."""
        malformed = MalformedLines(self.skip_malformed)
        sids = self._read_sids()
        items = {name: item for item, name in enumerate(sids)}
        sequences = {split: self._read_sequences(split, items, malformed) for split in SPLITS}
        train = {user: found for user, (_, found) in sequences["train"].items()}
        if not any(train.values()):
            raise ValueError(f"{self._file('train')} has no interaction")
        for split in ("valid", "test"):
            for user, (number, _) in sequences[split].items():
                if user not in train:
                    malformed.report(self._file(split), number, f"user {user!r} has no line in sequential_train.txt")
        valid, test = (
            ItemSequences.from_lists(sequences[split].get(user, (0, []))[1] for user in train)
            for split in ("valid", "test")
        )
        catalog = item_table(sids, sids.values())
        return Dataset(catalog, list(train), ItemSequences.from_lists(train.values()), valid, test, malformed.counts)

    def _file(self, split: str) -> Path:
        return self.root / f"sequential_{split}.txt"

    def _read_sids(self) -> dict[str, list[str]]:
        require_folder(self.root, "data.source.root")
        file = find_sids(self.root, ".json", self.sids)
        try:
            by_number = {int(number): codes for number, codes in read_json_object(file).items()}
        except ValueError as error:
            raise ValueError(f"{file}: expected a JSON object, item number → list of codes: {error}") from error
        return {str(number + 1): by_number[number] for number in sorted(by_number)}

    def _read_sequences(
        self, split: str, items: dict[str, int], malformed: MalformedLines
    ) -> dict[str, tuple[int, list[int]]]:
        """Return each user's line number and items."""
        file = self._file(split)
        require_file(file, "lines of 'user item item …'")
        sequences: dict[str, tuple[int, list[int]]] = {}
        for number, line in read_lines(file):
            user, *names = line.split()
            unknown = [name for name in names if name not in items]
            if user in sequences:
                malformed.report(file, number, f"user {user!r} has a second line")
            elif unknown:
                malformed.report(file, number, f"item {unknown[0]!r} has no semantic ID")
            else:
                sequences[user] = number, [items[name] for name in names]
        return sequences
