"""The frozen target's beams and scores on disk, for alignment without the target in memory."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from atspeed.data import RecommendationData
from atspeed.data.examples import RequestExample
from atspeed.decoding import ROOT, Beams, ItemTrie, ScoredPrefixes
from atspeed.files import write_atomically
from atspeed.models import ModelSource

SHARD_REQUESTS = 1024
Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")


def cached_prefixes(trie: ItemTrie, beams: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return the prefixes whose children a cache holds: the root, and those of the beams and of the true item.

    Args:
        trie: the catalog.
        beams: leaves, ``[B, K]``, int64, root-padded.
        truth: leaves, ``[B]``, int64.

    Returns:
        nodes, ``[B, S]``, int64, the root first, then each prefix once; and a mask, bool: False at padding.
    """
    nodes = trie.path(torch.cat([beams, truth[:, None]], dim=1))[..., 1:].flatten(1).sort(1).values
    valid = nodes != ROOT
    valid[:, 1:] &= nodes[:, 1:] != nodes[:, :-1]
    return torch.nn.functional.pad(nodes, (1, 0), value=ROOT), torch.nn.functional.pad(valid, (1, 0), value=True)


def target_settings(
    source: ModelSource, run_dir: Path, num_beams: int, precision: str, target_dtype: str
) -> dict[str, str]:
    """Return all that a target cache depends on beside the data, by the name of the setting.

    Args:
        source: the target.
        run_dir: the run folder.
        num_beams: beam width K.
        precision: of the Trainer.
        target_dtype: dtype of the target's weights.
    """
    return {
        "model.target": source.fingerprint(run_dir),
        "model.num_beams": str(num_beams),
        "trainer.precision": precision,
        "model.target_dtype": target_dtype,
    }


class TargetShard(NamedTuple):
    """One file of a target cache: requests that are neighbours in the data.

    Attributes:
        split: ``train`` or ``val``.
        number: of the shard in its split, from 0.
        beams: leaves, ``[n, K]``, int64, on the CPU.
        prefixes: the beams of the depths 1, … L - 1 before them, ``[n, L - 1, K]``, int64, on the CPU.
        prefix_scores: their scores, ``[n, L - 1, K]``, float32, on the CPU.
        child_log_probs: for each of the n requests the log-probabilities of the children of its
            :func:`cached_prefixes`, float32, one-dimensional, on the CPU.
    """

    split: Split
    number: int
    beams: Tensor
    prefixes: Tensor
    prefix_scores: Tensor
    child_log_probs: Sequence[Tensor]


