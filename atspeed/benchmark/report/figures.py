"""The benchmarks' figures: each takes what was measured, and is None where nothing of it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from atspeed.benchmark.phases import PHASES

Row = dict[str, Any]
COLORS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22"]
BASELINES = {"plain": "black", "hf_generate": "0.55"}
DASHES = {"relaxed": "--", "lossless": ":"}
PHASE_NAMES = {
    "target": "target: forward passes",
    "draft": "draft: forward passes",
    "drafting": "choosing proposals",
    "verification": "verification",
    "rest": "scoring and loop",
}
SMALLEST_LABEL = 0.06  # shares below it have no room for their number


class Picture(NamedTuple):
    """A figure of the report.

    Attributes:
        name: of its file and its tag in TensorBoard.
        title: what it shows.
        caption: how to read it.
        figure: the figure.
    """

    name: str
    title: str
    caption: str
    figure: Figure


def draw_pictures(result: dict[str, Any]) -> list[Picture]:
    """Return a picture of everything that the content of a ``benchmark.json`` has; most show the largest beam width."""
    largest = max(row["num_beams"] for row in result["rows"])
    drawn = [(name, title.format(K=largest), text, draw(result)) for name, (title, text, draw) in PICTURES.items()]
    return [Picture(name, title, text, figure) for name, title, text, figure in drawn if figure is not None]


def save_figure(figure: Figure, file: Path) -> None:
    """Write a figure as PNG, with the folders above it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def draw_coverage(coverage: list[Row]) -> Figure:
    """Draw a panel for each beam width: coverage against draft width, a line for each draft."""
    beams = list(dict.fromkeys(row["num_beams"] for row in coverage))
    figure, panels = _panels(1, len(beams), (4, 3.6), sharey=True)
    for panel, num_beams in zip(panels[0], beams, strict=True):
        for draft in dict.fromkeys(row["draft"] for row in coverage):
            rows = [row for row in coverage if (row["draft"], row["num_beams"]) == (draft, num_beams)]
            panel.plot([r["draft_beams"] for r in rows], [r["coverage"] for r in rows], marker="o", label=draft)
        _draft_width_axis(panel, [row["draft_beams"] for row in coverage])
        panel.set(title=f"K = {num_beams}", ylim=(0, 1.02))
    panels[0][0].set_ylabel("share of requests covered")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    return figure


def draw_speedup(result: dict[str, Any]) -> Figure | None:
    """Draw the speedup of each method against beam width, a row of panels for each batch size."""
    sizes = list(dict.fromkeys(row["batch_size"] for row in result["rows"]))
    references = {"plain": "plain beam search of this engine", "hf_generate": "transformers.generate"}
    figure, panels = _panels(len(sizes), 2, (5, 4), sharey="row", sharex=True)
    colors, lines = _colors(result), {}
    for size, pair in zip(sizes, panels, strict=True):
        rows = [row for row in result["rows"] if row["batch_size"] == size]
        beams = sorted({row["num_beams"] for row in rows})
        for panel, (reference, words), column in zip(
            pair, references.items(), ("speedup_vs_plain", "speedup_vs_hf"), strict=True
        ):
            panel.axhline(1, color=BASELINES[reference], linewidth=1)
            for method, color in colors.items():
                own = [row for row in rows if row["method"] == method]
                (lines[method],) = panel.plot(
                    [beams.index(row["num_beams"]) for row in own],
                    [row[column] for row in own],
                    color=color,
                    linestyle=DASHES.get(own[0]["verification"], "-"),
                    marker="o",
                    markersize=4,
                )
            panel.set_yscale("log", base=2)
            panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
            panel.set_xticks(range(len(beams)), [str(width) for width in beams])
            panel.set_title(f"over {words}" + (f", batches of {size}" if len(sizes) > 1 else ""), fontsize="medium")
        pair[0].set_ylabel("speedup (higher is faster)")
    for panel in panels[-1]:
        panel.set_xlabel("beam width K")
    figure.legend(list(lines.values()), list(lines), loc="outside right upper", fontsize="small")
    return figure


