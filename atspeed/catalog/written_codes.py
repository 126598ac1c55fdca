"""Semantic IDs as numbers and as they are written: ``<a_12> <b_3>``."""

from collections.abc import Sequence
from string import ascii_lowercase

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MAX_LEVELS = len(ascii_lowercase)
"""A level is written as a letter."""


def write_codes(codes: np.ndarray, prefix: str = "") -> pa.Array:
    """Return semantic IDs as they are written, a list of strings per item.

    Args:
        codes: by their number in the level, ``[items, L]``, integers.
        prefix: what stands before the letter of a level.

    >>> write_codes(np.array([[3, 7], [0, 12]])).to_pylist()
    [['<a_3>', '<b_7>'], ['<a_0>', '<b_12>']]
    """
    num_items, num_levels = codes.shape
    begins = pa.array([f"<{prefix}{letter}_" for letter in ascii_lowercase[:num_levels]])
    levels = pa.array(np.tile(np.arange(num_levels), num_items))  # 0 1 0 1 …
    words = pc.binary_join_element_wise(begins.take(levels), pa.array(codes.ravel()).cast(pa.string()), ">", "")
    return pa.ListArray.from_arrays(pa.array(np.arange(num_items + 1, dtype=np.int32) * num_levels), words)


def write_sids(names: Sequence[str] | pa.Array, codes: np.ndarray) -> pa.Table:
    """Return the columns ``item`` and ``sid`` (see :func:`write_codes`) of items and their codes, ``[items, L]``."""
    return pa.table({"item": pa.array(names, pa.string()), "sid": write_codes(codes)})


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
