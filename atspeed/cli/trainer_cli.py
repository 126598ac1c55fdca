"""LightningCLI for fit, validate, test and predict."""

from typing import Any

import lightning.pytorch as pl
from jsonargparse import Namespace
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningCLI

from atspeed.callbacks import EpochLines, RunProvenance  # imports the others, so that configs may name them, too
from atspeed.callbacks.epoch_lines import has_terminal
from atspeed.cli.overview import PROGRAM, TRAINER_COMMANDS, usage
from atspeed.cli.parser import PARSER_SETTINGS, TrainerParser, add_config_option, construct
from atspeed.data import RecommendationData
from atspeed.modules import StageModule

DEFAULT_RUN_DIR = "runs/default"


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
        add_config_option(parser, "a YAML file")
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
