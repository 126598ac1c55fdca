"""The axis that two figures share."""

from matplotlib.axes import Axes


def set_draft_width_axis(panel: Axes, widths: list[int]) -> None:
    """Give a panel a logarithmic axis of draft widths, with a tick at each."""
    panel.set_xscale("log", base=2)
    ticks = sorted(set(widths))
    panel.set_xticks(ticks, [str(tick) for tick in ticks])
    panel.minorticks_off()
    panel.set_xlabel("draft width N")
