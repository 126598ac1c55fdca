"""Parsers whose errors are short and say what was probably meant."""

import inspect
import logging
import pydoc
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from atspeed.catalog import CollisionRule
from atspeed.cli.messages import EXPLAINED, USAGE_ERROR, fail, report, suggestion
from atspeed.cli.shipped_configs import find_config
from atspeed.data import DatasetWriter, InteractionSource, Splitter
from atspeed.decoding import Drafter, Execution, Verifier
from atspeed.losses import AlignmentLoss
from atspeed.models import ModelSource
from atspeed.modules import StageModule
from atspeed.prompts import Prompt

log = logging.getLogger(__name__)
T = TypeVar("T")

PARSER_SETTINGS: dict[str, Any] = {"parser_mode": "omegaconf"}
PLUG_INS = (
    *(InteractionSource, Splitter, DatasetWriter, CollisionRule, Prompt),
    *(ModelSource, AlignmentLoss, Drafter, Verifier, Execution, StageModule, Callback),
)
"""Classes whose subclasses are named without their package, which works for what has been imported."""


class ConfigFile(ActionConfigFile):
    """The option ``--config``, which also finds the configs that come with the package."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Apply the config to the settings parsed so far."""
        super().__call__(parser, cfg, self.find(parser, values), option_string)

    @staticmethod
    def find(parser: Any, values: Any) -> str:
        """Return the file of a config; see :func:`find_config`."""
        try:
            file = find_config(values)
        except FileNotFoundError as error:
            parser.error(str(error))
        if Path(values).name == values and Path(file).is_file():  # it could be in two folders: say which
            rank_zero_only(log.info)("config %s: %s", values, Path(file).absolute())
        return file


class DataOfConfig(ConfigFile):
    """The option ``--config`` of a command that needs the data only: other sections of a config are skipped."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Apply the section ``data`` of the config to the settings parsed so far."""
        found = self.find(parser, values)
        config = yaml.safe_load(Path(found).read_text() if Path(found).is_file() else found)
        data = yaml.safe_dump({"data": config.get("data", {})})
        ActionConfigFile.__call__(self, parser, cfg, data, option_string)


class _ExplainsErrors:
    def error(self: Any, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong, without the usage (a screen or more), and exit."""
        if not self.exit_on_error:
            super().error(message, ex)  # type: ignore[misc]
        parser = getattr(ex, "subcommand_parser", None) or self
        fail(explain(message, parser._option_string_actions), parser.prog.replace(" [options]", ""))

    def instantiate(self, namespace: Namespace, instantiate_groups: bool = True, **settings: Any) -> Namespace:
        """Make the objects that the settings describe; an error raised in a constructor is reported, then exits."""
        settings.setdefault("instantiators", [(construct, object, True)])
        return super().instantiate(namespace, instantiate_groups, **settings)  # type: ignore[misc]


class Parser(_ExplainsErrors, ArgumentParser):
    """A parser with short errors."""


class TrainerParser(_ExplainsErrors, LightningArgumentParser):
    """A parser with short errors, for LightningCLI."""


def add_config_option(parser: Any, text: str, action: type[ConfigFile] = ConfigFile) -> None:
    """Add the option ``--config``; ``text`` says what it takes."""
    parser.add_argument("-c", "--config", action=action, help=f"{text}; a name alone also finds atspeed's own")


def construct(cls: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Return an object of a class; report an error of its constructor, and exit.

    To exit at once is the way around jsonargparse, which answers an error with a dump of the settings.
    """
    try:
        return cls(*args, **kwargs)
    except (*EXPLAINED, MisconfigurationException) as error:
        report(error, USAGE_ERROR)


def explain(message: str, options: Iterable[str]) -> str:
    """Return a parser's error message in short, with a suggestion for an unknown option or class.

    Args:
        message: the message of jsonargparse.
        options: the parser's options, such as ``--data.seed``.
    """
    if found := re.search(r"class_path '([\w.]+)':\s+Option '(\w+)' is not accepted", message):
        path, option = found.groups()
        known = inspect.signature(pydoc.locate(path)).parameters  # type: ignore[arg-type]
        return f"{path} has no setting {option!r}{suggestion(option, known)}"
    if found := re.search(r"Expected a dot import path string: (\w+)", message):
        name = found[1]
        return f"there is no class {name!r}{suggestion(name, {cls.__name__ for cls in _subclasses(PLUG_INS)})}"
    if found := re.search(r"unrecognized arguments: (--[\w.]+)|does not accept option '([\w.]+)'", message):
        option = found[1] or f"--{found[2]}"
        return f"there is no setting {option.removeprefix('--')!r}{suggestion(option, options).replace('--', '')}"
    return re.sub(r"\n\s+Given value type: .*", "", message, flags=re.DOTALL)  # the value may be a whole config


def _subclasses(classes: Iterable[type]) -> Iterator[type]:
    for cls in classes:
        yield cls
        yield from _subclasses(cls.__subclasses__())
