"""The tables of a data report."""

from rich.table import Table

from atspeed.preparation.data_report import DataReport
from atspeed.preparation.sid_statistics import SidReport
from atspeed.preparation.spread import Spread
from atspeed.preparation.trie_prediction import MAX_NODES, TrieRow

PURPOSES = {"train": "train on", "valid": "validate on", "test": "test on"}


def tables_of(report: DataReport) -> list[Table | str]:
    """Return the tables of a report, and its conclusion."""
    sids = [_sids(report.sids), _trie(report.trie_drafter, report.sids.num_levels)] if report.sids else []
    return [_counts(report), *sids, report.conclusion]


def _counts(report: DataReport) -> Table:
    table = Table("", "", title=f"data set of {report.origin['class_path'].rpartition('.')[2]}", show_header=False)
    table.columns[1].justify = "right"
    table.add_row("users", f"{report.users:,}")
    table.add_row("items", f"{report.items:,}")
    table.add_row("items without semantic ID", f"{report.items_without_sid:,}")
    for row in report.splits:
        table.add_row(f"interactions to {PURPOSES[row.split]}", f"{row.interactions:,} of {row.users:,} users")
    for reason, count in report.skipped.items():
        table.add_row(f"left out: {reason}", f"{count:,}")
    lengths = ", ".join(f"{name} {value:g}" for name, value in report.history_lengths.items())
    table.add_row("items of a user", lengths)
    return table


def _sids(sids: SidReport) -> Table:
    title = (
        f"{sids.distinct:,} semantic IDs of {sids.num_levels} codes; {sids.colliding_items:,} items share one with "
        f"others, at most {sids.largest_collision:,} the same"
    )
    table = Table(title=title)
    for name in ("level", "codes used", "perplexity", "prefixes", "codes after a prefix"):
        table.add_column(name, justify="right")
    for name in ("items below the largest prefix", "the ten largest"):
        table.add_column(name, justify="right")
    for row in sids.levels:
        after = row.children
        table.add_row(
            str(row.level),
            f"{row.used_codes:,}",
            f"{row.perplexity:,.1f}",
            f"{row.prefixes:,}",
            f"{after.least:,} to {after.most:,}, mean {after.mean:.1f}" if after else "–",
            f"{row.largest_share:.2%}",
            f"{row.ten_largest_share:.2%}",
        )
    return table


def _trie(rows: list[TrieRow], num_levels: int) -> Table:
    table = Table(title=f"TrieDrafter of {MAX_NODES} nodes, predicted per request (least to most)")
    for name in ("K", "target calls", "new tokens", "target calls of plain beam search"):
        table.add_column(name, justify="right")
    for row in rows:
        calls, tokens = _text(row.target_calls, ".2f"), _text(row.new_tokens, ".0f")
        table.add_row(str(row.num_beams), calls, tokens, str(num_levels))
    return table


def _text(spread: Spread, form: str) -> str:
    if spread.least == spread.most:
        return f"{spread.least:g}"
    return f"{spread.mean:{form}} ({spread.least:g} to {spread.most:g})"
