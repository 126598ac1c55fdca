import base64
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from atspeed.benchmark.floor import Floor
from atspeed.benchmark.growth_record import GrownFrom
from atspeed.benchmark.method_row import Latency, MethodRow
from atspeed.benchmark.prediction import Predictions
from atspeed.benchmark.report.figures import draw_pictures
from atspeed.benchmark.report.page import write_report
from atspeed.benchmark.report.tables import tables_of
from atspeed.benchmark.rows import (
    BenchmarkEnvironment,
    BenchmarkResult,
    BenchmarkSetting,
    CoverageRow,
)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PICTURES = ["speedup", "draft_width", "tradeoff", "losses", "phases", "acceptance"]
SHARE = {"target": 6.0, "draft": 1.0, "drafting": 1.0, "verification": 0.5, "rest": 1.5}


def row(method: str, drafter: str | None, num_beams: int, speedup: float, **values: Any) -> MethodRow:
    verification = values.get("verification", "strict" if drafter else None)
    strict = verification in (None, "strict")
    settings: dict[str, Any] = {
        "draft_beams": 40 if drafter == "ModelDrafter" else None,
        "verification": verification,
        "temperature": None,
        "epsilon": None,
        "batch_size": 1,
        "requests": 50,
        "latency_ms": Latency(median=20 / speedup, mean=21 / speedup, p90=25 / speedup),
        "requests_per_second": 50 * speedup,
        "speedup_vs_hf": 4 * speedup,
        "total_speedup_vs_hf": 5 * speedup,
        "speedup_vs_plain": speedup,
        "target_calls": 4.0,
        "trie_target_calls": None,
        "draft_calls": 0.0,
        "accepted_levels": 0.0,
        "acceptance_rate": None,
        "acceptance_by_level": (None, None, None),
        "identical_to_hf": 1.0 if strict else None,
        "near_ties": None,
        "max_score_gap": 0.0 if strict else None,
        "overlap_with_hf": 1.0,
        "overlap_with_plain": 1.0,
        "exact_share": None,
        "illegal_rate": 0.0,
        "duplicate_rate": 0.0,
        "recall": 0.03,
        "recall_error": 0.01,
        "recall_difference": 0.0,
        "recall_difference_interval": 0.0,
        "ndcg": 0.01,
        "ndcg_error": 0.005,
        "ndcg_difference": 0.0,
        "ndcg_difference_interval": 0.0,
        "phases_ms": SHARE,
        "execution": "Eager" if drafter else None,
        "device_ms": None,
        "target_tokens": 80.0 if drafter else None,
        "draft_tokens": 0.0 if drafter else None,
        "peak_memory_gb": None,
        "capture_seconds": None,
        "kernel_ms": None,
        "floor": Floor(20 / speedup, weights_ms=4.0, target_ms=10.0, draft_ms=1.0) if drafter else None,
    }
    return MethodRow(method, drafter, num_beams=num_beams, **{**settings, **values})


def methods(num_beams: int) -> list[MethodRow]:
    accepted = {"acceptance_by_level": (0.9, 0.123, None), "acceptance_rate": 0.6}
    return [
        row("hf_generate", None, num_beams, 0.25, target_calls=None, draft_calls=None, phases_ms=None),
        row("plain", "NoDrafter", num_beams, 1.0),
        row("trie", "TrieDrafter", num_beams, 1.5, target_calls=2.0, **accepted),
        row("draft", "ModelDrafter", num_beams, 0.8, target_calls=2.5, draft_calls=3.0, **accepted),
    ]


RESULT = BenchmarkResult(
    environment=BenchmarkEnvironment(
        command=["atspeed", "benchmark", "--out", "a <b> folder"],
        commit="0123456789abcdef",
        python="3.11.7",
        versions={},
        device="cpu: a processor",
        threads=2,
        dtype="float32",
    ),
    setting=BenchmarkSetting(
        run="runs/x",
        source="EmbeddedCatalog",
        items=140,
        levels=4,
        target_parameters=13_100_000,
        draft_parameters=1_200_000,
        pack_weights=True,
    ),
    rows=[*methods(1), *methods(20)],
    curves=[
        *(row("N", "ModelDrafter", 20, 1 - width / 200, draft_beams=width) for width in (20, 40, 80)),
        *(
            row("T", "ModelDrafter", 20, 1 + value, verification="relaxed", temperature=value, recall=0.04 - value / 50)
            for value in (0.25, 0.5, 1.0)
        ),
    ],
    coverage=[CoverageRow(level=1, num_beams=20, draft_beams=40, coverage=0.5)],
    predictions=Predictions(call_price=None, median_error=None, rows=[]),
    copy_gb_per_second=20.0,
)


