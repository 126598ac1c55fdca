"""The benchmark's report: one HTML page that needs no other file, its figures as PNG files and in TensorBoard."""

import base64
import json
import shlex
import statistics
from dataclasses import asdict
from html import escape
from pathlib import Path

from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from atspeed.benchmark.report.figures import Picture, draw_pictures
from atspeed.benchmark.report.tables import num_differing, sentences_on_growth
from atspeed.benchmark.rows import BenchmarkResult
from atspeed.panels import save_figure

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 1080px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.7em; margin-bottom: 0 } h2 { font-size: 1.25em; margin: 2em 0 .3em }
.setting, figcaption, caption { color: #57606a } figure { margin: 0 } img { max-width: 100%; height: auto }
.summary { background: #f0f6ff; border-left: 4px solid #1f77b4; padding: .7em 1em; margin: 1.2em 0 }
.wide { overflow-x: auto } pre { white-space: pre-wrap }
table { border-collapse: collapse; font-size: .82em; margin: .5em 0 1.5em; font-variant-numeric: tabular-nums }
caption, th, td { white-space: nowrap } caption { text-align: left; padding-bottom: .4em }
th, td { padding: .2em .7em }
th { border-bottom: 2px solid #57606a } .right { text-align: right } .left { text-align: left }
tr.end td { border-bottom: 1px solid #afb8c1 } tbody tr:hover { background: #f6f8fa }
"""


def write_report(result: BenchmarkResult, tables: list[Table], folder: Path) -> list[Path]:
    """Write ``report.html``, the PNG files that it holds inline, and the same figures for TensorBoard.

    Args:
        result: the content of ``benchmark.json``.
        tables: what the page shows below the figures.
        folder: where to write; figures of an earlier report are removed.

    Returns:
        the page and the PNG files.
    """
    pictures = draw_pictures(result)
    for old in folder.glob("figure-*.png"):
        old.unlink()
    files = [folder / f"figure-{picture.name}.png" for picture in pictures]
    with SummaryWriter(str(folder)) as writer:
        for picture, file in zip(pictures, files, strict=True):
            save_figure(picture.figure, file)
            writer.add_figure(f"benchmark/{picture.name}", picture.figure)
    page = folder / "report.html"
    shown = [_figure(picture, file) for picture, file in zip(pictures, files, strict=True)]
    page.write_text(_page(result, shown, [_table(table) for table in tables]), encoding="utf-8")
    return [page, *files]


def _page(result: BenchmarkResult, figures: list[str], tables: list[str]) -> str:
    environment, setting = result.environment, result.setting
    draft = setting.draft_parameters
    models = f"target of {setting.target_parameters / 1e6:.1f} M parameters" + (
        f", draft of {draft / 1e6:.1f} M" if draft else ""
    )
    facts = (
        f"{setting.source}, {setting.items:,} items, {setting.levels} levels · {models} · "
        f"{result.rows[0].requests} requests · {environment.device}, {environment.threads} threads, "
        f"{environment.dtype} · commit {(environment.commit or 'unknown')[:9]}"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>atspeed benchmark: {escape(setting.source)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>atspeed benchmark</h1>
<p class="setting">{escape(facts)}</p>
{"".join(f'<p class="setting">The {escape(sentence)}.</p>' for sentence in sentences_on_growth(setting))}
<p class="summary">{escape(_summary(result))}</p>
{"".join(figures)}
<h2>Tables</h2>
{"".join(tables)}
<details>
<summary>How it was measured</summary>
<p>Command: <code>{escape(shlex.join(environment.command))}</code></p>
<pre>{escape(json.dumps({"environment": asdict(environment), "setting": asdict(setting)}, indent=2))}</pre>
</details>
</body>
</html>
"""


def _summary(result: BenchmarkResult) -> str:
    """Return what a reader should remember: the fastest exact method at the largest beam width."""
    exact = [row for row in result.main_rows if row.verification == "strict"]
    best = min(exact, key=lambda row: row.latency_ms.median)
    calls = {row.method: row.target_calls for row in exact if row.target_calls is not None}
    fewest = min(calls, key=lambda method: calls[method])
    size = f"batches of {result.batch_size}" if result.batch_size > 1 else "one request at a time"
    over_plain = f" and {best.speedup_vs_plain:.2f} × as fast as plain beam search of this engine"
    return (
        f"Fastest exact method at K = {result.num_beams}, {size}: {best.method}, {best.latency_ms.median:.1f} ms "
        f"(median), {best.speedup_vs_hf:.2f} × as fast as transformers.generate"
        f"{over_plain if best.method != 'plain' else ''}. "
        f"Fewest target calls: {fewest}, {calls[fewest]:.2f} per request. {_agreement(result)}"
    )


def _agreement(result: BenchmarkResult) -> str:
    """Return how strict answers agree with those of ``transformers.generate``."""
    strict = [row for row in result.rows if row.verification == "strict"]
    identical = statistics.mean(row.identical_to_hf or 0 for row in strict)
    same = f"Of all strict answers, {identical:.1%} were those of transformers.generate, in the same order"
    if result.setting.tie_tolerance is None:
        return f"{same}."
    overlap = statistics.mean(row.overlap_with_hf for row in strict)
    differing, near_ties = sum(map(num_differing, strict)), sum(row.near_ties or 0 for row in strict)
    noise = max(row.rounding_noise or 0 for row in strict)
    strange = max(max(row.illegal_rate, row.duplicate_rate) for row in result.rows)
    return (
        f"{same}, and {overlap:.1%} of the items the same: in {result.environment.dtype} rounding may swap what scores "
        f"nearly the same. Of {differing} answers that differ, the observed noise explains {near_ties}: scores "
        f"changed by up to {noise:.2g}. "
        + ("No answer has an illegal or a repeated item." if not strange else f"Illegal or repeated: {strange:.1%}.")
    )


def _figure(picture: Picture, file: Path) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    return (
        f"<h2>{escape(picture.title)}</h2>\n<figure>\n"
        f'<img alt="{escape(picture.title)}" src="data:image/png;base64,{data}">\n'
        f"<figcaption>{escape(picture.caption)}</figcaption>\n</figure>\n"
    )


def _table(table: Table) -> str:
    """Return a table of the terminal as HTML."""
    head = "".join(f'<th class="{column.justify}">{escape(str(column.header))}</th>' for column in table.columns)
    body = []
    for number, row in enumerate(table.rows):
        cells = ((column.justify, list(column.cells)[number]) for column in table.columns)
        inner = "".join(f'<td class="{justify}">{escape(str(cell))}</td>' for justify, cell in cells)
        body.append(f'<tr class="{"end" if row.end_section else "row"}">{inner}</tr>')
    return (
        f'<div class="wide"><table><caption>{escape(str(table.title))}</caption>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{chr(10).join(body)}\n</tbody></table></div>\n"
    )
