"""The figures of verification that may lose a little: what it saves, and what that costs."""

from collections.abc import Callable
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atspeed.benchmark.method_row import MethodRow
from atspeed.benchmark.report.colors import color_like, curve_of
from atspeed.benchmark.rows import BenchmarkResult
from atspeed.panels import make_panels

PARAMETERS = {"bounded": ("epsilon", "ε"), "relaxed": ("temperature", "T")}
"""Verification → the field that its curve is over, and the symbol of that."""


class Points(NamedTuple):
    """What a figure shows in one color: a method, or the points of a curve.

    Attributes:
        label: in the legend.
        color: of marker and line.
        marker: its shape.
        rows: the points.
        names: what is written beside them; empty for a method.
    """

    label: str
    color: str
    marker: str
    rows: list[MethodRow]
    names: list[str]


def draw_tradeoff(result: BenchmarkResult) -> Figure | None:
    """Draw recall against speedup for each epsilon and each temperature, at the largest beam width."""
    points = _points(result)
    if not points:
        return None
    (plain,) = points[0].rows
    figure, ((panel,),) = make_panels(1, 1, (7, 4.2))
    panel.axhline(plain.recall, color="black", linewidth=1, alpha=0.5)
    _draw(panel, points, lambda row: row.speedup_vs_plain, lambda row: row.recall, lambda row: row.recall_error)
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    panel.set(xlabel="speedup over plain beam search (right is faster)", ylabel=f"Recall@{plain.num_beams}")
    panel.set_ylim(0, None)
    figure.legend(loc="outside upper center", ncols=2, fontsize="small", frameon=False)
    return figure


def draw_losses(result: BenchmarkResult) -> Figure | None:
    """Draw against target calls the share of the exact items, and the paired difference of the recall."""
    points = _points(result)
    if not points:
        return None
    (plain,), points = points[0].rows, points[1:]  # far to the right
    figure, ((items, recall),) = make_panels(1, 2, (5, 4))
    items.axhline(1, color="black", linewidth=1, alpha=0.5)
    recall.axhline(0, color="black", linewidth=1, alpha=0.5)
    _draw(items, points, lambda row: row.target_calls, lambda row: row.overlap_with_plain, lambda row: None)
    _draw(
        recall,
        points,
        lambda row: row.target_calls,
        lambda row: row.recall_difference,
        lambda row: row.recall_difference_interval,
    )
    items.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    items.set_ylabel("share of the exact items")
    recall.set_ylabel(f"Recall@{plain.num_beams} less that of the exact answer")
    for panel in (items, recall):
        panel.set_xlabel("target calls per request (left is cheaper)")
    figure.legend(
        *items.get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize="small", frameon=False
    )
    return figure


def _points(result: BenchmarkResult) -> list[Points]:
    """Return plain beam search, the strict method of the same draft and the curves; nothing without a curve."""
    curves = {name: curve_of(result, name, sort_by=field) for name, (field, _) in PARAMETERS.items()}
    drawn = [curve for curve in curves.values() if curve]
    if not drawn:
        return []
    drafter, width = drawn[0][0].drafter, drawn[0][0].draft_beams
    (plain,) = (row for row in result.main_rows if row.method == "plain")
    points = [Points("plain beam search (exact)", "black", "s", [plain], [])]
    strict = [
        row
        for row in [*curve_of(result, "strict", sort_by="draft_beams"), *result.main_rows]
        if (row.drafter, row.verification, row.draft_beams) == (drafter, "strict", width)
    ]
    if strict:
        label = f"strict, draft of N = {width} (exact)"
        points.append(Points(label, color_like(result, strict[0]), "D", strict[:1], []))
    for (name, curve), marker in zip(curves.items(), "^o", strict=True):
        field, symbol = PARAMETERS[name]
        names = [f"{symbol} = {getattr(row, field):g}" for row in curve]
        if curve:
            points.append(Points(f"{name}, draft of N = {width}", color_like(result, curve[0]), marker, curve, names))
    return points


def _draw(
    panel: Axes,
    points: list[Points],
    x: Callable[[MethodRow], float | None],
    y: Callable[[MethodRow], float],
    error: Callable[[MethodRow], float | None],
) -> None:
    for label, color, marker, rows, names in points:
        panel.errorbar(
            [x(row) or 0 for row in rows],
            [y(row) for row in rows],
            [error(row) or 0 for row in rows],
            color=color,
            marker=marker,
            linestyle="--" if names else "none",
            linewidth=1,
            elinewidth=1,
            capsize=3,
            label=label,
        )
        above = marker == "^"  # the names of one curve lean up, those of the other down, so that both can be read
        for row, name in zip(rows, names, strict=False):
            panel.annotate(
                name,
                (x(row) or 0, y(row)),
                xytext=(3, 5 if above else -5),
                textcoords="offset points",
                fontsize="small",
                rotation=40 if above else -40,
                rotation_mode="anchor",
                va="bottom" if above else "top",
            )
    panel.margins(x=0.15, y=0.15)
