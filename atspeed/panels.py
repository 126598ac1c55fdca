"""What all figures share: panels, and how they are written."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure


def make_panels(rows: int, columns: int, size: tuple[float, float], **shared: Any) -> tuple[Figure, np.ndarray]:
    """Return a figure and its panels ``[rows, columns]``, each of a size (width, height) in inches."""
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, **shared)
    for panel in panels.flat:
        panel.grid(alpha=0.3)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels


def save_figure(figure: Figure, file: Path) -> None:
    """Write a figure as PNG, with the folders above it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
