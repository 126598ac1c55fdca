"""Packs what the 7B table needs into a folder of at most 64 MiB: the small models of a run in bfloat16, and the data.

Usage: ``python -m scripts.gpu.pack_inputs --run runs/beauty --data ../shared/data/beauty --out inputs``. The folder is
a run folder with ``target/model``, ``strict/model`` (and its calibration) and ``data``; models are grown where it is
used.
"""

import argparse
import shutil
from pathlib import Path

from atspeed.data import AtSpeedLayout, RecommendationData
from atspeed.models import Checkpoint, Exported
from atspeed.models.sources import cast, export, model_folder
from atspeed.recommender.calibration_file import copy_calibration

MOST_BYTES = 64 << 20


def pack(run_dir: Path, data_root: Path, draft: str, out: Path) -> int:
    """Write the folder, and return its bytes.

    Args:
        run_dir: the run folder.
        data_root: the data, in AtSpeed's layout.
        draft: the stage of the draft.
        out: the folder; the draft becomes its stage ``strict``, which the config of the 7B table names.

    Raises:
        ValueError: if it is larger than 64 MiB.
    """
    shutil.copytree(data_root, out / "data", dirs_exist_ok=True)
    data = RecommendationData(AtSpeedLayout(out / "data"))
    data.setup("test")
    for stage, name, encoder in (("target", "target", data.encoder), (draft, "strict", data.draft_encoder)):
        model = Exported(stage).build(encoder.vocabulary, run_dir)
        cast(model.parameters(), "bfloat16")
        export(model, encoder.vocabulary, model_folder(out, name))
    copies = [Checkpoint(model_folder(out, name)) for name in ("strict", "target")]
    copy_calibration(Exported(draft), Exported("target"), run_dir, *copies)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    if size > MOST_BYTES:
        raise ValueError(f"{out} has {size / 2**20:.1f} MiB, more than 64: train a smaller target")
    return size


def main() -> None:
    """Pack, and print the size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="the run folder")
    parser.add_argument("--data", type=Path, required=True, help="Beauty, in AtSpeed's layout")
    parser.add_argument("--draft", default="strict", help="stage of the draft (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    options = parser.parse_args()
    size = pack(options.run, options.data, options.draft, options.out)
    print(f"{options.out}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
