"""The benchmark's figures: each function draws one, or returns None where nothing of it was measured."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from atspeed.benchmark.phases import PHASES
from atspeed.benchmark.report.colors import BASELINES, color_like, curve_of, method_colors
from atspeed.benchmark.report.draft_width_axis import set_draft_width_axis
from atspeed.benchmark.report.tradeoff import draw_losses, draw_tradeoff
from atspeed.benchmark.rows import BenchmarkResult
from atspeed.panels import make_panels

DASHES = {"bounded": "-.", "relaxed": "--", "lossless": ":"}
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


def draw_pictures(result: BenchmarkResult) -> list[Picture]:
    """Return the pictures of all that was measured; most show the largest beam width."""
    drawn = [(name, title, caption, draw(result)) for name, (title, caption, draw) in PICTURES.items()]
    return [
        Picture(name, title.format(K=result.num_beams), caption, figure)
        for name, title, caption, figure in drawn
        if figure is not None
    ]


def draw_speedup(result: BenchmarkResult) -> Figure | None:
    """Draw the speedup of each method against beam width, a row of panels for each batch size."""
    sizes = list(dict.fromkeys(row.batch_size for row in result.rows))
    references = {"plain": "plain beam search of this engine", "hf_generate": "transformers.generate"}
    figure, panels = make_panels(len(sizes), 2, (5, 4), sharey="row", sharex=True)
    colors, lines = method_colors(result), {}
    for size, pair in zip(sizes, panels, strict=True):
        rows = [row for row in result.rows if row.batch_size == size]
        beams = sorted({row.num_beams for row in rows})
        for panel, (reference, words), column in zip(
            pair, references.items(), ("speedup_vs_plain", "speedup_vs_hf"), strict=True
        ):
            panel.axhline(1, color=BASELINES[reference], linewidth=1)
            for method, color in colors.items():
                own = [row for row in rows if row.method == method]
                (lines[method],) = panel.plot(
                    [beams.index(row.num_beams) for row in own],
                    [getattr(row, column) for row in own],
                    color=color,
                    linestyle=DASHES.get(own[0].verification or "", "-"),
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


def draw_draft_width(result: BenchmarkResult) -> Figure | None:
    """Draw target calls and latency against the draft width, at the largest beam width."""
    curve = curve_of(result, "strict", sort_by="draft_beams")
    if not curve:
        return None
    references = [
        row
        for row in result.main_rows
        if row.verification == "strict" and row.drafter in ("NoDrafter", "TrieDrafter", "HybridDrafter")
    ]
    colors, color = method_colors(result), color_like(result, curve[0])
    figure, (panels,) = make_panels(1, 2, (5, 3.8))
    for panel, value, label in (
        (panels[0], lambda row: row.target_calls, "target calls per request"),
        (panels[1], lambda row: row.latency_ms.median, f"median latency, ms per {_unit(result)}"),
    ):
        widths = [row.draft_beams for row in curve if row.draft_beams]
        panel.plot(widths, [value(row) for row in curve], marker="o", color=color, label="draft model")
        for row in references:
            panel.axhline(value(row), color=colors[row.method], linestyle="--", linewidth=1.2, label=row.method)
        set_draft_width_axis(panel, widths)
        panel.set_ylabel(label)
        panel.set_ylim(0, 1.08 * max(value(row) for row in [*curve, *references]))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    return figure


def draw_phases(result: BenchmarkResult) -> Figure | None:
    """Draw where the time of a request goes, a bar for each method, at the largest beam width."""
    phases_by_method = {row.method: row.phases_ms for row in result.main_rows if row.phases_ms}
    if not phases_by_method:
        return None
    figure, ((panel,),) = make_panels(1, 1, (9, 1.2 + 0.42 * len(phases_by_method)))
    left = np.zeros(len(phases_by_method))
    totals = np.array([sum(phases.values()) for phases in phases_by_method.values()])
    for phase, color in zip(PHASES, colormaps["tab20c"]([0, 4, 6, 8, 17]), strict=True):
        shares = np.array([phases[phase] for phases in phases_by_method.values()]) / totals
        bars = panel.barh(
            list(phases_by_method), shares, left=left, color=color, label=PHASE_NAMES[phase], edgecolor="white"
        )
        panel.bar_label(
            bars,
            [f"{share:.0%}" if share >= SMALLEST_LABEL else "" for share in shares],
            label_type="center",
            fontsize="small",
        )
        left += shares
    for bar, total in enumerate(totals):
        panel.text(1.01, bar, f"{total:.1f} ms", va="center", fontsize="small")
    panel.invert_yaxis()
    panel.grid(visible=False)
    panel.spines[:].set_visible(False)
    panel.set_xlim(0, 1)
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    panel.set_xlabel(f"share of the time of a {_unit(result)} (right: mean time under the stopwatch)")
    figure.legend(loc="outside upper center", ncols=len(PHASES), fontsize="small", frameon=False)
    return figure


def draw_acceptance(result: BenchmarkResult) -> Figure | None:
    """Draw how often each level that was drafted was accepted, a matrix for each beam width."""
    size = result.batch_size
    rows = [
        row
        for row in result.rows
        if row.batch_size == size and any(rate is not None for rate in row.acceptance_by_level)
    ]
    if not rows:
        return None
    beams = list(dict.fromkeys(row.num_beams for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    levels = len(rows[0].acceptance_by_level)
    figure, (panels,) = make_panels(1, len(beams), (0.8 + 0.65 * levels, 1.4 + 0.36 * len(methods)), sharey=True)
    for panel, width in zip(panels, beams, strict=True):
        rates = np.full((len(methods), levels), np.nan)
        for row in rows:
            if row.num_beams == width:
                rates[methods.index(row.method)] = [np.nan if r is None else r for r in row.acceptance_by_level]
        image = panel.imshow(rates, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (line, level), rate in np.ndenumerate(rates):
            text = "–" if np.isnan(rate) else f"{rate:.2f}"
            panel.text(level, line, text, ha="center", va="center", fontsize="small", color=_ink(rate))
        panel.set_xticks(range(levels))
        panel.set_yticks(range(len(methods)), methods)
        panel.set_title(f"K = {width}", fontsize="medium")
        panel.set_xlabel("level")
        panel.grid(visible=False)
    figure.colorbar(image, ax=panels, label="accepted / drafted", fraction=0.03)
    return figure


def _ink(rate: float) -> str:
    return "white" if rate > 0.6 else "black"


def _unit(result: BenchmarkResult) -> str:
    size = result.batch_size
    return "request" if size == 1 else f"batch of {size}"


PICTURES: dict[str, tuple[str, str, Callable[[BenchmarkResult], Figure | None]]] = {
    "speedup": (
        "Speedup against beam width",
        "Wall time of plain beam search by this engine (left) and of transformers.generate (right) over that of each "
        "method: the median of the ratios per batch. Solid lines are exact (strict), dash-dotted ones bounded, dashed "
        "ones relaxed, dotted ones lossless sampling.",
        draw_speedup,
    ),
    "draft_width": (
        "Target calls against draft width at K = {K}",
        "Under strict verification: with a wider draft one target call is enough more often, but drafting takes "
        "longer. Dashed: the methods that have no draft width.",
        draw_draft_width,
    ),
    "tradeoff": (
        "Bounded and relaxed verification at K = {K}: accuracy against speed",
        "What each epsilon ε and each temperature T costs in recall and gains in speed. Up and right is better; the "
        "line is the recall of every exact method. Bars: ± 1 standard error over the users.",
        draw_tradeoff,
    ),
    "losses": (
        "Bounded and relaxed verification at K = {K}: what is lost for fewer target calls",
        "Left: how many of the exact items are returned, in any order. Right: the mean over users of the recall less "
        "that of the exact answer, with its 95 % interval. Up and left is better; the line is every exact method, of "
        "which plain beam search takes a call per level.",
        draw_losses,
    ),
    "phases": (
        "Where the time goes at K = {K}",
        "Measured in a separate pass. “Scoring and loop” is the time of scoring outside the forward passes (tree "
        "masks, key-value slots, log-probabilities of children) and of the loop itself.",
        draw_phases,
    ),
    "acceptance": (
        "Acceptance by level",
        "How often a drafted level was accepted, that is, needed no target call of its own. Level 0 is the first code; "
        "the last level needs no draft. “–”: never drafted.",
        draw_acceptance,
    ),
}
