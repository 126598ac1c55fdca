"""The figure of a data report."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atspeed.panels import make_panels
from atspeed.preparation.data_report import DataReport
from atspeed.preparation.sid_statistics import SidReport
from atspeed.preparation.spread import Spread
from atspeed.preparation.trie_prediction import TrieRow


def draw_report(report: DataReport) -> Figure:
    """Draw history lengths and, if there are semantic IDs, their levels and what the trie drafter costs."""
    if report.sids is None:
        figure, ((panel,),) = make_panels(1, 1, (5, 3.6))
        _draw_lengths(panel, report.users_by_length)
        return figure
    figure, ((lengths, codes), (children, costs)) = make_panels(2, 2, (5, 3.6))
    _draw_lengths(lengths, report.users_by_length)
    _draw_codes(codes, report.sids)
    _draw_children(children, report.sids)
    _draw_costs(costs, report.trie_drafter, report.sids.num_levels)
    return figure


def _draw_lengths(panel: Axes, users_by_length: list[int]) -> None:
    last = len(users_by_length) - 1
    panel.bar(range(last + 1), users_by_length, width=1, edgecolor="white", linewidth=0.3)
    ticks = range(0, last, 10)
    panel.set_xticks([*ticks[:-1], last], [*map(str, ticks[:-1]), f"≥ {last}"])
    panel.set(xlabel="items of a user, all splits", ylabel="users", title="history lengths")


def _draw_codes(panel: Axes, sids: SidReport) -> None:
    levels = [row.level for row in sids.levels]
    panel.bar([level - 0.2 for level in levels], [row.used_codes for row in sids.levels], 0.4, label="used")
    panel.bar([level + 0.2 for level in levels], [row.perplexity for row in sids.levels], 0.4, label="perplexity")
    panel.set_xticks(levels)
    panel.set(xlabel="level", ylabel="codes", title="codes and how evenly they are used")
    panel.legend(fontsize="small")


def _draw_children(panel: Axes, sids: SidReport) -> None:
    spreads = [row.children for row in sids.levels if row.children]
    _draw_spreads(panel, range(len(spreads)), spreads, "C0")
    panel.set_yscale("log")
    panel.set_xticks(range(len(spreads)))
    panel.set(xlabel="level", ylabel="codes that follow", title="children after each level: least, mean, most")


def _draw_costs(panel: Axes, rows: list[TrieRow], num_levels: int) -> None:
    _draw_spreads(panel, range(len(rows)), [row.target_calls for row in rows], "C0")
    panel.axhline(num_levels, color="black", linewidth=1)
    panel.text(0, num_levels, "plain beam search", va="bottom", fontsize="small")
    panel.set_xticks(range(len(rows)), [str(row.num_beams) for row in rows])
    panel.set_ylim(0, num_levels + 0.6)
    panel.set(xlabel="beam width K", title="TrieDrafter, predicted: least, typical, most")
    panel.set_ylabel("target calls per request", color="C0")
    tokens = panel.twinx()
    _draw_spreads(tokens, [index + 0.15 for index in range(len(rows))], [row.new_tokens for row in rows], "C1")
    tokens.set_ylim(bottom=0)
    tokens.set_ylabel("new tokens per request", color="C1")
    tokens.spines["top"].set_visible(False)


def _draw_spreads(panel: Axes, positions: Sequence[float], spreads: list[Spread], color: str) -> None:
    means = [spread.mean for spread in spreads]
    below = [spread.mean - spread.least for spread in spreads]
    above = [spread.most - spread.mean for spread in spreads]
    panel.errorbar(positions, means, (below, above), fmt="o", color=color, capsize=4)
