"""The command ``semantic-ids``."""

import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atspeed.catalog.collisions import CollisionRule, NearestCodes, NextNearest
from atspeed.catalog.residual_kmeans import Encoding, ResidualKMeans, require_faiss
from atspeed.catalog.written_codes import MAX_LEVELS
from atspeed.checks import require_at_least
from atspeed.data.dataset import Dataset
from atspeed.data.sources.interaction_source import InteractionSource
from atspeed.preparation.embedding_files import read_embeddings
from atspeed.preparation.interaction_factors import interaction_factors
from atspeed.preparation.sid_folder import SIDS, SidFolder, read_sid_folder, write_sid_folder
from atspeed.preparation.sid_report import SemanticIdReport, level_usage, print_report, shared_sids
from atspeed.provenance import provenance

log = logging.getLogger(__name__)


class SemanticIds:
    """Makes semantic IDs by residual k-means.

    The settings' defaults are the field's usual ones: three codebooks of 256 codes. The same input, settings and seed
    give the same semantic IDs on the same machine with the same number of threads and the same packages.

    Args:
        out: the folder to write: ``sids.parquet`` (which sources take by ``--data.source.sids``),
            ``codebooks.safetensors`` and ``semantic_ids.json``, a report.
        embeddings: ``*.npy`` or ``*.safetensors``, an array [items, dimensions] in the order of the data's items, or
            ``*.parquet`` with the columns item and embedding; by default they are made from the training interactions.
        levels: codes per semantic ID.
        codes: different codes per level.
        collisions: what to do about items that share a semantic ID: ``NextNearest`` (the default) gives each item
            another code of the last level, ``ExtraLevel`` adds a level that numbers them, ``Kept`` leaves them.
        seed: seed of k-means and of the embeddings made from interactions.
        extend: a folder that this command wrote: its items keep their semantic IDs, the data's other items get theirs
            from its codebooks. Needs embeddings, and the settings that the folder was made with.
    """

    def __init__(
        self,
        out: Path,
        embeddings: Path | None = None,
        levels: int = 3,
        codes: int = 256,
        collisions: CollisionRule | None = None,
        seed: int = 0,
        extend: Path | None = None,
    ) -> None:
        require_at_least(1, levels=levels)
        require_at_least(2, codes=codes)
        require_at_least(0, seed=seed)
        if levels >= MAX_LEVELS:
            raise ValueError(
                f"levels is {levels}; expected less than {MAX_LEVELS}, because a level is written as a letter"
            )
        if extend is not None and embeddings is None:
            raise ValueError(
                "extend needs embeddings: those made from interactions change with the interactions, so they would not "
                "fit the codebooks"
            )
        self.out = Path(out)
        self.embeddings = None if embeddings is None else Path(embeddings)
        self.levels = levels
        self.codes = codes
        self.collisions = collisions or NextNearest()
        self.seed = seed
        self.extend = None if extend is None else Path(extend)

    @property
    def settings(self) -> dict[str, Any]:
        """What must be the same to extend a folder."""
        rule = type(self.collisions).__name__
        return {"levels": self.levels, "codes": self.codes, "collisions": rule, "seed": self.seed}

    def run(self, source: InteractionSource) -> SemanticIdReport:
        """Make semantic IDs, write the folder, print a table and return the report.

        Args:
            source: whose items get semantic IDs; those that they may have do not matter.

        Raises:
            ImportError: if faiss is not installed.
            FileExistsError: if ``out`` has semantic IDs and is not to be extended.
            FileNotFoundError: if a file is missing.
            ValueError: if embeddings or settings do not fit the data or the folder to extend, or some items cannot have
                a semantic ID each.
        """
        require_faiss()
        if (self.out / SIDS).exists() and (self.extend is None or not self.out.samefile(self.extend)):
            raise FileExistsError(
                f"{self.out} has semantic IDs already, on which trained models may depend; remove it, name another "
                "folder by out, or add new items to it by extend"
            )
        kept = None if self.extend is None else read_sid_folder(self.extend, self.settings)
        data = source.load()
        items = data.items["item"]
        rows = np.arange(len(items)) if kept is None else np.flatnonzero(~pc.is_in(items, kept.items).to_numpy())
        embeddings = self._embeddings(data, rows)
        folder = kept or self._train(embeddings)
        kmeans = folder.kmeans
        if embeddings.shape[1] != kmeans.dim:
            raise ValueError(
                f"{self.embeddings} has embeddings of {embeddings.shape[1]} dimensions, but the codebooks of "
                f"{self.extend} have {kmeans.dim}"
            )
        encoding = kmeans.encode(embeddings, rows)
        new = self.collisions.resolve(NearestCodes(kmeans, embeddings, rows, encoding, folder.codes))
        folder = folder.extended(items.take(rows).combine_chunks(), new)
        report = self._report(folder, encoding)
        write_sid_folder(self.out, folder, report)
        print_report(report, self.out)
        return report

    def _train(self, embeddings: np.ndarray) -> SidFolder:
        """Return codebooks, without any item."""
        kmeans = ResidualKMeans.train(embeddings, self.levels, self.codes, self.seed)
        metadata = {
            **{name: str(value) for name, value in self.settings.items()},
            "embeddings": "interactions" if self.embeddings is None else "file",
            "atspeed": version("atspeed"),
            "faiss": require_faiss().__version__,
        }
        return SidFolder(kmeans, metadata, pa.array([], pa.string()), np.empty((0, self.levels), np.int32))

    def _report(self, folder: SidFolder, encoding: Encoding) -> SemanticIdReport:
        num_items, num_new = len(folder.codes), len(encoding.codes)
        nearest = np.concatenate((folder.codes[: num_items - num_new, : self.levels], encoding.codes))
        return SemanticIdReport(
            items=num_items,
            new_items=num_new,
            levels=level_usage(folder.codes, self.codes, encoding.errors),
            before=shared_sids(nearest),
            after=shared_sids(folder.codes),
            settings={
                **self.settings,
                "embeddings": None if self.embeddings is None else str(self.embeddings),
                "dimensions": folder.kmeans.dim,
                "extend": None if self.extend is None else str(self.extend),
            },
            codebooks=folder.metadata,
            provenance=provenance(),
        )

    def _embeddings(self, data: Dataset, rows: np.ndarray) -> np.ndarray:
        """Return the embeddings of all items, of which ``rows`` are needed."""
        if self.embeddings is not None:
            return read_embeddings(self.embeddings, data.items["item"], rows)
        num_items = len(data.items)
        unseen = num_items - len(np.unique(data.train.values))
        if unseen:
            log.info("%d of %d items have no training interaction; their embeddings are zero", unseen, num_items)
        return interaction_factors(data.train, num_items, self.seed)