def draw_draft_width(result: dict[str, Any]) -> Figure | None:
    """Draw target calls and latency against the draft width, at the largest beam width."""
    curve = sorted(_curve(result, "strict"), key=lambda row: row["draft_beams"])
    if not curve:
        return None
    references = [
        row
        for row in _at_largest(result)
        if row["verification"] == "strict" and row["drafter"] in ("NoDrafter", "TrieDrafter", "HybridDrafter")
    ]
    colors, color = _colors(result), _color_like(result, curve[0])
    figure, (panels,) = _panels(1, 2, (5, 3.8))
    for panel, value, label in (
        (panels[0], lambda row: row["target_calls"], "target calls a request"),
        (panels[1], lambda row: row["latency_ms"]["median"], f"median latency, {_latency_unit(result)}"),
    ):
        widths = [row["draft_beams"] for row in curve]
        panel.plot(widths, [value(row) for row in curve], marker="o", color=color, label="draft model")
        for row in references:
            panel.axhline(value(row), color=colors[row["method"]], linestyle="--", linewidth=1.2, label=row["method"])
        _draft_width_axis(panel, widths)
        panel.set_ylabel(label)
        panel.set_ylim(0, 1.08 * max(value(row) for row in [*curve, *references]))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    return figure


def draw_tradeoff(result: dict[str, Any]) -> Figure | None:
    """Draw recall against speedup for each temperature of relaxed verification, at the largest beam width."""
    curve = sorted(_curve(result, "relaxed"), key=lambda row: row["temperature"])
    if not curve:
        return None
    rows, width = _at_largest(result), curve[0]["draft_beams"]
    (plain,) = (row for row in rows if row["method"] == "plain")
    strict = [
        row
        for row in [*_curve(result, "strict"), *rows]
        if (row["drafter"], row["verification"], row["draft_beams"]) == (curve[0]["drafter"], "strict", width)
    ]
    figure, ((panel,),) = _panels(1, 1, (7, 4.2))
    points = [("plain beam search (exact)", "black", "s", [plain])]
    if strict:
        points.append((f"strict, draft of N = {width} (exact)", _color_like(result, strict[0]), "D", strict[:1]))
    points.append((f"relaxed, draft of N = {width}", _color_like(result, curve[0]), "o", curve))
    panel.axhline(plain["recall"], color="black", linewidth=1, alpha=0.5)
    for label, color, marker, some in points:
        panel.errorbar(
            [row["speedup_vs_plain"] for row in some],
            [row["recall"] for row in some],
            [row["recall_error"] or 0 for row in some],
            color=color,
            marker=marker,
            linestyle="--" if len(some) > 1 else "none",
            linewidth=1,
            elinewidth=1,
            capsize=3,
            label=label,
        )
    for row in curve:
        panel.annotate(
            f"T = {row['temperature']:g}",
            (row["speedup_vs_plain"], row["recall"]),
            xytext=(7, 7),
            textcoords="offset points",
            fontsize="small",
        )
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    panel.margins(x=0.15)
    panel.set(xlabel="speedup over plain beam search (right is faster)", ylabel=f"Recall@{plain['num_beams']}")
    panel.set_ylim(0, None)
    figure.legend(loc="outside upper center", ncols=len(points), fontsize="small", frameon=False)
    return figure


def draw_phases(result: dict[str, Any]) -> Figure | None:
    """Draw where the time of a request goes, a bar for each method, at the largest beam width."""
    rows = [row for row in _at_largest(result) if row["phases_ms"]]
    figure, ((panel,),) = _panels(1, 1, (9, 1.2 + 0.42 * len(rows)))
    names = [row["method"] for row in rows]
    left = np.zeros(len(rows))
    totals = np.array([sum(row["phases_ms"].values()) for row in rows])
    for phase, color in zip(PHASES, colormaps["tab20c"]([0, 4, 6, 8, 17]), strict=True):
        shares = np.array([row["phases_ms"][phase] for row in rows]) / totals
        bars = panel.barh(names, shares, left=left, color=color, label=PHASE_NAMES[phase], edgecolor="white")
        panel.bar_label(
            bars,
            [f"{share:.0%}" if share >= SMALLEST_LABEL else "" for share in shares],
            label_type="center",
            fontsize="small",
        )
        left += shares
    for place, total in enumerate(totals):
        panel.text(1.01, place, f"{total:.1f} ms", va="center", fontsize="small")
    panel.invert_yaxis()
    panel.grid(visible=False)
    panel.spines[:].set_visible(False)
    panel.set_xlim(0, 1)
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    panel.set_xlabel(f"share of the time of a {_unit(result)} (right: mean time under the stopwatch)")
    figure.legend(loc="outside upper center", ncols=len(PHASES), fontsize="small", frameon=False)
    return figure


