"""The file layout of the AtSpeed reference implementation."""

import json
from pathlib import Path

from atspeed.catalog.item_catalog import ItemCatalog
from atspeed.data.interactions import Interactions
from atspeed.data.item_sequences import ItemSequences
from atspeed.data.sources.interaction_source import InteractionSource


class AtSpeedLayout(InteractionSource):
    """The file layout of the AtSpeed reference implementation (https://github.com/Linxyhaha/AtSpeed).

    ``<any>.json`` maps item numbers *from 0* to lists of codes. ``sequential_{train,valid,test}.txt`` hold one user
    per line, ``user item item …``, with users and items numbered *from 1*. Users and items are named as in the sequence
    files.

    Args:
        root: the folder.
        sids: name of its file with semantic IDs; by default its only ``*.json``.
    """

    def __init__(self, root: Path, sids: str | None = None) -> None:
        self.root = Path(root)
        self.sids = sids

    def load(self) -> Interactions:
        """Read the four files and check them against each other; see :meth:`InteractionSource.load`."""
        catalog = ItemCatalog(self._read_sids())
        sequences = {split: self._read_sequences(split, catalog) for split in ("train", "valid", "test")}
        train = sequences["train"]
        if not any(train.values()):
            raise ValueError(f"{self.root / 'sequential_train.txt'} has no interaction")
        for split in ("valid", "test"):
            for user in sequences[split]:
                if user not in train:
                    raise ValueError(
                        f"{self.root / f'sequential_{split}.txt'}: user {user!r} has no line in sequential_train.txt"
                    )
        splits = (ItemSequences.from_lists(found.get(user, []) for user in train) for found in sequences.values())
        return Interactions(catalog, list(train), *splits)

    def _read_sids(self) -> dict[str, list[str]]:
        if not self.root.is_dir():
            raise FileNotFoundError(f"data.source.root {str(self.root)!r} is not a folder")
        files = [self.root / self.sids] if self.sids else sorted(self.root.glob("*.json"))
        if len(files) != 1 or not files[0].is_file():
            raise FileNotFoundError(
                f"data.source.root {str(self.root)!r} must hold one *.json with semantic IDs (or data.source.sids must "
                f"name it); found {[file.name for file in files if file.is_file()]}"
            )
        try:
            content = json.loads(files[0].read_text())
            if not isinstance(content, dict):
                raise ValueError("the file holds no JSON object")
            by_number = {int(number): codes for number, codes in content.items()}
        except ValueError as error:
            raise ValueError(f"{files[0]}: expected a JSON object, item number → list of codes: {error}") from error
        return {str(number + 1): by_number[number] for number in sorted(by_number)}

    def _read_sequences(self, split: str, catalog: ItemCatalog) -> dict[str, list[int]]:
        file = self.root / f"sequential_{split}.txt"
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; expected lines of 'user item item …'")
        sequences: dict[str, list[int]] = {}
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            words = line.split()
            if not words:
                continue
            user, *items = words
            if user in sequences:
                raise ValueError(f"{file}:{number}: user {user!r} has a second line")
            try:
                sequences[user] = [catalog.index(item) for item in items]
            except ValueError as error:
                raise ValueError(f"{file}:{number}: {error}; every item needs a semantic ID") from error
        return sequences
