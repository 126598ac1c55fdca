"""Every documented plug-in is found by its bare class name, in every command that takes it, in a fresh process."""

import inspect
import json
import subprocess
import sys
from types import ModuleType

import pytest

from atspeed import callbacks, catalog, data, decoding, losses, models, modules, prompts
from atspeed.catalog import CollisionRule
from atspeed.data import InteractionSource, Splitter
from atspeed.decoding import Drafter, Verifier
from atspeed.losses import AlignmentLoss
from atspeed.models import ModelSource
from atspeed.modules import StageModule
from atspeed.prompts import Prompt
from tests.cli.running import ROOT

HEAVY = {"deepspeed", "peft", "tensorboard", "datasets"}
"""What no command needs to show its options."""
RUN_COMMANDS = """
import contextlib, io, json, os, sys
import lightning.pytorch.cli, transformers.modeling_utils
assert not [name for name in sys.modules if name.startswith("atspeed")]
problems = []
for arguments in json.loads(sys.argv[1]):  # each in a process that has imported nothing of atspeed, but all it imports
    read, write = os.pipe()
    if os.fork():
        os.close(write)
        problems.append(os.fdopen(read).read())
        os.wait()
        continue
    output, code = io.StringIO(), None
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        from atspeed.cli.main import main
        try:
            main(arguments)
        except SystemExit as exit_:
            code = exit_.code
    heavy = sorted(set(json.loads(sys.argv[2])) & sys.modules.keys())
    problem = "" if code == 0 and not heavy else f"{arguments[0]}: code {code}, {heavy}, {output.getvalue()[-500:]}"
    os.write(write, problem.encode())
    os._exit(0)
print(json.dumps(problems))
"""


def names(package: ModuleType, base: type) -> list[str]:
    """The concrete subclasses of a class that a package exports."""
    exported = [getattr(package, name) for name in package.__all__]
    found = [
        cls.__name__
        for cls in exported
        if inspect.isclass(cls) and issubclass(cls, base) and cls is not base and not inspect.isabstract(cls)
    ]
    assert found
    return found


def choose(option: str, plug_ins: list[str]) -> list[str]:
    """Options that choose one after the other."""
    return [word for name in plug_ins for word in (option, name)]


SPLITTERS = choose("--data.source.split", names(data, Splitter))
SOURCES = [*choose("--data.source", names(data, InteractionSource)), "--data.source", "Interactions", *SPLITTERS]
PROMPTS = [word for option in ("prompt", "draft_prompt") for word in choose(f"--data.{option}", names(prompts, Prompt))]
MODELS = names(models, ModelSource)
LOSSES = choose("--model.loss", names(losses, AlignmentLoss))
DRAFTERS, VERIFIERS = names(decoding, Drafter), names(decoding, Verifier)
CALLBACKS = choose(
    "--trainer.callbacks+", [name for name in callbacks.__all__ if name != "RunProvenance"]
)  # that one is not chosen
MODULES = choose("--model", names(modules, StageModule))
ALIGNMENT = [*LOSSES, *choose("--model.target", MODELS), *choose("--model.draft", MODELS), *SOURCES]
DECODING = [*choose("--model.drafter", DRAFTERS), *choose("--model.verifier", VERIFIERS), *SOURCES]
METHODS = [
    "--methods",
    json.dumps(
        {name: {"drafter": name} for name in DRAFTERS}
        | {name: {"drafter": "NoDrafter", "verifier": name} for name in VERIFIERS}
    ),
]
COMMANDS = [
    ["fit", "-c", "target.yaml", *choose("--model.network", MODELS), *PROMPTS, *CALLBACKS, *MODULES],
    ["fit", "-c", "strict.yaml", *ALIGNMENT, *CALLBACKS],
    ["validate", "-c", "strict.yaml", *ALIGNMENT, *CALLBACKS],
    ["test", "-c", "recommend.yaml", *DECODING, *choose("--model.target", MODELS), *CALLBACKS],
    ["predict", "-c", "recommend.yaml", *DECODING, *choose("--model.draft", MODELS), *CALLBACKS],
    ["cache-target", "-c", "strict.yaml", *ALIGNMENT],
    ["benchmark", "-c", "benchmark.yaml", *choose("--target", MODELS), *choose("--draft", MODELS), *METHODS, *SOURCES],
    ["benchmark-alignment", "-c", "benchmark-alignment.yaml", *choose("--target", MODELS), *METHODS, *SOURCES],
    ["show-prompt", "-c", "target.yaml", *PROMPTS, *SOURCES],
    ["doctor", "--target", ".", "-c", "target.yaml", *PROMPTS, *SOURCES],
    ["semantic-ids", "--out", "x", *choose("--collisions", names(catalog, CollisionRule)), *SOURCES],
    ["tune", "-c", "tune.yaml", *choose("--target", MODELS), *choose("--draft", MODELS), *SOURCES],
]


@pytest.mark.e2e
def test_plug_ins_are_found_by_name_without_heavy_imports() -> None:
    lines = [[*arguments, "--print_config"] for arguments in COMMANDS]
    lines.append(["fit", "-c", "strict.yaml", "--model.loss", "NoSuchLoss", "--print_config"])
    command = [sys.executable, "-c", RUN_COMMANDS, json.dumps(lines), json.dumps(sorted(HEAVY))]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    *problems, unknown = json.loads(done.stdout.splitlines()[-1])
    assert not any(problems), "\n".join(problems)
    assert "there is no class 'NoSuchLoss'" in unknown  # so a class that is not found would be seen
