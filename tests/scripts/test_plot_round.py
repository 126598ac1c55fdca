"""The picture of a round shows what its caption and docs/decoding.md say."""

import re
from pathlib import Path

from scripts.plot_round import C9, DRAFT, TARGET, best_children, draft_tree, draw, probability, verify

ROOT = Path(__file__).parents[2]


def test_one_call_gives_the_beams_of_plain_search_until_one_was_not_proposed() -> None:
    plain = [[()]]
    for _ in range(3):
        plain.append(best_children(plain[-1], TARGET, 2))
    tree = draft_tree()
    assert [len(level) for level in tree] == [3, 3, 3]
    assert verify(tree) == plain[1:]
    assert [set(beams) <= set(level) for beams, level in zip(plain[1:], tree, strict=True)] == [True, True, False]
    assert C9 in plain[-1]
    assert verify([tree[0], []]) == plain[1:3]  # nothing proposed at level 1: its beams are known, but no further ones


def test_the_page_about_decoding_has_the_values_of_the_picture() -> None:
    text = (ROOT / "docs" / "decoding.md").read_text()
    rows = re.findall(r"^\| (\d) \| (`.*?) \| (`.*?) \|", text, flags=re.MULTILINE)
    tree = draft_tree()
    for (level, proposed, beams), nodes, wanted in zip(rows, tree, verify(tree), strict=True):
        for cell, prefixes, model in ((proposed, nodes, DRAFT), (beams, wanted, TARGET)):
            assert cell == ", ".join(f"`{''.join(prefix)}` {probability(prefix, model):.2f}" for prefix in prefixes)
        assert len(nodes[0]) == int(level) + 1


def test_it_is_drawn(tmp_path: Path) -> None:
    draw(tmp_path / "round.png")
    assert (tmp_path / "round.png").stat().st_size > 10_000
