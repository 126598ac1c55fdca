"""Columns of semantic IDs."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc


def split_codes(written: pa.Array) -> pa.Array:
    """Return the codes of semantic IDs that are written together; marks of begin and end (``<|…|>``) are left out.

    >>> split_codes(pa.array(["<a_202><b_147>", "<|sid_begin|><s_a_340><s_b_6566><|sid_end|>"])).to_pylist()
    [['<a_202>', '<b_147>'], ['<s_a_340>', '<s_b_6566>']]
    """
    codes = pc.replace_substring_regex(written, r"<\|[^|]*\|>", "")
    return pc.split_pattern(pc.replace_substring(codes, "><", "> <"), " ")


def require_as_many_codes(file: Path, items: pa.Table) -> None:
    """Raise ``ValueError`` that names the file if items have different numbers of codes, or none, or there is no item.

    Args:
        file: where the items come from.
        items: columns ``item`` and ``sid``; see :attr:`Dataset.items`.
    """
    lengths = pc.list_value_length(items["sid"]).fill_null(0)
    found = pc.unique(lengths).to_pylist()
    if len(found) == 1 and found[0] > 0:
        return
    examples = [f"item {items['item'][pc.index(lengths, length).as_py()].as_py()!r} has {length}" for length in found]
    raise ValueError(
        f"{file}: each item must have a semantic ID of as many codes; {', '.join(examples) or 'there is no item'}"
    )
