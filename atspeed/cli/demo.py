"""A bundle to try the service with."""

from collections.abc import Callable
from pathlib import Path

from atspeed.cli.quickstart import train_stages
from atspeed.cli.shipped_configs import CONFIGS


def demo_bundle(out: Path, main: Callable[[list[str]], None]) -> Path:
    """Return a bundle of models for the embedded catalog; they are trained where the run folder does not have them.

    Args:
        out: the run folder.
        main: runs a command line of atspeed.
    """
    train_stages(out, [], main)
    folder = out / "recommender"
    config = ["--config", str(CONFIGS / "recommend.yaml"), "--trainer.default_root_dir", str(out)]
    main(["bundle", *config, "--out", str(folder)])
    return folder
