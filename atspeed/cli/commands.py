"""The commands: LightningCLI for fit, validate, test and predict, and those that are not Trainer runs."""

import logging
import sys
import warnings
from typing import Any

import transformers
from lightning.pytorch.callbacks import ProgressBar

from atspeed.cli.bundling import bundle, with_bundle
from atspeed.cli.messages import FAILURE
from atspeed.cli.overview import COMMANDS, PROGRAM, TRAINER_COMMANDS, usage
from atspeed.cli.parser import PARSER_SETTINGS, DataOfConfig, Parser, add_config_option, construct
from atspeed.cli.serve import serve
from atspeed.cli.show_prompt import PromptDisplay
from atspeed.cli.trainer_cli import AtSpeedCLI
from atspeed.data import InteractionSource, RecommendationData
from atspeed.modules import Alignment, TargetCaching

log = logging.getLogger(__name__)

IRRELEVANT_WARNINGS = (
    "LightningCLI's args parameter",  # quickstart runs command lines
    ".*LeafSpec.*is deprecated",
    ".*does not have many workers",  # batches are made in less time than it takes to hand them over
    ".*in eval mode at the start of training",  # the frozen target
    ".*ended before the epoch ended",  # the sampler skips the batches that are done
    "Total length of `DataLoader` across ranks is zero",  # cache-target has nothing left to do
    ".*within local rank has zero length",  # or not for every process
)


def run(args: list[str]) -> None:
    """Run a command line.

    Args:
        args: a command (not ``quickstart``, which runs others) and its options; LightningCLI also takes a config for
            all its commands before them.
    """
    quiet()
    command = args[0]
    if command in ("test", "predict", "benchmark"):
        args = [command, *with_bundle(command, args[1:])]
    if command == "cache-target":
        cache_target(args[1:])
    elif command == "serve":
        serve(args[1:], run)
    elif command == "bundle":
        bundle(args[1:])
    elif command in ("prepare", "semantic-ids"):
        run_preparation(command, args[1:])
    elif command == "show-prompt":
        show_prompt(args[1:])
    elif command == "doctor":
        run_doctor(args[1:])
    elif command in COMMANDS.keys() - TRAINER_COMMANDS.keys():
        run_benchmark(command, args[1:])
    else:
        AtSpeedCLI(args)


def quiet() -> None:
    """Show the log lines of this project, and only the warnings of libraries that ask for action."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric", "httpx", "faiss"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("DeepSpeed").addFilter(_asks_for_action)  # once: quickstart runs several commands
    transformers.utils.logging.disable_progress_bar()  # loading takes less than two seconds
    for message in IRRELEVANT_WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def _asks_for_action(record: logging.LogRecord) -> bool:
    return "Setting accelerator to CPU" not in record.getMessage()


def run_benchmark(command: str, args: list[str]) -> None:
    """Run a command that measures: ``benchmark``, ``benchmark-alignment``, ``benchmark-catalogs`` or ``tune``."""
    from atspeed import benchmark

    cls = {
        "benchmark": benchmark.Benchmark,
        "benchmark-alignment": benchmark.AlignmentBenchmark,
        "benchmark-catalogs": benchmark.CatalogBenchmark,
        "tune": benchmark.Tuner,
    }[command]
    parser = Parser(prog=f"{PROGRAM} {command}", description=COMMANDS[command], **PARSER_SETTINGS)
    parser.add_class_arguments(cls, None)
    if command != "benchmark-catalogs":  # which makes its data up
        parser.usage = usage(command)
        add_config_option(parser, f"a YAML file, such as {command}.yaml")
        parser.add_class_arguments(RecommendationData, "data")
    objects = parser.instantiate(parser.parse_args(args)).as_dict()
    objects.pop("config", None)
    inputs = [objects.pop("data")] if "data" in objects else []
    construct(cls, **objects).run(*inputs)


def run_preparation(command: str, args: list[str]) -> None:
    """Run a command that works on a data set before it is trained on: ``prepare`` or ``semantic-ids``."""
    from atspeed.preparation import Preparation, SemanticIds

    cls = {"prepare": Preparation, "semantic-ids": SemanticIds}[command]
    parser = Parser(prog=f"{PROGRAM} {command}", description=COMMANDS[command], **PARSER_SETTINGS)
    parser.usage = f"{PROGRAM} {command} --data.source CLASS --out FOLDER [options]"
    add_config_option(parser, "a YAML file with these settings")
    parser.add_subclass_arguments(InteractionSource, "data.source", required=True, help="the data set, as for fit")
    parser.add_class_arguments(cls, None)
    objects = parser.instantiate(parser.parse_args(args))
    del objects["config"]
    source = objects.pop("data").source
    construct(cls, **objects.as_dict()).run(source)


def show_prompt(args: list[str]) -> None:
    """Print a user's prompt, for the data and prompts of any config."""
    parser = Parser(prog=f"{PROGRAM} show-prompt", description=COMMANDS["show-prompt"], **PARSER_SETTINGS)
    parser.usage = f"{usage('show-prompt')} --user USER"
    add_config_option(parser, "a YAML file, of any command, whose data is read", DataOfConfig)
    parser.add_class_arguments(PromptDisplay, None)
    parser.add_class_arguments(RecommendationData, "data")
    objects = parser.instantiate(parser.parse_args(args))
    PromptDisplay(objects.user).run(objects.data)


