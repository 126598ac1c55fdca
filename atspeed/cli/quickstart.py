"""All stages in order, on one data set."""

import argparse
import time
from collections.abc import Callable
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
        epilog="Options that start with --data. go to every stage, e.g. --data.source AtSpeedLayout "
        "--data.source.root DIR; without them, the embedded catalog is used.",
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

    from atspeed.models import model_folder  # not for --help: it imports torch

    out, start = options.out, time.perf_counter()
    _say(f"quickstart trains {', '.join(STAGES)} and runs the benchmark: {DURATION} with the embedded catalog")
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
    begin = time.perf_counter()
    main(["benchmark", *_config("benchmark"), "--out", str(out), *data])
    _say(f"benchmark: done in {time.perf_counter() - begin:.0f} s")
    _say(
        f"everything: done in {time.perf_counter() - start:.0f} s\n"
        f"models (Hugging Face format): {out}/{{{','.join(STAGES)}}}/model\n"
        f"figures: {out}/benchmark\n"
        f"curves: tensorboard --logdir {out}"
    )


def _config(name: str) -> list[str]:
    """Return the options of a config that comes with the package, and those that quickstart adds to it."""
    return ["--config", str(CONFIGS / f"{name}.yaml"), *SETTINGS.get(name, [])]


def _say(line: str) -> None:
    print(line, flush=True)
