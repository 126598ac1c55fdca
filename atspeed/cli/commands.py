"""The commands: LightningCLI for fit, validate, test and predict, and those that are not Trainer runs."""

import logging
import sys
import warnings
from typing import Any

import lightning.pytorch as pl
import transformers
from jsonargparse import Namespace
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from atspeed.callbacks import EpochLines, RunProvenance  # imports the others, so that configs may name them, too
from atspeed.callbacks.epoch_lines import has_terminal
from atspeed.cli.messages import FAILURE, TERMINATED, stopped
from atspeed.cli.overview import COMMANDS, PROGRAM, TRAINER_COMMANDS, usage
from atspeed.cli.parser import PARSER_SETTINGS, ConfigFile, DataOfConfig, Parser, TrainerParser, construct
from atspeed.cli.show_prompt import PromptDisplay
from atspeed.data import InteractionSource, RecommendationData
from atspeed.modules import Alignment, StageModule, TargetCaching

log = logging.getLogger(__name__)

DEFAULT_RUN_DIR = "runs/default"
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
    if command == "cache-target":
        cache_target(args[1:])
    elif command in ("prepare", "semantic-ids"):
        run_preparation(command, args[1:])
    elif command == "show-prompt":
        show_prompt(args[1:])
    elif command == "doctor":
        run_doctor(args[1:])
    elif command in COMMANDS.keys() - TRAINER_COMMANDS.keys():
        run_benchmark(command, args[1:])
    else:
        try:
            AtSpeedCLI(args)
        except SIGTERMException:  # whose own exit code is 0
            stopped("terminated", TERMINATED)


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


class AtSpeedCLI(LightningCLI):
    """``python -m atspeed {fit,validate,test,predict}``.

    The Trainer's ``default_root_dir`` is the run folder. If no logger is chosen, TensorBoard events, checkpoints and
    the resolved config go to ``<run folder>/<stage>``. A fit logs one line per epoch (:class:`EpochLines`).

    Args:
        args: the command line.
        run: whether it has a command to run; if not, the objects are made only.
    """

    def __init__(self, args: list[str], run: bool = True) -> None:
        self._command = args[0] if args and args[0] in TRAINER_COMMANDS else None
        settings = PARSER_SETTINGS
        if run:  # a dict for each command, because LightningCLI writes into them
            settings = {
                name: {"description": TRAINER_COMMANDS[name], "usage": usage(name), **PARSER_SETTINGS}
                for name in self.subcommands()
            }
        super().__init__(
            model_class=StageModule,
            subclass_mode_model=True,
            datamodule_class=RecommendationData,
            save_config_callback=RunProvenance,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"prog": PROGRAM, **settings},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_class=TrainerParser,
            load_from_checkpoint_support=False,
            args=args,
            run=run,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the commands to make parsers for: the one that is asked for, because each takes a while."""
        known = super().subcommands()
        return {self._command: known[self._command]} if self._command else known

    def init_parser(self, **kwargs: Any) -> TrainerParser:
        """Return a parser whose ``--config`` finds the configs that come with the package."""
        kwargs.setdefault("dump_header", [f"lightning.pytorch=={pl.__version__}"])
        parser = TrainerParser(**kwargs)
        _add_config_option(parser, "a YAML file")
        return parser

    def before_instantiate_classes(self) -> None:
        """Set the run folder and the default logger."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        if self.subcommand == "predict":
            config.return_predictions = False  # PredictionWriter writes them; memory would fill
        run_dir = config.trainer.default_root_dir = config.trainer.default_root_dir or DEFAULT_RUN_DIR
        if config.trainer.logger in (None, True):
            config.trainer.logger = Namespace(
                class_path="lightning.pytorch.loggers.TensorBoardLogger",
                init_args=Namespace(save_dir=str(run_dir), name=config.model.init_args.stage, version=""),
            )

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Make the Trainer; a fit logs one line per epoch where it would draw its progress bar for nobody."""
        trainer: Any = construct(super().instantiate_trainer, **kwargs)
        if self.subcommand == "fit":
            if not any(isinstance(each, EpochLines) for each in trainer.callbacks):
                trainer.callbacks.insert(0, EpochLines())
            if not has_terminal():
                trainer.callbacks = [each for each in trainer.callbacks if not isinstance(each, ProgressBar)]
        return trainer


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
        _add_config_option(parser, f"a YAML file, such as {command}.yaml")
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
    _add_config_option(parser, "a YAML file with these settings")
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
    _add_config_option(parser, "a YAML file, of any command, whose data is read", DataOfConfig)
    parser.add_class_arguments(PromptDisplay, None)
    parser.add_class_arguments(RecommendationData, "data")
    objects = parser.instantiate(parser.parse_args(args))
    PromptDisplay(objects.user).run(objects.data)


def run_doctor(args: list[str]) -> None:
    """Check a checkpoint, for the data and the prompt of any config; exit with 1 if a check failed."""
    from atspeed.doctor import Doctor

    parser = Parser(prog=f"{PROGRAM} doctor", description=COMMANDS["doctor"], **PARSER_SETTINGS)
    parser.usage = f"{PROGRAM} doctor --target FOLDER --data.source CLASS [options]"
    _add_config_option(parser, "a YAML file, of any command, whose data is read", DataOfConfig)
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


def _add_config_option(parser: Any, text: str, action: type[ConfigFile] = ConfigFile) -> None:
    parser.add_argument("-c", "--config", action=action, help=f"{text}; a name alone also finds atspeed's own")