class TargetCache:
    """Beams and children's log-probabilities of the frozen target, by split and row, in safetensors shards.

    A shard holds ``SHARD_REQUESTS`` requests in the order of the data: ``beams`` (int32 ``[n, K]``), ``prefixes`` and
    ``prefix_scores`` (int32 and float32 ``[n, L - 1, K]``; see :class:`TargetShard`), ``edges`` (the children's
    log-probabilities of all its requests, one request after the other, float32) and ``ends`` (int64 ``[n]``, where each
    request's values end in ``edges``). Two requests with 3 and 2 children ::

        edges = -0.1 -2.3 -9.0 | -0.7 -0.7
        ends  =              3           5

    A file appears only when it is complete. ``fingerprint.json`` names what all of them were made from. Reading maps
    the files into memory; no file is loaded completely.

    Args:
        folder: where the shards are.
        data: catalog and requests.
        settings: what the cache depends on beside them, see :func:`target_settings`.

    Raises:
        ValueError: if the folder holds a cache that was made from something else.
    """

    def __init__(self, folder: Path, data: RecommendationData, settings: dict[str, str]) -> None:
        self.folder = folder
        self.requests = {split: data.requests(split) for split in SPLITS}
        settings = {
            **settings,
            "catalog": hashlib.sha256(data.catalog.codes.numpy().tobytes()).hexdigest(),
            "requests (data.source, data.cuts, data.max_history)": _hash(self.requests, data.max_history),
            "data.prompt": data.encoder.fingerprint(),
        }
        self._open = lru_cache(maxsize=256)(self._open_shard)
        self._settings = settings
        self._fingerprint = folder / "fingerprint.json"
        if not self._fingerprint.is_file() and any(folder.glob("*.safetensors")):
            raise ValueError(
                f"{folder} has files but no {self._fingerprint.name}, so nobody knows what they were made from: delete "
                "the folder, or choose another one with model.target_cache"
            )
        if self._fingerprint.is_file():
            found = json.loads(self._fingerprint.read_text())
            changed = [name for name, value in settings.items() if found.get(name) != value]
            if changed:
                raise ValueError(
                    f"the target cache {folder} is stale, {', '.join(changed)} changed since it was made: delete the "
                    "folder, or choose another one with model.target_cache, and run cache-target with the settings of "
                    "the fit"
                )

    def prepare(self) -> None:
        """Make the folder and record in it what the cache is made from."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(
            self._fingerprint, lambda partial: partial.write_text(json.dumps(self._settings, indent=2) + "\n")
        )

    def shards(self) -> list[tuple[Split, int]]:
        """Return split and number of all shards."""
        return [(split, shard) for split in SPLITS for shard in range(-(-len(self.requests[split]) // SHARD_REQUESTS))]

    def missing(self) -> list[tuple[Split, int]]:
        """Return split and number of the shards that are still to be written.

        By a listing, because a network file system may remember for a while that a file, once asked for, was not there.
        """
        present = set(self.folder.glob("*.safetensors"))
        return [shard for shard in self.shards() if self._file(*shard) not in present]

    def require_complete(self) -> None:
        """Raise ``ValueError`` if a shard is missing or damaged."""
        if missing := self.missing():
            raise ValueError(
                f"the target cache {self.folder} is incomplete: {len(missing)} of {len(self.shards())} shards are "
                "missing; write them with python -m atspeed cache-target and the same settings (it skips those that "
                "exist)"
            )
        for shard in self.shards():
            self._open(*shard)

    @property
    def num_bytes(self) -> int:
        """Size of all shards on disk."""
        return sum(self._file(*shard).stat().st_size for shard in self.shards())

    def shard_requests(self, split: Split, shard: int) -> list[RequestExample]:
        """Return the requests of a shard."""
        return self.requests[split][shard * SHARD_REQUESTS : (shard + 1) * SHARD_REQUESTS]

    def write(self, shard: TargetShard) -> None:
        """Write a shard; its file appears when it is complete."""
        ends = torch.tensor([len(values) for values in shard.child_log_probs]).cumsum(0)
        content = {
            "beams": shard.beams.int(),
            "prefixes": shard.prefixes.int(),
            "prefix_scores": shard.prefix_scores,
            "edges": torch.cat(list(shard.child_log_probs)),
            "ends": ends,
        }
        write_atomically(self._file(shard.split, shard.number), lambda partial: save_file(content, partial))

    def read(self, split: Split, rows: Sequence[int], trie: ItemTrie, truth: Tensor) -> tuple[Tensor, ScoredPrefixes]:
        """Return the target's beams and scores of some requests, on the trie's device.

        Args:
            split: ``train`` or ``val``.
            rows: indices of the requests in the split.
            trie: the catalog.
            truth: leaf of each request's true item, ``[B]``, int64.

        Returns:
            leaves, ``[B, K]``, int64; and the scores of the children of :func:`cached_prefixes`.
        """
        beams, child_log_probs = zip(*(self._read_row(split, row) for row in rows), strict=True)
        device = trie.parent.device
        leaves = torch.stack(beams).long().to(device)
        pad = torch.nn.utils.rnn.pad_sequence
        packed = pad(list(child_log_probs), batch_first=True, padding_value=-torch.inf).to(device)  # [B, W]
        return leaves, ScoredPrefixes.from_child_log_probs(trie, *cached_prefixes(trie, leaves, truth), packed)

    def read_prefixes(self, split: Split, rows: Sequence[int], device: torch.device) -> list[Beams]:
        """Return the target's beams of some requests at the depths 0, 1, … L - 1; arguments as of :meth:`read`."""
        found = []
        for row in rows:
            shard, index = divmod(row, SHARD_REQUESTS)
            file, _ = self._open(split, shard)
            found.append([file.get_slice(name)[index] for name in ("prefixes", "prefix_scores")])
        nodes, scores = (torch.stack(part).to(device) for part in zip(*found, strict=True))  # [B, L - 1, K]
        root = Beams.at_root(len(rows), nodes.shape[2], device)
        below = zip(nodes.long().unbind(1), scores.unbind(1), strict=True)
        return [root] + [
            root._replace(nodes=prefixes, scores=values, depth=root.depth + depth)
            for depth, (prefixes, values) in enumerate(below, start=1)
        ]

    def _read_row(self, split: Split, row: int) -> tuple[Tensor, Tensor]:
        shard, index = divmod(row, SHARD_REQUESTS)
        file, ends = self._open(split, shard)
        start = int(ends[index - 1]) if index else 0
        return file.get_slice("beams")[index], file.get_slice("edges")[start : int(ends[index])]

    def _file(self, split: Split, shard: int) -> Path:
        return self.folder / f"{split}-{shard:06d}.safetensors"

    def _open_shard(self, split: Split, shard: int) -> tuple[safe_open, Tensor]:
        path = self._file(split, shard)
        try:
            file = safe_open(path, framework="pt")
            return file, file.get_tensor("ends")
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{path} is not a complete shard of a target cache ({error}); delete it and run cache-target again"
            ) from error


def _hash(requests: Mapping[Split, Sequence[RequestExample]], max_history: int) -> str:
    digest = hashlib.sha256()
    for split, examples in requests.items():
        digest.update(split.encode())
        for request in examples:
            digest.update(np.array([-1, *request.history[-max_history:], -2, *request.truth]).tobytes())
    return digest.hexdigest()
