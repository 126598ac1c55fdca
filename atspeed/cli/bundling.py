"""The command that writes a bundle, and the option by which other commands read one."""

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from lightning.pytorch.cli import LightningArgumentParser

from atspeed.catalog.item_catalog import POPULARITY
from atspeed.cli.messages import fail
from atspeed.cli.overview import COMMANDS, PROGRAM
from atspeed.cli.shipped_configs import CONFIGS
from atspeed.cli.trainer_cli import AtSpeedCLI
from atspeed.models import Int8, ModelSource, WeightOnly
from atspeed.modules import Inference
from atspeed.recommender import Bundle, BundleSettings, write_bundle
from atspeed.recommender.saved_parts import part_to_json

log = logging.getLogger(__name__)

OPTION = "--bundle"
BUNDLE_HELP = f"""\
usage: {PROGRAM} bundle --config recommend.yaml --out FOLDER [options of predict]

{COMMANDS["bundle"]}

Takes the config and the options of a prediction, and an overlay of tune if there is one:

  {PROGRAM} bundle --config recommend.yaml --config runs/beauty/tune/recommend.yaml --out recommender

The folder appears when it is complete; an older bundle at its path is replaced. --bundle FOLDER of test, predict,
benchmark and serve reads it, and so does atspeed.Recommender.load."""


class BundleCLI(AtSpeedCLI):
    """The objects of a prediction, and where the bundle goes."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the option that a prediction does not have."""
        parser.add_argument("--out", type=Path, required=True, help="the folder to write")


def bundle(args: list[str]) -> None:
    """Write a bundle.

    Args:
        args: the options of a prediction, and ``--out``.
    """
    if args in ([], ["-h"], ["--help"]):
        print(BUNDLE_HELP)
        return
    cli = BundleCLI(args, run=False)
    module, data, out = cli.model, cli.datamodule, cli.config.out
    if not isinstance(module, Inference):
        raise TypeError(f"bundle needs the config of an Inference (recommend.yaml), not of a {type(module).__name__}")
    data.setup()
    items = data.dataset.items
    if POPULARITY not in items.column_names:
        items = items.append_column(POPULARITY, pa.array(data.dataset.popularity))
    settings = BundleSettings(
        prompt=data.prompt,
        draft_prompt=data.draft_prompt,
        drafter=module.drafter,
        verifier=module.verifier,
        num_beams=module.num_beams,
        normalize=module.normalize,
        max_history=data.max_history,
        batch_size=data.batch_size,
        exclude_seen=module.exclude_seen,
    )
    dtype = "bfloat16" if str(cli.trainer.precision) == "bf16-true" else None
    write_bundle(
        out, settings, items, module.target_source, module.draft_source, Path(cli.trainer.default_root_dir), dtype
    )
    if module.execution is not None:
        log.info(
            "a bundle does not say how searches are run; name model.execution again when it is served: --execution"
        )
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    log.info("wrote the bundle %s: %d items, %.1f MB", out, items.num_rows, size / 1e6)


def with_bundle(command: str, args: list[str]) -> list[str]:
    """Return the options of a command with ``--bundle FOLDER`` replaced by the configs that stand for it.

    Args:
        command: ``test``, ``predict`` or ``benchmark``.
        args: its options. What comes after ``--bundle`` overrides the bundle's settings.
    """
    words = [word for arg in args for word in (arg.split("=", 1) if arg.startswith(f"{OPTION}=") else [arg])]
    if OPTION not in words:
        return args
    at = words.index(OPTION)
    if at + 1 == len(words) or OPTION in words[at + 1 :]:
        fail(f"{OPTION} takes the folder of one bundle", f"{PROGRAM} {command}")
    needed = "--data.histories" if command == "predict" else "--data.source"
    if not any(word.partition("=")[0] in (needed, "--data.source") for word in words):
        fail(f"{command} {OPTION} needs {needed}: a bundle has items, but no users", f"{PROGRAM} {command}")
    folder = Bundle(Path(words[at + 1]))
    base = [] if command == "benchmark" else ["--config", str(CONFIGS / "recommend.yaml")]
    overlay = yaml.safe_dump(_overlay(folder, command), default_flow_style=True, width=10**9).strip()
    return [*words[:at], *base, "--config", overlay, *words[at + 2 :]]


def _overlay(bundle: Bundle, command: str) -> dict[str, Any]:
    """Return a config with the settings of a bundle."""
    settings = bundle.settings
    models: dict[str, Any] = {"target": _source_config(bundle.source("target")), "draft": None}
    if bundle.has_draft:
        models["draft"] = _source_config(bundle.source("draft"))
    method = {"drafter": part_to_json(settings.drafter), "verifier": part_to_json(settings.verifier)}
    data: dict[str, Any] = {
        "prompt": part_to_json(settings.prompt),
        "draft_prompt": part_to_json(settings.draft_prompt) if settings.draft_prompt else None,
        "max_history": settings.max_history,
        "batch_size": settings.batch_size,
    }
    if command == "benchmark":
        del data["batch_size"]
        return {**models, "methods": {"bundle": method}, "num_beams": [settings.num_beams], "data": data}
    if command == "predict":
        data["source"] = {"class_path": "BundledItems", "init_args": {"root": str(bundle.folder)}}
    answering = {name: getattr(settings, name) for name in ("num_beams", "normalize", "exclude_seen")}
    metrics_at = sorted({k for k in (5, 10, 20) if k < settings.num_beams} | {settings.num_beams})
    init_args = {**models, **method, **answering, "metrics_at": metrics_at}
    return {"model": {"class_path": "Inference", "init_args": init_args}, "data": data}


def _source_config(source: ModelSource) -> dict[str, Any]:
    if isinstance(source, (Int8, WeightOnly)):
        return {"class_path": type(source).__name__, "init_args": {**vars(source), "base": part_to_json(source.base)}}
    return part_to_json(source)
