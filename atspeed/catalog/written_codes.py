"""Semantic IDs as numbers and as they are written: ``<a_12> <b_3>``."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MAX_LEVELS = 26
"""A level is written as a letter."""


def write_code(level: int, code: int) -> str:
    """Return a code as it is written.

    >>> write_code(1, 3)
    '<b_3>'
    """
    return f"<{chr(ord('a') + level)}_{code}>"


def write_sids(names: Sequence[str] | pa.Array, codes: np.ndarray) -> pa.Table:
    """Return the columns ``item`` and ``sid`` (list of strings).

    Args:
        names: item names.
        codes: their codes, ``[items, L]``, int32.

    >>> write_sids(["soap"], np.array([[12, 3]])).to_pylist()
    [{'item': 'soap', 'sid': ['<a_12>', '<b_3>']}]
    """
    num_items, num_levels = codes.shape
    num_codes = int(codes.max(initial=0)) + 1
    words = pa.array([write_code(level, code) for level in range(num_levels) for code in range(num_codes)])
    flat = (codes.astype(np.int64) + np.arange(num_levels) * num_codes).ravel()  # rows of words
    offsets = pa.array(np.arange(num_items + 1) * num_levels, pa.int32())
    sids = pa.ListArray.from_arrays(offsets, words.take(pa.array(flat)))
    return pa.table({"item": pa.array(names, pa.string()), "sid": sids})


def read_codes(sids: pa.Table) -> np.ndarray:
    """Return the codes of a table that :func:`write_sids` made, ``[items, L]``, int32.

    Raises:
        ValueError: if its SIDs are written in another way, or have different lengths.
    """
    column = sids["sid"].combine_chunks()
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    try:
        if len(lengths) != 1 or not lengths[0]:
            raise ValueError(f"they have lengths {lengths}")
        numbers = pc.replace_substring_regex(column.flatten(), r"^<[a-z]_(\d+)>$", r"\1").cast(pa.int32())
        codes = numbers.to_numpy().reshape(-1, lengths[0])
        if not write_sids(sids["item"], codes)["sid"].combine_chunks().equals(column):
            raise ValueError("a letter is not that of its level")
    except ValueError as error:  # ArrowInvalid is one
        raise ValueError(f"semantic IDs like <a_12> <b_3> are expected, of one length: {error}") from error
    return codes
