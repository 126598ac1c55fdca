"""Single checks of the doctor."""

import io
from contextlib import redirect_stdout
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import normalizers
from transformers import GenerationConfig

from atspeed.benchmark.agreement import Answer
from atspeed.catalog import ItemCatalog, Spelling
from atspeed.doctor.answers_check import Reply, Trial, check_answers, check_speed
from atspeed.doctor.codes_check import check_semantic_ids
from atspeed.doctor.findings import WIDTH, Finding, attempt, show_changes, show_finding
from atspeed.doctor.generation_check import EFFECTS, check_generation
from atspeed.prompts import TextPrompt
from atspeed.recommender import response_trie
from tests.decoding.tiny import tiny_model
from tests.prompts.tiny_tokenizers import byte_level, save

ONE_LENGTH = Spelling((), (), None, torch.tensor([[5, 6], [5, 7]]))
TWO_LENGTHS = Spelling((), (), None, torch.tensor([[5, 6, 2], [5, 2, -1]]))
VALUES = {float: 1.7, int: 3, bool: True, list: [[4]], dict: {(4,): 2.0}, type(None): [2, 1.5]}


@pytest.mark.parametrize("name", EFFECTS)
def test_a_setting_is_named_if_it_has_an_effect(name: str) -> None:
    neutral = EFFECTS[name][0]
    value = VALUES[type(neutral)]
    settings = GenerationConfig()
    setattr(settings, name, neutral)
    assert check_generation(settings, ONE_LENGTH).verdict == "good"
    setattr(settings, name, value)
    finding = check_generation(settings, ONE_LENGTH)
    assert finding.verdict == "warning"
    assert any(fact.startswith(f"- {name} = {value} ") for fact in finding.facts)


@pytest.mark.parametrize(
    ("settings", "spelling", "verdict", "words"),
    [
        ({"length_penalty": 0.0}, TWO_LENGTHS, "good", None),
        (
            {},
            TWO_LENGTHS,
            "warning",
            "length_penalty = 1.0, the default of generate, divides scores by the length: the",
        ),
        ({"length_penalty": 2.0}, TWO_LENGTHS, "warning", "length_penalty = 2.0 divides scores by a power"),
        ({"length_penalty": 2.0}, ONE_LENGTH, "good", "the order of items stays"),
        ({"length_penalty": 2.0}, None, "warning", "may change"),
        ({"length_penalty": 0.0, "early_stopping": True}, ONE_LENGTH, "good", None),
        (
            {"length_penalty": 0.0, "early_stopping": True},
            TWO_LENGTHS,
            "warning",
            "early_stopping = True may leave out",
        ),
        ({"length_penalty": 0.0, "temperature": 0.5}, ONE_LENGTH, "good", None),
    ],
)
def test_lengths_matter_where_responses_have_different_ones(
    settings: dict[str, Any], spelling: Spelling | None, verdict: str, words: str | None
) -> None:
    finding = check_generation(GenerationConfig(**settings), spelling)
    assert finding.verdict == verdict
    assert (words or "No setting changes answers.") in " ".join(finding.facts)


def test_a_tokenizer_that_changes_the_text_of_codes_is_found_out(tmp_path: Path) -> None:
    catalog = ItemCatalog({"soap": ["<A_1>", "<B_2>"], "comb": ["<A_2>", "<B_2>"], "sponge": ["<A_2>", "<B_2>"]})
    tokenizer = byte_level()
    for verdict in ("good", "failed"):
        folder = save(tmp_path / verdict, tokenizer)
        encoder = TextPrompt(folder, "{history}\n", response_suffix="\n{eos}").encoder(catalog, 3)
        finding = check_semantic_ids(catalog, encoder, response_trie(catalog, encoder))
        assert finding.verdict == verdict, finding
        assert finding.facts[0] == "2 distinct semantic IDs of 3 items, 2 leaves of the trie."
        tokenizer.normalizer = normalizers.Lowercase()
    assert finding.facts[1].startswith(
        "2 have tokens that do not read as their codes, such as '<A_1><B_2>': '<a_1><b_2>"
    )


def trial(*answers: Answer, calls: int = 2) -> Trial:
    """What generate (the first answer) and two methods answered."""
    names = ("generate", "plain", "trie")
    return Trial(
        {name: [Reply(answer, [7] * calls)] for name, answer in zip(names, answers, strict=True)},
        {name: [0.5] for name in names},
    )


RIGHT = Answer([(5,), (6,)], [-1.0, -2.0])
SWAPPED = Answer([(6,), (5,)], [-1.00001, -1.99999])
OTHER = Answer([(5,), (7,)], [-1.0, -2.05])


def test_answers_that_differ_by_more_than_rounding_fail() -> None:
    full, half = tiny_model("llama", 12), deepcopy(tiny_model("llama", 12)).bfloat16()
    assert check_answers(trial(RIGHT, RIGHT, RIGHT), full).verdict == "good"
    swapped = check_answers(trial(RIGHT, RIGHT, SWAPPED), full)
    assert swapped.verdict == "good"
    assert "scores are nearly equal" in swapped.facts[-1]
    failed = check_answers(trial(RIGHT, OTHER, RIGHT), full)
    assert failed.verdict == "failed"
    assert failed.facts[0] == "plain: 0 of 1 identical to generate, in items and order; scores within 5.0e-02."
    assert check_answers(trial(RIGHT, OTHER, RIGHT), half).verdict == "warning", "bfloat16 rounds"


def test_a_draft_is_recommended_where_the_catalog_alone_needs_many_calls() -> None:
    assert check_speed(trial(RIGHT, RIGHT, RIGHT), 2).changes == []
    finding = check_speed(trial(RIGHT, RIGHT, RIGHT, calls=3), 2)
    assert "of which TrieDrafter takes 3" in finding.changes[0]
    assert finding.block[-1].split() == ["trie", "3", "21", "500.0"]


def test_a_failed_attempt_says_why() -> None:
    assert attempt(lambda: 5) == (5, "")
    assert attempt(lambda: int("x"))[1].startswith("invalid literal")
    assert attempt(lambda: {}["x"]) == (None, "KeyError: 'x'")  # type: ignore[index]


def test_the_report_is_narrow_and_says_each_thing_once() -> None:
    finding = Finding(
        "folder", "failed", ["word " * 60, "[red] is no style"], ["change this", "change this"], ["x" * 150]
    )
    output = io.StringIO()
    with redirect_stdout(output):
        show_finding(finding)
        show_changes([finding, finding])
        show_changes([])
    lines = output.getvalue().splitlines()
    assert lines[0] == "folder: failed"
    assert "  [red] is no style" in lines
    assert [line for line in lines if len(line) > WIDTH] == ["x" * 150], "text of a prompt stays as it is"
    assert lines.count("  - change this") == 1
    assert lines[-1] == "  nothing"
