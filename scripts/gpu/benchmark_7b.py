"""Runs a piece of the 7B table on one GPU: some beam widths at one batch size, in less than ten minutes.

Usage, for all pieces, with the folder that ``pack_inputs.py`` made::

    for batch in 1 4 16; do
      for beams in "1 5" "10 20" 50; do
        python -m scripts.gpu.benchmark_7b --inputs inputs --out results --batch-size $batch --num-beams $beams
      done
    done

Each piece grows both models anew (a minute or two on a CPU) and writes ``benchmark-7b-batch-1-k-10-20.json``, ``.md``
and ``.html``. What it measures is configs/benchmark-7b.yaml; docs/benchmark.md explains the columns. ``--tiny`` runs
all of it on a CPU, with models that are grown to a few channels. No GPU has run it yet.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from atspeed.cli.main import main as run_atspeed
from atspeed.cli.shipped_configs import find_config

TINY = {
    **{f"target.{name}": size for name, size in {"hidden_size": 64, "intermediate_size": 96}.items()},
    **{f"target.{name}": 4 for name in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads")},
    **{f"draft.{name}": size for name, size in {"hidden_size": 48, "intermediate_size": 64}.items()},
    **{f"draft.{name}": 3 for name in ("num_attention_heads", "num_key_value_heads")},
    **{"num_requests": 4, "num_warmup": 1, "profiled_batches": 1, "num_threads": 1, "device": "cpu"},
}
"""Options of ``--tiny``."""
LARGE_BATCH = 16
"""With so many requests, slots for keys take so much memory that all prompts are padded to the largest length."""


def methods_for(batch_size: int, num_beams: Sequence[int]) -> dict[str, Any]:
    """Return the methods of the config, as captured and as priced for a batch size and for beam widths."""
    config = yaml.safe_load(Path(find_config("benchmark-7b.yaml")).read_text())
    methods: dict[str, Any] = json.loads(json.dumps(config["methods"]))  # a copy of what YAML shares
    for method in methods.values():
        if "execution" in method:
            sizes = method["execution"]["init_args"]
            sizes |= {"num_beams": [*num_beams], "batch_sizes": [batch_size]}
            if batch_size >= LARGE_BATCH:
                sizes["prompt_lengths"] = sizes["prompt_lengths"][-1:]
        if "PriceAware" in str(method["drafter"]):
            method["drafter"]["init_args"]["batch_size"] = batch_size
    return methods


def options_for(batch_size: int, num_beams: Sequence[int], inputs: Path, run_dir: Path, tiny: bool) -> list[str]:
    """Return the options of ``python -m atspeed benchmark``.

    Args:
        batch_size: B.
        num_beams: beam widths K.
        inputs: the packed folder.
        run_dir: the run folder.
        tiny: see :data:`TINY`.
    """
    settings = {
        "config": "benchmark-7b.yaml",
        "out": run_dir,
        "batch_sizes": [batch_size],
        "num_beams": list(num_beams),
        "num_requests": max(64, 16 * batch_size),
        "methods": json.dumps(methods_for(batch_size, num_beams)),
        "data.source": "AtSpeedLayout",
        "data.source.root": inputs / "data",
        **(TINY if tiny else {}),
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def run_dir_of(inputs: Path, out: Path) -> Path:
    """Return a run folder in ``out`` with the packed models, which the benchmark can write to."""
    for stage in ("target", "strict"):
        shutil.copytree(inputs / stage, out / "run" / stage, dirs_exist_ok=True)
    return out / "run"


def main() -> None:
    """Run one piece."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=Path, required=True, help="the folder of pack_inputs.py")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results")
    parser.add_argument("--batch-size", type=int, default=1, help="requests decoded together (default: %(default)s)")
    parser.add_argument("--num-beams", type=int, nargs="+", default=[20], help="beam widths K (default: 20)")
    parser.add_argument("--tiny", action="store_true", help="tiny models on a CPU")
    options = parser.parse_args()
    run_dir = run_dir_of(options.inputs, options.out)
    run_atspeed(
        ["benchmark", *options_for(options.batch_size, options.num_beams, options.inputs, run_dir, options.tiny)]
    )
    name = f"benchmark-7b-batch-{options.batch_size}-k-{'-'.join(map(str, options.num_beams))}"
    for made in ("benchmark.json", "benchmark.md", "report.html"):
        shutil.copy(run_dir / "benchmark" / made, options.out / f"{name}{Path(made).suffix}")


if __name__ == "__main__":
    main()
