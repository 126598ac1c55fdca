"""The frozen target's beams and scores on disk, for alignment without the target in memory."""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from atspeed.data import RecommendationData
from atspeed.data.batches import RequestExample
from atspeed.decoding import ROOT, ItemTrie, ScoredPrefixes
from atspeed.files import write_whole

SHARD_REQUESTS = 1024
Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")


def cached_prefixes(trie: ItemTrie, beams: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return the prefixes whose children a cache holds: the root, and those of the beams and of the true item.

    Args:
        trie: the catalog.
        beams: leaves, ``[B, K]``, root-padded.
        truth: leaves, ``[B]``.

    Returns:
        nodes, ``[B, S]``, int64, the root first, then each prefix once; and which of them are no padding, bool.
    """
    nodes = trie.path(torch.cat([beams, truth[:, None]], dim=1))[..., 1:].flatten(1).sort(1).values
    valid = nodes != ROOT
    valid[:, 1:] &= nodes[:, 1:] != nodes[:, :-1]
    return torch.nn.functional.pad(nodes, (1, 0), value=ROOT), torch.nn.functional.pad(valid, (1, 0), value=True)


class TargetCache:
    """Beams and children's log-probabilities of the frozen target, by split and row, in safetensors shards.

    A shard holds ``SHARD_REQUESTS`` requests in the order of the data: ``beams`` (int32 ``[n, K]``), ``edges`` (the
    log-probabilities of the children of :func:`cached_prefixes`, float32, one request after the other) and ``ends``
    (int64 ``[n]``, where each request's edges end). It appears only when it is complete. ``fingerprint.json`` names
    what all of it was made from. Reading maps the files into memory; nothing is loaded as a whole.

    Args:
        folder: where the shards are.
        data: catalog and requests.
        parts: what the cache depends on beside them: fingerprint of the target's weights, beam width, precision.

    Raises:
        ValueError: if the folder holds a cache of something else.
    """

    def __init__(self, folder: Path, data: RecommendationData, parts: dict[str, str]) -> None:
        self.folder = folder
        self.requests = {split: data.requests(split) for split in SPLITS}
        parts = {
            **parts,
            "catalog": hashlib.sha256(data.catalog.tokens.numpy().tobytes()).hexdigest(),
            "requests (data.source, data.max_history)": _hash(self.requests, data.max_history),
        }
        self._open = lru_cache(maxsize=256)(self._open_shard)
        self._parts = parts
        self._fingerprint = folder / "fingerprint.json"
        if not self._fingerprint.is_file() and any(folder.glob("*.safetensors")):
            raise ValueError(
                f"{folder} has files but no {self._fingerprint.name}, so nobody knows what they come from: delete the "
                "folder, or choose another one with model.target_cache"
            )
        if self._fingerprint.is_file():
            found = json.loads(self._fingerprint.read_text())
            changed = [name for name, value in parts.items() if found.get(name) != value]
            if changed:
                raise ValueError(
                    f"the target cache {folder} is stale, {', '.join(changed)} changed since it was made: delete the "
                    "folder, or choose another one with model.target_cache, and run cache-target with the settings of "
                    "the fit"
                )

    def prepare(self) -> None:
        """Make the folder and say in it what the cache is made from."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._fingerprint, lambda partial: partial.write_text(json.dumps(self._parts, indent=2) + "\n"))

    def shards(self) -> list[tuple[Split, int]]:
        """Return split and number of all shards."""
        return [(split, shard) for split in SPLITS for shard in range(-(-len(self.requests[split]) // SHARD_REQUESTS))]

    def missing(self) -> list[tuple[Split, int]]:
        """Return split and number of the shards that are still to be written."""
        return [shard for shard in self.shards() if not self._file(*shard).is_file()]

    def require_complete(self) -> None:
        """Raise ``ValueError`` if a shard is missing or torn."""
        if missing := self.missing():
            raise ValueError(
                f"the target cache {self.folder} is incomplete: {len(missing)} of {len(self.shards())} shards are "
                "missing; make them with python -m atspeed cache-target and the same settings (it goes on where it "
                "stopped)"
            )
        for shard in self.shards():
            self._open(*shard)

    @property
    def num_bytes(self) -> int:
        """Size of all shards on disk."""
        return sum(self._file(*shard).stat().st_size for shard in self.shards())

    def requests_of(self, split: Split, shard: int) -> list[RequestExample]:
        """Return the requests of a shard."""
        return self.requests[split][shard * SHARD_REQUESTS : (shard + 1) * SHARD_REQUESTS]

    def write(self, split: Split, shard: int, beams: Tensor, edges: Sequence[Tensor]) -> None:
        """Write a shard.

        Args:
            split: ``train`` or ``val``.
            shard: its number.
            beams: leaves, ``[n, K]``, int64.
            edges: log-probabilities of each request, float32.
        """
        ends = torch.tensor([len(values) for values in edges]).cumsum(0)
        content = {"beams": beams.int(), "edges": torch.cat(list(edges)), "ends": ends}
        write_whole(self._file(split, shard), lambda partial: save_file(content, partial))

    def read(self, split: Split, rows: Sequence[int], trie: ItemTrie, truth: Tensor) -> tuple[Tensor, ScoredPrefixes]:
        """Return the target's beams and scores of some requests, on the trie's device.

        Args:
            split: ``train`` or ``val``.
            rows: places of the requests in the split.
            trie: the catalog.
            truth: leaf of each request's true item, ``[B]``.
        """
        beams, edges = zip(*(self._read_row(split, row) for row in rows), strict=True)
        device = trie.token.device
        leaves = torch.stack(beams).long().to(device)
        packed = torch.nn.utils.rnn.pad_sequence(list(edges), batch_first=True, padding_value=-torch.inf).to(device)
        return leaves, ScoredPrefixes.from_child_log_probs(trie, *cached_prefixes(trie, leaves, truth), packed)

    def _read_row(self, split: Split, row: int) -> tuple[Tensor, Tensor]:
        shard, place = divmod(row, SHARD_REQUESTS)
        file, ends = self._open(split, shard)
        start = int(ends[place - 1]) if place else 0
        return file.get_slice("beams")[place], file.get_slice("edges")[start : int(ends[place])]

    def _file(self, split: Split, shard: int) -> Path:
        return self.folder / f"{split}-{shard:06d}.safetensors"

    def _open_shard(self, split: Split, shard: int) -> tuple[safe_open, Tensor]:
        path = self._file(split, shard)
        try:
            file = safe_open(path, framework="pt")
            return file, file.get_tensor("ends")
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{path} is no whole shard of a target cache ({error}); delete it and run cache-target again"
            ) from error


def _hash(requests: dict[Split, list[RequestExample]], max_history: int) -> str:
    digest = hashlib.sha256()
    for split, examples in requests.items():
        digest.update(split.encode())
        for request in examples:
            digest.update(np.array([-1, *request.history[-max_history:], -2, *request.truth]).tobytes())
    return digest.hexdigest()
