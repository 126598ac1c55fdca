"""Draws a round of speculation with values, for the README.

python scripts/plot_round.py docs/round.png

The values are made up; everything that follows from them (proposals, beams, accepted levels, mask) is computed here.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

Prefix = tuple[str, ...]
Probabilities = dict[Prefix, float]
"""Prefix → probability of its last code given the codes before it."""

NUM_BEAMS, DRAFT_BEAMS, NUM_LEVELS = 2, 3, 4  # K, N, L
A3, A7, A1 = ("<a_3>",), ("<a_7>",), ("<a_1>",)
B90, B4, B12 = (*A3, "<b_90>"), (*A3, "<b_4>"), (*A7, "<b_12>")
C14, C2, C6, C9 = (*B90, "<c_14>"), (*B90, "<c_2>"), (*B12, "<c_6>"), (*B12, "<c_9>")
DRAFT: Probabilities = {A3: 0.50, A7: 0.25, A1: 0.15, B90: 0.60, B4: 0.30, B12: 0.72} | {
    C14: 0.50, C2: 0.40, C6: 0.50, C9: 0.30,
}  # fmt: skip
TARGET: Probabilities = {A3: 0.45, A7: 0.35, A1: 0.08, B90: 0.55, B4: 0.31, B12: 0.60} | {
    C14: 0.60, C2: 0.20, C6: 0.30, C9: 0.52,
}  # fmt: skip
COLUMN = {(): 2, A3: 1.5, A7: 3, A1: 4, B90: 1, B4: 2, B12: 3, C14: 0.5, C2: 1.5, C6: 2.5, C9: 3.5}
"""Where a prefix stands in the drawing of the tree."""
INK, FAINT, BLUE, AMBER, GREEN, RED = "#1f2933", "#7b8794", "#2f6fb0", "#b96a10", "#2c8a4b", "#c0392b"
MONOSPACE = {"family": "DejaVu Sans Mono", "fontsize": 8.5, "color": INK}


def probability(prefix: Prefix, model: Probabilities) -> float:
    """Return the probability of all codes of a prefix."""
    product = 1.0
    for length in range(1, len(prefix) + 1):
        product *= model[prefix[:length]]
    return product


def best_children(prefixes: list[Prefix], model: Probabilities, width: int) -> list[Prefix]:
    """Return the ``width`` most probable prefixes that continue one of ``prefixes`` by a code, best first."""
    children = [prefix for prefix in model if prefix[:-1] in prefixes]
    return sorted(children, key=lambda prefix: -probability(prefix, model))[:width]


def draft_tree() -> list[list[Prefix]]:
    """Return what the draft proposes at each level but the last: its own beam search, N wide."""
    levels: list[list[Prefix]] = [[()]]
    for _ in range(NUM_LEVELS - 1):
        levels.append(best_children(levels[-1], DRAFT, DRAFT_BEAMS))
    return levels[1:]


def verify(tree: list[list[Prefix]]) -> list[list[Prefix]]:
    """Return the target's K beams at each level that one call on the tree determines.

    The first of them needs no proposal. A level is accepted if all of its beams were proposed, because the call then
    scored their children, too.
    """
    beams: list[list[Prefix]] = [[()]]
    for proposed in tree:
        beams.append(best_children(beams[-1], TARGET, NUM_BEAMS))
        if not set(beams[-1]) <= set(proposed):
            break
    return beams[1:]


def level_y(level: int) -> float:
    """Return the height of a level's nodes; the prompt is level -1."""
    return -1.15 * level


def draw_box(axes: Axes, x: float, y: float, size: tuple[float, float], **colors: str) -> None:
    """Draw a box with round corners around a point."""
    corner = x - size[0] / 2, y - size[1] / 2
    style = "round,pad=0.03,rounding_size=0.1"
    axes.add_patch(FancyBboxPatch(corner, *size, boxstyle=style, linewidth=1.4, zorder=3, **colors))


def draw_node(axes: Axes, prefix: Prefix, model: Probabilities, color: str, fill: str, line: str = "-") -> None:
    """Draw a node of the tree: its last code, the probability of its prefix, and the line to its parent."""
    x, y = COLUMN[prefix], level_y(len(prefix) - 1)
    parent_y = level_y(len(prefix) - 2) - 0.34
    axes.plot([COLUMN[prefix[:-1]], x], [parent_y, y + 0.34], color=FAINT, linewidth=1, linestyle=line, zorder=1)
    draw_box(axes, x, y, (0.80, 0.62), edgecolor=color, facecolor=fill, linestyle=line)
    axes.text(x, y + 0.12, prefix[-1], ha="center", va="center", zorder=4, **MONOSPACE)
    value = f"{probability(prefix, model):.2f}"
    axes.text(x, y - 0.17, value, ha="center", va="center", fontsize=7.5, color=color, zorder=4)


def draw_level(axes: Axes, level: int, text: str, color: str, fill: str) -> None:
    """Draw the background of a level and, left of its nodes, what happens there."""
    axes.add_patch(Rectangle((-1.1, level_y(level) - 0.46), 5.6, 0.92, facecolor=fill, edgecolor="none", zorder=0))
    words = f"level {level}\n{text}" if text else f"level {level}"
    axes.text(-1.02, level_y(level), words, ha="left", va="center", fontsize=8, color=color, weight="bold")