def draw_acceptance(result: dict[str, Any]) -> Figure | None:
    """Draw how often each level that was drafted was accepted, a matrix for each beam width."""
    size = result["rows"][0]["batch_size"]
    rows = [
        row
        for row in result["rows"]
        if row["batch_size"] == size and any(rate is not None for rate in row["acceptance_by_level"])
    ]
    if not rows:
        return None
    beams, methods = (list(dict.fromkeys(row[name] for row in rows)) for name in ("num_beams", "method"))
    levels = len(rows[0]["acceptance_by_level"])
    figure, (panels,) = _panels(1, len(beams), (0.8 + 0.65 * levels, 1.4 + 0.36 * len(methods)), sharey=True)
    for panel, width in zip(panels, beams, strict=True):
        rates = np.full((len(methods), levels), np.nan)
        for row in rows:
            if row["num_beams"] == width:
                rates[methods.index(row["method"])] = [np.nan if r is None else r for r in row["acceptance_by_level"]]
        image = panel.imshow(rates, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (place, level), rate in np.ndenumerate(rates):
            text = "–" if np.isnan(rate) else f"{rate:.2f}"
            panel.text(level, place, text, ha="center", va="center", fontsize="small", color=_ink(rate))
        panel.set_xticks(range(levels))
        panel.set_yticks(range(len(methods)), methods)
        panel.set_title(f"K = {width}", fontsize="medium")
        panel.set_xlabel("level")
        panel.grid(visible=False)
    figure.colorbar(image, ax=panels, label="accepted / drafted", fraction=0.03)
    return figure


def _ink(rate: float) -> str:
    return "white" if rate > 0.6 else "black"


def _panels(rows: int, columns: int, size: tuple[float, float], **shared: Any) -> tuple[Figure, np.ndarray]:
    """Return a figure and its panels ``[rows, columns]``, each of a size in inches."""
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, **shared)
    for panel in panels.flat:
        panel.grid(alpha=0.3)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _draft_width_axis(panel: Axes, widths: list[int]) -> None:
    panel.set_xscale("log", base=2)
    ticks = sorted(set(widths))
    panel.set_xticks(ticks, [str(tick) for tick in ticks])
    panel.minorticks_off()
    panel.set_xlabel("draft width N")


def _colors(result: dict[str, Any]) -> dict[str, str]:
    """Return the color of each method, the same in all figures."""
    methods = list(dict.fromkeys(row["method"] for row in result["rows"]))
    others = [method for method in methods if method not in BASELINES]
    return {**BASELINES, **{method: COLORS[place % len(COLORS)] for place, method in enumerate(others)}}


def _color_like(result: dict[str, Any], point: Row) -> str:
    """Return the color of the method that a point of a curve is a variant of; the last one if there is none."""
    kind = point["drafter"], point["verification"]
    alike = [row["method"] for row in result["rows"] if (row["drafter"], row["verification"]) == kind]
    return _colors(result)[alike[0]] if alike else COLORS[-1]


def _at_largest(result: dict[str, Any]) -> list[Row]:
    """Return the rows of the largest beam width and the first batch size."""
    width, size = max(row["num_beams"] for row in result["rows"]), result["rows"][0]["batch_size"]
    return [row for row in result["rows"] if (row["num_beams"], row["batch_size"]) == (width, size)]


def _curve(result: dict[str, Any], verification: str) -> list[Row]:
    return [row for row in result["curves"] if row["verification"] == verification]


def _unit(result: dict[str, Any]) -> str:
    size = result["rows"][0]["batch_size"]
    return "request" if size == 1 else f"batch of {size}"


def _latency_unit(result: dict[str, Any]) -> str:
    return f"ms a {_unit(result)}"


PICTURES: dict[str, tuple[str, str, Callable[[dict[str, Any]], Figure | None]]] = {
    "speedup": (
        "Speedup against beam width",
        "Wall time of plain beam search by this engine (left) and of transformers.generate (right) over that of each "
        "method: the median of the ratios batch by batch. Solid lines are exact (strict), dashed ones relaxed, dotted "
        "ones lossless sampling.",
        draw_speedup,
    ),
    "draft_width": (
        "Target calls against draft width at K = {K}",
        "Under strict verification: a wider draft makes it likelier that one target call is enough, and takes longer. "
        "Dashed: the methods that need no draft width.",
        draw_draft_width,
    ),
    "tradeoff": (
        "Relaxed verification at K = {K}: accuracy against speed",
        "What a temperature T costs in recall and brings in speed. Up and right is better; the line is the recall of "
        "every exact method. Bars: ± 1 standard error over the users.",
        draw_tradeoff,
    ),
    "phases": (
        "Where the time goes at K = {K}",
        "From a pass of its own. “Scoring and loop” is what scoring takes beside the forward passes "
        "(tree masks, key-value slots, log-probabilities of children) and the loop itself.",
        draw_phases,
    ),
    "acceptance": (
        "Acceptance by level",
        "How often a level that was drafted was accepted, that is, came without a target call of its own. Level 0 is "
        "the first code; the last level needs no draft. “–”: never drafted.",
        draw_acceptance,
    ),
}
