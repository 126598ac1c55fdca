"""The commands of docs/alignment.md."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from atspeed.catalog import CompactVocabulary
from atspeed.data import EmbeddedCatalog
from atspeed.models import NewModel, model_folder
from atspeed.models.sources import export
from tests.cli.running import ROOT, SMALL_DATA, run_here, run_process
from tests.modules.tiny import TINY

DOCS = (ROOT / "docs" / "alignment.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS, re.DOTALL)


def commands(word: str) -> list[str]:
    """The lines of the one block of commands that has a word."""
    (block,) = [block for block in blocks("bash") if word in block]
    return block.splitlines()


def arguments_of(command: str, folder: Path) -> list[str]:
    """A documented command's arguments, for the small data and a run folder in a folder."""
    python, *arguments = shlex.split(command)
    assert [python, *arguments[:2]] == ["python", "-m", "atspeed"]
    run = ["--trainer.default_root_dir", str(folder / "run"), "--trainer.accelerator", "cpu"]
    return [*arguments[2:], *run, *SMALL_DATA]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with a run folder that has a target and a draft."""
    vocabulary = CompactVocabulary(EmbeddedCatalog(40, 140).load().catalog.words)
    for seed, stage in enumerate(("target", "draft")):
        model = NewModel("llama", TINY, seed).build(vocabulary, tmp_path)
        export(model, vocabulary, model_folder(tmp_path / "run", stage))
    return tmp_path


FEW_BATCHES = ["--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "2"]


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("written_in", ["command line", "YAML"])
def test_a_users_own_loss_is_picked_by_its_class_path(
    folder: Path, written_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "my_losses.py").write_text(blocks("python")[0])
    (folder / "my_loss.yaml").write_text(blocks("yaml")[0])
    documented = commands("my_loss")
    assert ["my_loss.yaml" in command for command in documented] == [False, True]
    if written_in == "command line":
        run_process(*arguments_of(documented[0], folder), *FEW_BATCHES, folder=folder)
    else:
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(folder)
        run_here(*arguments_of(documented[1], folder), *FEW_BATCHES)
        monkeypatch.delitem(sys.modules, "my_losses")
    config = yaml.safe_load((folder / "run" / "strict" / "config.yaml").read_text())
    loss = {"class_path": "my_losses.SoftenedKL", "init_args": {"temperature": 2.0}}
    assert config["model"]["init_args"]["loss"] == loss
    weights = [model_folder(folder / "run", stage) / "model.safetensors" for stage in ("draft", "strict")]
    assert weights[0].read_bytes() != weights[1].read_bytes()


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_write_the_cache_that_one_writes_and_a_fit_reads_it(folder: Path) -> None:
    cache, fit = (arguments_of(command, folder) for command in commands("cache-target"))
    by_two = run_process(*cache, "--trainer.devices", "2", "--trainer.strategy", "ddp", folder=folder)
    (folder / "run" / "cache").rename(folder / "by-two")
    by_one = run_here(*cache, "--trainer.devices", "1")
    for output in (by_two, by_one):
        assert re.search(r"the target cache .*/run/cache is complete: 0\.\d MB", output)
        assert "Warning" not in output
        assert "returned None" not in output
    written = []
    for made in (folder / "by-two", folder / "run" / "cache"):
        written.append({file.name: file.read_bytes() for file in made.iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {"fingerprint.json", "train-000000.safetensors", "val-000000.safetensors"}
    run_here(*fit, *FEW_BATCHES)
    assert (model_folder(folder / "run", "strict") / "model.safetensors").is_file()


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.distributed
def test_a_loss_that_is_not_finite_in_one_process_stops_both(folder: Path) -> None:
    (folder / "my_losses.py").write_text(
        "import torch\n"
        "from atspeed.losses import ForwardKL\n"
        "class Spoilt(ForwardKL):\n"
        "    def forward(self, prefixes):\n"
        "        spoilt = self.training and torch.distributed.get_rank() == 1\n"
        "        return super().forward(prefixes) * (torch.nan if spoilt else 1.0)\n"
    )
    settings = ["--model.loss", "my_losses.Spoilt", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    arguments = arguments_of("python -m atspeed fit --config strict.yaml", folder)
    output = run_process(*arguments, *settings, code=1, folder=folder)
    assert re.search(r"the loss is nan in epoch 0, batch 0 \(both from 0\), process 1, with the users user-\d+", output)
    assert "the loss of another process is not finite in epoch 0, batch 0" in output
    assert not model_folder(folder / "run", "strict").exists()
