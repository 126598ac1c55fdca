"""The folder that ``semantic-ids`` writes: semantic IDs, the codebooks they were made with, and a report."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError

from atspeed.catalog.residual_kmeans import ResidualKMeans
from atspeed.catalog.written_codes import read_codes, write_sids
from atspeed.data.sources.sid_file import read_sids
from atspeed.data.sources.text_files import require_file
from atspeed.preparation.sid_report import SemanticIdReport

CODEBOOKS, REPORT, SIDS = "codebooks.safetensors", "semantic_ids.json", "sids.parquet"


@dataclass(frozen=True, eq=False)
class SidFolder:
    """Semantic IDs and what new items need to get some.

    Attributes:
        kmeans: the codebooks.
        metadata: the settings that they were made with; ``embeddings`` is ``file`` or ``interactions``.
        items: item names, strings.
        codes: their semantic IDs, ``[items, L]``, or ``[items, L + 1]`` with a level against collisions; int32.
    """

    kmeans: ResidualKMeans
    metadata: dict[str, str]
    items: pa.Array
    codes: np.ndarray

    def extended(self, items: pa.Array, codes: np.ndarray) -> "SidFolder":
        """Return it with new items at the end."""
        codes = np.concatenate((self.codes, codes)) if len(self.codes) else codes
        return replace(self, items=pa.concat_arrays([self.items, items]), codes=codes)


def write_sid_folder(out: Path, folder: SidFolder, report: SemanticIdReport) -> None:
    """Write the three files; a fault while they are written leaves ``out`` as it was."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as name:
        partial = Path(name)
        folder.kmeans.save(partial / CODEBOOKS, folder.metadata)
        (partial / REPORT).write_text(json.dumps(asdict(report), indent=2) + "\n")
        pq.write_table(write_sids(folder.items, folder.codes), partial / SIDS)
        out.mkdir(exist_ok=True)
        for file in (CODEBOOKS, REPORT, SIDS):  # the one that others read comes last
            os.replace(partial / file, out / file)


def read_sid_folder(folder: Path, settings: dict[str, Any]) -> SidFolder:
    """Return what :func:`write_sid_folder` wrote, to extend it.

    Args:
        folder: the folder.
        settings: names and values that must be those of the folder.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file holds something else, the settings differ, or new items cannot be added.
    """
    file = folder / CODEBOOKS
    require_file(file, "the codebooks that semantic-ids wrote")
    try:
        kmeans, metadata = ResidualKMeans.load(file)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{file}: expected the codebooks that semantic-ids wrote: {error}") from error
    if metadata.get("embeddings") != "file":
        raise ValueError(
            f"{folder} was made from interactions, not from embeddings, so its codebooks say nothing about new items; "
            "make new semantic IDs for all items"
        )
    if any(metadata.get(name) != str(value) for name, value in settings.items()):
        made = " ".join(f"--{name} {metadata.get(name)}" for name in settings)
        raise ValueError(f"{folder} was made with {made}; extend needs the same settings")
    sids = read_sids(folder / SIDS)
    try:
        codes = read_codes(sids)
    except ValueError as error:
        raise ValueError(f"{folder / SIDS}: {error}") from error
    return SidFolder(kmeans, metadata, sids["item"].combine_chunks(), codes)