def test_the_figures_show_what_was_measured() -> None:
    drawn_pictures = draw_pictures(RESULT)
    assert drawn_pictures[1].title == "Target calls against draft width at K = 20"
    pictures = {picture.name: picture.figure for picture in drawn_pictures}
    assert list(pictures) == PICTURES
    plain, generate = pictures["speedup"].axes
    drawn = {(panel, tuple(line.get_ydata())) for panel in (plain, generate) for line in panel.lines[1:]}
    assert {ys for panel, ys in drawn if panel is plain} == {(0.25, 0.25), (1, 1), (1.5, 1.5), (0.8, 0.8)}
    assert {ys for panel, ys in drawn if panel is generate} == {(1, 1), (4, 4), (6, 6), (3.2, 3.2)}
    calls, latency = pictures["draft_width"].axes
    assert list(calls.lines[0].get_xdata()) == [20, 40, 80]
    assert list(latency.lines[0].get_ydata()) == pytest.approx([20 / 0.9, 20 / 0.8, 20 / 0.6])
    (tradeoff,) = pictures["tradeoff"].axes
    assert [text.get_text() for text in tradeoff.texts] == ["T = 0.25", "T = 0.5", "T = 1"]
    assert list(tradeoff.lines[-3].get_xdata()) == [1.25, 1.5, 2.0]  # a line with its two rows of caps
    (phases,) = pictures["phases"].axes
    assert [bar.get_width() for bar in phases.containers[0]] == pytest.approx([0.6] * 3)
    first = pictures["acceptance"].axes[0]
    assert [text.get_text() for text in first.texts] == ["0.90", "0.12", "–"] * 2


def test_what_bounded_and_relaxed_verification_lose_is_shown_beside_what_they_save() -> None:
    losses = {"recall_difference": -0.001, "recall_difference_interval": 0.002}
    bounded = [
        row(
            "ε",
            "ModelDrafter",
            20,
            1 + value,
            verification="bounded",
            epsilon=value,
            target_calls=2 - value,
            overlap_with_plain=1 - value,
            exact_share=0.7,
            **losses,
        )
        for value in (0.1, 0.05)
    ]
    result = replace(RESULT, curves=[*bounded, *RESULT.curves])
    pictures = {picture.name: picture.figure for picture in draw_pictures(result)}
    (tradeoff,) = pictures["tradeoff"].axes
    assert [text.get_text() for text in tradeoff.texts] == ["ε = 0.05", "ε = 0.1", "T = 0.25", "T = 0.5", "T = 1"]
    items, recall = pictures["losses"].axes
    lines = {tuple(line.get_xdata()): tuple(line.get_ydata()) for line in items.lines}
    assert lines[1.95, 1.9] == (0.95, 0.9)
    assert {tuple(line.get_ydata()) for line in recall.lines} >= {(-0.001, -0.001), (-0.003, -0.003), (0.001, 0.001)}
    table = tables_of(result)[2]
    assert [str(cell) for cell in table.columns[0].cells] == ["ε", "ε", "T", "T", "T"]
    first = [next(iter(column.cells)) for column in table.columns]
    assert first[1:7] == ["20", "1", "1.90", "1.10", "0.900", "0.700"]
    assert first[7:] == ["0.0300 ± 0.0196", "-0.0010 ± 0.0020", "0.0100 ± 0.0098", "+0.0000 ± 0.0000"]


