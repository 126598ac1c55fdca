"""What a run was made with."""

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("atspeed", "torch", "transformers", "lightning", "torchmetrics", "deepspeed")


def device_name(device: torch.device) -> str:
    """Return the type of a device and its model, ``cpu: …`` for example."""
    return f"{device.type}: {_model_name(device)}"


def _model_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the commit of the source tree, with ``-dirty`` where it has changes; None outside a checkout."""
    source = Path(__file__).resolve().parents[1]
    try:
        if _git(source, "rev-parse", "--show-toplevel") != str(source):  # installed, in someone else's repository
            return None
        return _git(source, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide what a model computes; a checkout need not be installed."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def provenance(device: torch.device | None = None) -> dict[str, Any]:
    """Return command line, commit, versions, device and threads, ready for JSON."""
    device = device or torch.device("cpu")
    return {
        "command": sys.argv,
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": versions(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
    }