def draw_head(axes: Axes, title: str, text: str) -> None:
    """Head a panel."""
    axes.set_title(title, loc="left", fontsize=12, weight="bold", color=INK, pad=32)
    axes.text(0, 1.015, text, transform=axes.transAxes, ha="left", va="bottom", fontsize=8.5, color=INK)


def draw_prompt(axes: Axes) -> None:
    """Draw the prompt above the tree."""
    x, y = 1.7, level_y(-1)
    draw_box(axes, x, y, (5.5, 0.44), edgecolor=FAINT, facecolor="#eef1f5")
    axes.text(x, y, "prompt: the user's history", ha="center", va="center", fontsize=8.5, color=INK, zorder=4)


def draw_proposals(axes: Axes, tree: list[list[Prefix]]) -> None:
    """Panel 1: the token tree, with the draft's probabilities."""
    text = f"The draft proposes its best N = {DRAFT_BEAMS} prefixes\nper level: a tree below the beams."
    draw_head(axes, "1  Draft", text)
    draw_prompt(axes)
    for level, prefixes in enumerate(tree):
        draw_level(axes, level, "", FAINT, "#f5f6f8")
        for prefix in prefixes:
            draw_node(axes, prefix, DRAFT, AMBER, "#fff4e2")


def draw_mask(axes: Axes, nodes: list[Prefix]) -> None:
    """Panel 2: who sees whom in the target call."""
    text = f"The target scores all {len(nodes)} nodes at once. Each sees\nthe prompt, its ancestors and itself."
    draw_head(axes, "2  One target call", text)
    cell = {"height": 1, "edgecolor": "white", "linewidth": 1.2}
    prompt_width, top = 2.6, len(nodes)
    axes.text(prompt_width / 2, top + 0.2, "prompt", ha="center", va="bottom", fontsize=8.5, color=INK)
    for row, node in enumerate(nodes):
        y = top - 1 - row
        axes.text(-0.2, y + 0.5, node[-1], ha="right", va="center", **MONOSPACE)
        axes.text(prompt_width + row + 0.5, top + 0.2, node[-1], ha="center", va="bottom", rotation=90, **MONOSPACE)
        axes.add_patch(Rectangle((0, y), prompt_width, facecolor="#a9c4e0", **cell))
        for column, other in enumerate(nodes):
            sees = node[: len(other)] == other
            axes.add_patch(Rectangle((prompt_width + column, y), 1, facecolor=BLUE if sees else "#eff1f4", **cell))
    text = (
        "The result: log-probabilities of every node's\nchildren. Scored nodes stay in the cache.\n\n"
        "Numbers in 1 and 3: the probability of a prefix\nunder the draft and under the target."
    )
    axes.text(-2.2, -0.6, text, ha="left", va="top", fontsize=8.5, color=INK)
    axes.set(xlim=(-2.3, prompt_width + len(nodes) + 0.1), ylim=(-4.2, top + 2.6))
    axes.set_aspect("equal", anchor="N")


def draw_verification(axes: Axes, tree: list[list[Prefix]], beams: list[list[Prefix]]) -> None:
    """Panel 3: the target's beams at each level, proposed or not."""
    draw_head(axes, "3  Verify", f"A level is accepted if the target's K = {NUM_BEAMS} beams\nare all in the tree.")
    draw_prompt(axes)
    for level, (proposed, wanted) in enumerate(zip(tree, beams, strict=True)):
        missing = [prefix for prefix in wanted if prefix not in proposed]
        if missing:
            draw_level(axes, level, "✗ " + " ".join(prefix[-1] for prefix in missing) + "\nmissing", RED, "#fdf0ee")
        else:
            draw_level(axes, level, "✓ accepted", GREEN, "#ecf7f0")
        for prefix in proposed:
            draw_node(axes, prefix, TARGET, *((GREEN, "#d3eedb") if prefix in wanted else (FAINT, "white")))
        for prefix in missing:
            draw_node(axes, prefix, TARGET, RED, "white", "--")


def draw(file: Path) -> None:
    """Draw the three steps side by side."""
    tree = draft_tree()
    beams = verify(tree)
    figure, panels = pyplot.subplots(1, 3, figsize=(10, 4.7), gridspec_kw={"width_ratios": [1, 0.95, 1]})
    draw_proposals(panels[0], tree)
    draw_mask(panels[1], [prefix for level in tree for prefix in level])
    draw_verification(panels[2], tree, beams)
    for panel in panels:
        panel.axis("off")
    for panel in (panels[0], panels[2]):
        panel.set(xlim=(-1.15, 4.55), ylim=(level_y(len(tree) - 1) - 0.5, level_y(-1) + 0.33))
    after = "  and  ".join("".join(prefix) for prefix in beams[-1])
    text = (
        f"One call found the target's beams of {len(beams)} levels. The next round starts from  {after},\n"
        f"and its call finds the last level: 2 target calls, where plain beam search makes {NUM_LEVELS}."
    )
    figure.text(0.5, 0.05, text, ha="center", va="center", fontsize=9, color=INK, linespacing=1.5)
    figure.subplots_adjust(left=0.015, right=0.985, top=0.84, bottom=0.125, wspace=0.06)
    figure.savefig(file, dpi=200)
    pyplot.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the picture to write, .png or .svg")
    draw(parser.parse_args().file)
