"""The command line: LightningCLI for fit, validate, test and predict, and the commands that are not Trainer runs."""

import inspect
import logging
import sys
import warnings
from typing import Any

import transformers
from jsonargparse import Namespace
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningCLI

from atspeed.benchmark import AlignmentBenchmark, Benchmark, CatalogBenchmark, Tuner
from atspeed.callbacks import RunProvenance  # and the others by it, so that configs may name them without their package
from atspeed.cli.messages import Parser, TrainerParser, fail, suggestion
from atspeed.cli.quickstart import quickstart
from atspeed.data import RecommendationData
from atspeed.modules import Alignment, StageModule, TargetCaching

log = logging.getLogger(__name__)

PROGRAM = "python -m atspeed"
TRAINER_RUNS = {
    "fit": "Train the model that the config describes: fine-tune a target or a draft, or align a draft.",
    "validate": "Compute the validation losses of a model.",
    "test": "Measure ranking metrics, target calls and speed on the test users.",
    "predict": "Write the recommendations of all users, or of a file of histories (--data.histories).",
}
DEFAULT_RUN_DIR = "runs/default"
IRRELEVANT_WARNINGS = (
    "LightningCLI's args parameter",  # quickstart runs command lines
    ".*LeafSpec.*is deprecated",
    ".*does not have many workers",  # batches are made in less time than it takes to hand them over
    ".*in eval mode at the start of training",  # the frozen target
    ".*ended before the epoch ended",  # the sampler passes over the batches that are done
    "Total length of `DataLoader` across ranks is zero",  # cache-target has nothing left to do
    ".*within local rank has zero length",  # or not for every process
)
PARSER_SETTINGS: dict[str, Any] = {"parser_mode": "omegaconf"}


def _usage(command: str) -> str:
    return f"{PROGRAM} {command} --config configs/….yaml [options]"


class AtSpeedCLI(LightningCLI):
    """``python -m atspeed {fit,validate,test,predict}``.

    The Trainer's ``default_root_dir`` is the run folder. If no logger is chosen, TensorBoard events, checkpoints and
    the resolved config go to ``<run folder>/<stage>``.
    """

    def __init__(self, args: list[str], run: bool = True) -> None:
        settings = PARSER_SETTINGS
        if run:  # a dict for each subcommand, because LightningCLI writes into them
            settings = {
                name: {"description": text, "usage": _usage(name), **PARSER_SETTINGS}
                for name, text in TRAINER_RUNS.items()
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

    def before_instantiate_classes(self) -> None:
        """Put the run folder and the default logger in place."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        if self.subcommand == "predict":
            config.return_predictions = False  # PredictionWriter writes them; memory would fill
        run_dir = config.trainer.default_root_dir = config.trainer.default_root_dir or DEFAULT_RUN_DIR
        if config.trainer.logger in (None, True):
            config.trainer.logger = Namespace(
                class_path="lightning.pytorch.loggers.TensorBoardLogger",
                init_args=Namespace(save_dir=str(run_dir), name=config.model.init_args.stage, version=""),
            )


def run_benchmark(args: list[str]) -> None:
    """Measure speculative decoding side by side with ``transformers.generate``."""
    _run_on_data("benchmark", Benchmark, run_benchmark.__doc__, args)


def run_alignment_benchmark(args: list[str]) -> None:
    """Compare drafts of one target: target calls, accepted levels, recall and coverage on the same requests."""
    _run_on_data("benchmark-alignment", AlignmentBenchmark, run_alignment_benchmark.__doc__, args)


def run_tune(args: list[str]) -> None:
    """Find the drafter with the lowest latency on validation users, and write it as an overlay for recommend.yaml."""
    _run_on_data("tune", Tuner, run_tune.__doc__, args)


def _run_on_data(command: str, benchmark: type, description: str | None, args: list[str]) -> None:
    parser = Parser(prog=f"{PROGRAM} {command}", usage=_usage(command), description=description, **PARSER_SETTINGS)
    parser.add_argument("--config", action="config", help=f"a YAML file, such as configs/{command}.yaml")
    parser.add_class_arguments(benchmark, None)
    parser.add_class_arguments(RecommendationData, "data")
    objects = parser.instantiate_classes(parser.parse_args(args)).as_dict()
    objects.pop("config")
    data = objects.pop("data")
    benchmark(**objects).run(data)


def run_catalog_benchmark(args: list[str]) -> None:
    """Measure what a catalog costs as it grows: build, memory, filters, and a request beside the model."""
    parser = Parser(prog=f"{PROGRAM} benchmark-catalogs", description=run_catalog_benchmark.__doc__, **PARSER_SETTINGS)
    parser.add_class_arguments(CatalogBenchmark, None)
    CatalogBenchmark(**parser.instantiate_classes(parser.parse_args(args)).as_dict()).run()


def cache_target(args: list[str]) -> None:
    """Write the frozen target's beams and scores for the training prompts, for alignment without the target.

    Takes the config and the options of the fit that will read the cache, and the cache's folder (in the run folder):

      python -m atspeed cache-target --config configs/strict.yaml --model.target_cache cache
      python -m atspeed fit --config configs/strict.yaml --model.target_cache cache

    What is there is passed over, so the same command goes on where one that was killed stopped. With
    --trainer.devices N and --trainer.strategy ddp, N processes share the work.
    """
    if args in (["-h"], ["--help"]):
        print(f"usage: {PROGRAM} cache-target --config FILE [options of fit]\n\n{inspect.getdoc(cache_target)}")
        return
    cli = AtSpeedCLI(args, run=False)
    if not isinstance(cli.model, Alignment):
        raise TypeError(f"cache-target needs the config of an Alignment, not of a {type(cli.model).__name__}")
    trainer: Any = cli.trainer
    # the other callbacks serve the fit, and would write its records anew
    trainer.callbacks = [each for each in trainer.callbacks if isinstance(each, ProgressBar)]
    caching = TargetCaching(cli.model, cli.datamodule)
    trainer.predict(caching, return_predictions=False)
    trainer.strategy.barrier()  # other processes may still be writing
    caching.cache.require_complete()
    if trainer.is_global_zero:
        log.info("the target cache %s is complete: %.1f MB", caching.cache.folder, caching.cache.num_bytes / 1e6)


COMMANDS = {
    "cache-target": cache_target,
    "benchmark": run_benchmark,
    "benchmark-alignment": run_alignment_benchmark,
    "benchmark-catalogs": run_catalog_benchmark,
    "tune": run_tune,
    "quickstart": quickstart,
}


def quiet() -> None:
    """Let our own log lines through, and of the libraries' those that ask for action."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()  # loading takes less than two seconds
    for message in IRRELEVANT_WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def main(args: list[str] | None = None) -> None:
    """Run a command."""
    args = sys.argv[1:] if args is None else args
    quiet()
    command = args[0] if args else "--help"
    known = {**TRAINER_RUNS, **{name: inspect.getdoc(function) or "" for name, function in COMMANDS.items()}}
    if command in ("-h", "--help"):
        print(f"usage: {PROGRAM} COMMAND [options]\n")
        for name, text in known.items():
            print(f"  {name:20} {text.splitlines()[0]}")
        print(f"\n{PROGRAM} COMMAND --help shows the options of a command; README.md says where to start.")
    elif command in COMMANDS:
        COMMANDS[command](args[1:])
    elif command in TRAINER_RUNS or command.startswith("-"):  # -c CONFIG fit
        AtSpeedCLI(args)
    else:
        fail(f"there is no command {command!r}{suggestion(command, known)}", PROGRAM)
