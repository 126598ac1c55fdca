"""All stages in order, on one data set."""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from atspeed.cli.overview import COMMANDS, PROGRAM
from atspeed.cli.shipped_configs import CONFIGS

STAGES: dict[str, set[str]] = {"target": set(), "draft": set(), "strict": {"target", "draft"}}
"""Stages in order, and the stages whose models each of them starts from."""
METHODS = """
trie: {drafter: {class_path: TrieDrafter, init_args: {max_nodes: 256}}}
draft: {drafter: {class_path: ModelDrafter, init_args: {draft_beams: 40, gamma: 3}}}
price_aware: {drafter: {class_path: PriceAwareDrafter, init_args: {batch_size: 1}}}
"""
WARM_UP = ["--model.warmup_steps", "20"]  # the configs' would last longer than the few steps here
SETTINGS: dict[str, list[str]] = {
    "target": WARM_UP,
    "draft": WARM_UP,
    "strict": [  # of the best alignment what pays in so few steps, with the target online
        *("--config", str(CONFIGS / "losses" / "best.yaml"), *WARM_UP),
        *("--model.num_beams", "20", "--data.cuts", "last", "--data.max_tokens", "2048"),
    ],
    "benchmark": [
        *("--methods", METHODS, "--num_beams", "[1, 20]", "--num_requests", "30"),
        *("--draft_widths", "[]", "--epsilons", "[]", "--temperatures", "[]", "--coverage_beams", "[20, 40, 80]"),
    ],
}
"""Options that quickstart adds to the config of a stage, or of the benchmark."""
DURATION = "about 2 minutes on 2 CPU cores"
"""How long everything takes on the embedded catalog."""


def quickstart(args: list[str], main: Callable[[list[str]], None]) -> None:
    """Train a target and a draft, align the draft, and benchmark them, all in one run folder.

    Args:
        args: the options of the command.
        main: runs a command line of atspeed.
    """
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} quickstart",
        description=f"{COMMANDS['quickstart']} Takes {DURATION} with the embedded catalog. Rerunning skips finished "
        "stages, unless a stage that they start from was trained again, and resumes an interrupted one from its last "
        "checkpoint.",
        epilog="Options that start with --data. go to every stage, e.g. --data.source Interactions --data.source.path "
        "ratings.csv; without them, the embedded catalog is used. A data set is prepared first (python -m atspeed "
        "prepare); items without semantic IDs get some from the interactions (python -m atspeed semantic-ids).",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/quickstart"), help="the run folder (default: %(default)s)"
    )
    options, data = parser.parse_known_args(args)
    strange = [word for word in data if word.startswith("-") and not word.startswith("--data.")]
    if strange or (data and not data[0].startswith("-")):
        parser.error(
            f"unrecognised arguments {strange or data}: only --out and --data.… are taken; for more, run the stages"
        )

    out, start = options.out, time.perf_counter()
    _say(f"quickstart trains {', '.join(STAGES)} and runs the benchmark: {DURATION} with the embedded catalog")
    if any(option.startswith("--data.source") for option in data):
        data = _prepare(out, data, main)
    train_stages(out, data, main)
    begin = time.perf_counter()
    main(["benchmark", *_config("benchmark"), "--out", str(out), *data])
    _say(f"benchmark: done in {time.perf_counter() - begin:.0f} s")
    begin = time.perf_counter()
    main(["test", *_config("recommend"), "--trainer.default_root_dir", str(out), *data])
    _say(f"test: done in {time.perf_counter() - begin:.0f} s")
    _say(
        f"everything: done in {time.perf_counter() - start:.0f} s\n"
        f"models (Hugging Face format): {out}/{{{','.join(STAGES)}}}/model\n"
        f"figures: {out}/benchmark\n"
        f"curves: tensorboard --logdir {out}"
    )


def train_stages(out: Path, data: list[str], main: Callable[[list[str]], None]) -> None:
    """Train target and draft and align the draft, in a run folder; what is there and up to date is skipped.

    Args:
        out: the run folder.
        data: options that name the data.
        main: runs a command line of atspeed.
    """
    from atspeed.models import model_folder  # not for --help: it imports torch

    trained: set[str] = set()
    for stage, inputs in STAGES.items():
        folder = model_folder(out, stage)
        outdated = bool(inputs & trained)
        if folder.is_dir() and not outdated:
            _say(f"{stage}: skipped, {folder} exists")
            continue
        begin = time.perf_counter()
        interrupted = not outdated and (out / stage / "checkpoints" / "last.ckpt").exists()
        resume = ["--ckpt_path", "last"] if interrupted else []
        main(["fit", *_config(stage), "--trainer.default_root_dir", str(out), *data, *resume])
        trained.add(stage)
        _say(f"{stage}: {'resumed and ' if interrupted else ''}done in {time.perf_counter() - begin:.0f} s")


def _prepare(out: Path, data: list[str], main: Callable[[list[str]], None]) -> list[str]:
    """Prepare a data set, with semantic IDs if it has none, and return the options that name it then."""
    import pyarrow.parquet as pq  # not for --help

    options = list(_options(data))
    source = [word for option in options if option[0].startswith("--data.source") for word in option]
    other = [word for option in options if not option[0].startswith("--data.source") for word in option]
    folder, sids = out / "data", out / "semantic-ids"
    main(["prepare", *source, "--out", str(folder)])
    prepared = ["--data.source", "Prepared", "--data.source.root", str(folder)]
    items = pq.ParquetFile(folder / "items.parquet")
    if "sid" not in items.schema_arrow.names:
        if not (sids / "sids.parquet").is_file():
            main(["semantic-ids", *prepared, "--out", str(sids), "--codes", str(num_codes(items.metadata.num_rows))])
        prepared += ["--data.source.sids", str(sids / "sids.parquet")]
    return prepared + other


def _options(words: list[str]) -> Iterator[list[str]]:
    """Yield each option of a command line with its values."""
    starts = [index for index, word in enumerate(words) if word.startswith("--")]
    for start, end in zip(starts, [*starts[1:], len(words)], strict=True):
        yield words[start:end]


def num_codes(num_items: int) -> int:
    """Return how many codes a level gets: about as many as a code has items below it, so that both can be learned.

    >>> num_codes(1_682), num_codes(12_000), num_codes(1_000_000)
    (32, 128, 256)
    """
    return min(256, 2 ** round(math.log2(max(num_items, 16)) / 2))


def _config(name: str) -> list[str]:
    """Return the options of a config that comes with the package, and those that quickstart adds to it."""
    return ["--config", str(CONFIGS / f"{name}.yaml"), *SETTINGS.get(name, [])]


def _say(line: str) -> None:
    print(line, flush=True)
