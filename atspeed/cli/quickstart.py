"""All stages in order, on one data set."""

import argparse
import time
from pathlib import Path

from rich.console import Console

from atspeed.models import model_folder

STAGES: dict[str, set[str]] = {"target": set(), "draft": set(), "strict": {"target", "draft"}}
"""Stages in order, and the stages whose models each of them starts from."""
SETTINGS = {"strict": ["--model.alpha", "1.0"]}
"""Options beside a stage's config. With the paper's α = 0.7 a draft gains a third of that (docs/alignment.md)."""


def configs_folder() -> Path:
    """Return the folder of the configs."""
    return Path(__file__).parents[1] / "configs"


def quickstart(args: list[str]) -> None:
    """Train a target and a draft, align the draft, and measure: everything once, in one run folder.

    Stages whose model is already there are passed over, unless a stage that they start from was trained anew; one that
    was killed goes on from its last checkpoint.
    """
    from atspeed.cli.main import main  # the command line runs this function, and this function runs command lines

    parser = argparse.ArgumentParser(
        prog="python -m atspeed quickstart",
        description=quickstart.__doc__,
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

    console = Console()
    start = time.perf_counter()
    trained: set[str] = set()
    for stage, inputs in STAGES.items():
        folder = model_folder(options.out, stage)
        outdated = bool(inputs & trained)
        if folder.is_dir() and not outdated:
            console.print(f"[bold]{stage}[/bold]: {folder} is there, passed over")
            continue
        begin = time.perf_counter()
        console.print(f"[bold]{stage}[/bold]: training")
        killed = not outdated and (options.out / stage / "checkpoints" / "last.ckpt").exists()
        resume = ["--ckpt_path", "last"] if killed else []
        config = ["--config", str(configs_folder() / f"{stage}.yaml"), "--trainer.default_root_dir", str(options.out)]
        main(["fit", *config, *SETTINGS.get(stage, []), *data, *resume])
        trained.add(stage)
        console.print(f"[bold]{stage}[/bold]: done in {time.perf_counter() - begin:.0f} s")
    main(["benchmark", "--config", str(configs_folder() / "benchmark.yaml"), "--out", str(options.out), *data])
    console.print(
        f"all in {time.perf_counter() - start:.0f} s; models (Hugging Face format) in "
        f"{options.out}/{{{','.join(STAGES)}}}/model, figures in {options.out}/benchmark, curves with: "
        f"tensorboard --logdir {options.out}"
    )
