"""The figure of the draft comparison."""

from matplotlib.figure import Figure

from atspeed.benchmark.report.draft_width_axis import set_draft_width_axis
from atspeed.benchmark.rows import DraftCoverageRow
from atspeed.panels import make_panels


def draw_coverage(coverage: list[DraftCoverageRow]) -> Figure:
    """Draw a panel for each beam width: coverage against draft width, a line for each draft."""
    beams = list(dict.fromkeys(row.num_beams for row in coverage))
    figure, panels = make_panels(1, len(beams), (4, 3.6), sharey=True)
    for panel, num_beams in zip(panels[0], beams, strict=True):
        for draft in dict.fromkeys(row.draft for row in coverage):
            rows = [row for row in coverage if (row.draft, row.num_beams) == (draft, num_beams)]
            panel.plot([row.draft_beams for row in rows], [row.coverage for row in rows], marker="o", label=draft)
        set_draft_width_axis(panel, [row.draft_beams for row in coverage])
        panel.set(title=f"K = {num_beams}", ylim=(0, 1.02))
    panels[0][0].set_ylabel("share of requests covered")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    return figure