def test_without_a_claim_of_equality_the_page_says_what_differs_and_how_models_were_made(tmp_path: Path) -> None:
    sizes = {"hidden_size": 768, "num_hidden_layers": 2}
    grown = GrownFrom("Exported(stage='target')", 13_100_000, sizes, {"hidden_size": 4096, "num_hidden_layers": 2})
    setting = replace(RESULT.setting, tie_tolerance=0.15, target_grown=grown)
    strict = {"identical_to_hf": 0.9, "near_ties": 4, "overlap_with_hf": 0.99}
    rows = [replace(one, **strict) if one.verification == "strict" else one for one in RESULT.rows]
    result = replace(RESULT, setting=setting, rows=rows, environment=replace(RESULT.environment, dtype="bfloat16"))
    write_report(result, tables_of(result), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert (
        "The target grown from Exported(stage=&#x27;target&#x27;) of 13.1 M parameters (hidden_size 768 → 4096, "
        "num_hidden_layers 2); the function is that of the small model." in page
    )
    assert "Of all strict answers, 90.0% were those of transformers.generate, in the same order, and 99.0% of" in page
    assert "Of 30 answers that differ, changes of scores by 0.15 explain 24. No answer has an illegal or a rep" in page
    agreement = tables_of(result)[3]
    assert [next(iter(column.cells)) for column in agreement.columns][3:7] == ["0.900", "0.9900", "5", "4"]
    assert not any(str(table.title).startswith("agreement") for table in tables_of(RESULT))


def test_what_only_a_gpu_tells_is_shown_where_it_was_measured() -> None:
    def headers(table: Table) -> list[str]:
        return [str(column.header) for column in table.columns]

    on_gpu = {"execution", "by events", "p90 by events", "peak GB"}
    methods_table, floors = tables_of(RESULT)[0], tables_of(RESULT)[3]
    assert not on_gpu & {*headers(methods_table)}
    assert str(floors.title).startswith("a batch beside its floor, in ms: one read of the weights a call at 20 GB/s")
    assert headers(floors)[-1] == "engine"
    plain = [next(iter(column.cells)) for column in floors.columns]
    assert plain[3:] == ["20.00", "4.00", "10.00", "1.00", "2.00", "50.0%", "5.0%", "45.0%"]
    replayed = {"execution": "Captured", "device_ms": Latency(9.5, 9.6, 12.25), "peak_memory_gb": 14.5}
    replayed |= {"capture_seconds": 2.5, "kernel_ms": 19.0}
    rows = [replace(one, **replayed) if one.method == "plain" else one for one in RESULT.rows]
    methods_table, *_, floors = tables_of(replace(RESULT, rows=rows))[:4]
    assert on_gpu <= {*headers(methods_table)}
    (cells,) = {tuple(list(column.cells)[1] for column in methods_table.columns if column.header in on_gpu)}
    assert cells == ("Captured", "9.5", "12.2", "14.50")
    assert [list(column.cells)[:2] for column in floors.columns][-2:] == [["5.0%", "–"], ["2.5", "–"]]


def test_the_line_of_a_method_shows_how_its_answers_were_verified() -> None:
    verified = {"strict": "-", "bounded": "-.", "relaxed": "--", "lossless": ":"}
    others = [row(name, "ModelDrafter", 20, 3.0, verification=name) for name in verified]
    picture = draw_pictures(replace(RESULT, rows=[*methods(20), *others]))[0]
    drawn = [line.get_linestyle() for line in picture.figure.axes[0].lines]
    assert drawn[-len(verified) :] == list(verified.values())
    assert "dash-dotted ones bounded" in picture.caption


@pytest.mark.parametrize(
    ("replaced", "missing"),
    [
        ({"curves": []}, {"draft_width", "tradeoff", "losses"}),
        ({"curves": RESULT.curves[:3]}, {"tradeoff", "losses"}),
        ({"curves": RESULT.curves[3:]}, {"draft_width"}),
        ({"rows": methods(20)[:2], "curves": []}, {"draft_width", "tradeoff", "losses", "acceptance"}),
    ],
)
def test_what_was_not_measured_has_no_picture(replaced: dict[str, Any], missing: set[str]) -> None:
    pictures = draw_pictures(replace(RESULT, **replaced))
    assert [picture.name for picture in pictures] == [name for name in PICTURES if name not in missing]


def test_the_page_needs_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "figure-of_an_earlier_report.png").touch()
    files = write_report(RESULT, tables_of(RESULT), tmp_path)
    assert set(files) == {tmp_path / "report.html", *tmp_path.glob("*.png")}
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)
    embedded = re.findall(r'<img alt="[^"]+" src="data:image/png;base64,([^"]+)">', page)
    assert page.count("<img") == len(embedded) == len(PICTURES)
    assert [base64.b64decode(data) for data in embedded] == [file.read_bytes() for file in files[1:]]
    assert page.count("<table>") == len(tables_of(RESULT))
    assert "Fastest exact method at K = 20, one request at a time: trie, 13.3 ms" in page
    assert page.count("a &lt;b&gt; folder") == 2  # the command, and the environment below it
    assert "<b>" not in page
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["images"] == [f"benchmark/{name}" for name in PICTURES]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
def test_a_browser_shows_the_page(tmp_path: Path) -> None:
    write_report(RESULT, tables_of(RESULT), tmp_path)
    page = tmp_path / "report.html"
    seen = """{images: [...document.images].map(image => image.naturalWidth),
               tables: [...document.querySelectorAll("tbody")].map(body => [body.rows.length, body.offsetHeight]),
               width: document.body.scrollWidth}"""
    script = f"<script>onload = () => document.title = JSON.stringify({seen})</script></body>"
    page.write_text(page.read_text().replace("</body>", script))
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, "--window-size=1200,900", "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=240
    )
    (title,) = re.findall(r"<title>(.*?)</title>", done.stdout)
    shown = json.loads(title)
    assert len(shown["images"]) == len(PICTURES)
    assert min(shown["images"]) > 300
    assert [rows for rows, _ in shown["tables"]] == [8, 6, 3, 6, 6, 1]
    assert all(height > 10 * rows for rows, height in shown["tables"])
    assert shown["width"] <= 1200, "nothing but a table may be wider than the window"
