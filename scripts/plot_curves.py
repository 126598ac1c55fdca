"""Draws the curves of an alignment from its TensorBoard events.

python scripts/plot_curves.py runs/beauty/strict docs/curves.png
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PANELS = {
    "target calls per request": ["val/target_calls"],
    "acceptance rate": ["val/acceptance_rate", "val/acceptance_rate_level_*"],
    "alignment loss, nats": ["train/align_loss", "val/align_loss", "val/align_loss/*"],
}
"""Title → tags; a star at the end matches any ending."""


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return tag → (step, value) pairs of the event files in a folder; ValueError if there is none."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    if not scalars:
        raise ValueError(f"{folder} has no TensorBoard scalars; expected the folder of a stage, such as runs/x/strict")
    return scalars


def draw(scalars: dict[str, list[tuple[int, float]]], title: str, file: Path) -> None:
    """Draw one panel per entry of :data:`PANELS`."""
    figure, panels = pyplot.subplots(1, len(PANELS), figsize=(5 * len(PANELS), 3.8))
    for panel, (name, patterns) in zip(panels, PANELS.items(), strict=True):
        for pattern in patterns:
            stem = pattern.removesuffix("*")
            for tag in sorted(tag for tag in scalars if tag == pattern or (stem != pattern and tag.startswith(stem))):
                steps, values = zip(*scalars[tag], strict=True)
                faint = {"alpha": 0.4, "linewidth": 1} if tag.startswith("train/") else {"marker": "o", "markersize": 3}
                panel.plot(steps, values, label=tag, **faint)
        panel.set(title=name, xlabel="training steps")
        panel.grid(alpha=0.3)
        if panel.lines:
            panel.legend(fontsize="x-small")
    panels[1].set_ylim(0, 1.02)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the stage, with its event files")
    parser.add_argument("file", type=Path, help="the picture to write, .png or .svg")
    arguments = parser.parse_args()
    draw(read_scalars(arguments.folder), str(arguments.folder), arguments.file)
