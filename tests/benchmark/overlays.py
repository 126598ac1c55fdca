"""What an overlay of the tuner does to a shipped config."""

from pathlib import Path

from atspeed.cli.shipped_configs import CONFIGS
from atspeed.decoding import Drafter, StrictTopK
from tests.test_configs import ParseOnly


def recommend_with(overlay: str, folder: Path) -> Drafter:
    """What configs/recommend.yaml decodes with under an overlay."""
    file = folder / "overlay.yaml"
    file.write_text(overlay)
    config = ["--config", str(CONFIGS / "recommend.yaml"), "--config", str(file)]
    cli = ParseOnly(["test", *config, "--trainer.default_root_dir", str(folder), "--trainer.accelerator", "cpu"])
    assert isinstance(cli.model.verifier, StrictTopK)
    return cli.model.drafter