def run_doctor(args: list[str]) -> None:
    """Check a checkpoint, for the data and the prompt of any config; exit with 1 if a check failed."""
    from atspeed.doctor import Doctor

    parser = Parser(prog=f"{PROGRAM} doctor", description=COMMANDS["doctor"], **PARSER_SETTINGS)
    parser.usage = f"{PROGRAM} doctor --target FOLDER --data.source CLASS [options]"
    add_config_option(parser, "a YAML file, of any command, whose data is read", DataOfConfig)
    parser.add_class_arguments(Doctor, None)
    parser.add_class_arguments(RecommendationData, "data")
    objects = parser.instantiate(parser.parse_args(args)).as_dict()
    objects.pop("config")
    data = objects.pop("data")
    if not construct(Doctor, **objects).run(data):
        sys.exit(FAILURE)


def cache_target(args: list[str]) -> None:
    """Write the frozen target's beams and scores for the training prompts, for alignment without the target.

    Rerunning skips what exists, so it resumes a run that was killed.

    Args:
        args: the options of a fit.
    """
    if args in (["-h"], ["--help"]):
        print(CACHE_TARGET_HELP)
        return
    cli = AtSpeedCLI(args, run=False)
    if not isinstance(cli.model, Alignment):
        raise TypeError(f"cache-target needs the config of an Alignment, not of a {type(cli.model).__name__}")
    trainer: Any = cli.trainer
    # the other callbacks serve the fit, and would overwrite its records
    trainer.callbacks = [each for each in trainer.callbacks if isinstance(each, ProgressBar)]
    caching = TargetCaching(cli.model, cli.datamodule)
    trainer.predict(caching, return_predictions=False)
    trainer.strategy.barrier()  # other processes may still be writing
    caching.cache.require_complete()
    if trainer.is_global_zero:
        log.info("the target cache %s is complete: %.1f MB", caching.cache.folder, caching.cache.num_bytes / 1e6)


CACHE_TARGET_HELP = f"""\
usage: {PROGRAM} cache-target --config FILE [options of fit]

{COMMANDS["cache-target"]}

Takes the config and the options of the fit that will read the cache, and the cache's folder (in the run folder):

  {PROGRAM} cache-target --config strict.yaml --model.target_cache cache
  {PROGRAM} fit --config strict.yaml --model.target_cache cache

Rerunning skips what is already there, so the same command resumes a run that was killed. With --trainer.devices N and
--trainer.strategy ddp, N processes share the work."""
