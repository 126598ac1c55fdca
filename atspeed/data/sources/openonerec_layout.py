"""The file layout of OpenOneRec."""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atspeed.catalog.written_codes import write_codes
from atspeed.data.dataset import Dataset
from atspeed.data.item_sequences import ItemSequences, concatenate
from atspeed.data.sources.code_columns import require_as_many_codes, split_codes
from atspeed.data.sources.interaction_source import InteractionSource
from atspeed.data.sources.parquet_columns import item_lists, name_column, read_columns, require_distinct
from atspeed.data.sources.text_files import MalformedLines, require_folder

log = logging.getLogger(__name__)
SEQUENCES = "Parquet with the columns uid, split, hist_video_pid and target_video_pid"
SIDS = "Parquet with the columns pid and sid (three numbers, or <|sid_begin|><s_a_340><s_b_6566><s_c_5603><|sid_end|>)"


class OpenOneRecLayout(InteractionSource):
    """The file layout of OpenOneRec (https://github.com/Kuaishou-OneRec/OpenOneRec), short videos.

    A Parquet file has a row per user: ``uid``, ``split``, ``hist_video_pid`` (the user's items in time order) and
    ``target_video_pid`` (those that came next). Another maps ``pid`` to ``sid``, a list of numbers or a string such as
    ``<|sid_begin|><s_a_340><s_b_6566><s_c_5603><|sid_end|>``. Lists may be padded with item 0.

    Histories are for training, and so are the targets of rows with split 0; those of the other rows are for testing.
    If all rows have split 0, as in the published data set, all targets are for testing.

    Args:
        root: the folder.
        interactions: name of its file with the users.
        sids: name of its file with semantic IDs.
        skip_malformed: leave out and count a user's second row and items without semantic ID, instead of refusing them.
    """

    def __init__(
        self,
        root: Path,
        interactions: str = "onerec_bench_release.parquet",
        sids: str = "video_ad_pid2sid.parquet",
        skip_malformed: bool = False,
    ) -> None:
        self.root = Path(root)
        self.interactions = interactions
        self.sids = sids
        self.skip_malformed = skip_malformed

    def load(self) -> Dataset:
        """Read the two files and check them against each other; see :meth:`InteractionSource.load`."""
        require_folder(self.root, "data.source.root")
        malformed = MalformedLines(self.skip_malformed)
        sids = self._read_sids()
        file = self.root / self.interactions
        table = read_columns(file, ["uid", "split", "hist_video_pid", "target_video_pid"], SEQUENCES)
        if not pa.types.is_integer(table["split"].type):
            raise ValueError(f"{file}: the column 'split' holds {table['split'].type}; expected whole numbers")
        table = table.filter(_usable_rows(file, table, malformed))
        has_zero = pc.is_in(pa.scalar("0"), sids["item"]).as_py()
        names, history, targets = _read_lists(file, table, padding=None if has_zero else "0")
        tested = pc.not_equal(table["split"], 0).to_numpy()
        if not tested.any():
            log.warning("%s: all rows have split 0; their targets are for testing", file)
            tested = ~tested
        data = Dataset(
            pa.table({"item": names}),
            name_column(file, table, "uid").to_pylist(),
            train=concatenate(history, _of_rows(targets, ~tested)),
            valid=_of_rows(targets, np.zeros_like(tested)),
            test=_of_rows(targets, tested),
            skipped=malformed.counts,
        )
        if not len(data.train.values):
            raise ValueError(f"{file} has no interaction")
        try:
            return data.with_sids(sids, self.skip_malformed)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    def _read_sids(self) -> pa.Table:
        """Return columns ``item`` and ``sid``."""
        file = self.root / self.sids
        table = read_columns(file, ["pid", "sid"], SIDS)
        names, sids = name_column(file, table, "pid"), table["sid"]
        require_distinct(file, names, "item")
        if pa.types.is_string(sids.type) or pa.types.is_large_string(sids.type):
            sids = split_codes(sids)
        elif not (pa.types.is_list(sids.type) and pa.types.is_integer(sids.type.value_type)):
            raise ValueError(f"{file}: the column 'sid' holds {sids.type}; expected {SIDS}")
        items = pa.table({"item": names, "sid": sids})
        require_as_many_codes(file, items)
        if pa.types.is_integer(sids.type.value_type):
            numbers = pc.list_flatten(sids)
            if numbers.null_count:
                raise ValueError(f"{file}: {numbers.null_count} codes are missing")
            items = items.set_column(1, "sid", write_codes(numbers.to_numpy().reshape(len(names), -1), prefix="s_"))
        return items


def _usable_rows(file: Path, table: pa.Table, malformed: MalformedLines) -> pa.Array:
    """Return which rows have a user and a split and are the user's first, ``[rows]``, bool; report the others."""
    users = name_column(file, table, "uid")
    known = pc.and_(pc.is_valid(users), pc.is_valid(table["split"])).to_numpy()
    first = np.zeros(len(table), dtype=bool)
    first[np.unique(users.dictionary_encode().indices.fill_null(-1).to_numpy(), return_index=True)[1]] = True
    for row in np.flatnonzero(~(known & first)).tolist():
        fault = f"user {users[row].as_py()!r} has a second row" if known[row] else "the row has no uid or no split"
        malformed.report(file, row + 1, fault)
    return pa.array(known & first)


def _read_lists(file: Path, table: pa.Table, padding: str | None) -> tuple[pa.Array, ItemSequences, ItemSequences]:
    """Return the names of all items, and histories and targets as rows of these names, without padding."""
    columns = ("hist_video_pid", "target_video_pid")
    names, lists = item_lists(file, " or ".join(columns), [table[column] for column in columns])
    if padding is not None:
        kept = pc.not_equal(names, padding).to_numpy(zero_copy_only=False)
        names, lists = names.filter(pa.array(kept)), lists.keep(kept[lists.values], kept.cumsum() - 1)
    starts, ends = lists.offsets[:-1], lists.offsets[1:]
    history, targets = (
        ItemSequences.from_slices(lists.values, starts[part], ends[part])
        for part in (slice(len(table)), slice(len(table), None))
    )
    return names, history, targets


def _of_rows(sequences: ItemSequences, kept: np.ndarray) -> ItemSequences:
    """Return the sequences of some rows (``[rows]``, bool), and empty ones for the others."""
    starts = sequences.offsets[:-1]
    return ItemSequences.from_slices(sequences.values, starts, starts + np.where(kept, sequences.lengths, 0))
