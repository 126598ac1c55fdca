"""The cost of a model's calls as a file of the run folder, which counts only where it was measured."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from atspeed.decoding.cost import CostModel, keep_cost, measure_cost
from atspeed.files import write_atomically
from atspeed.models import ModelSource, dtype_name, is_packed
from atspeed.provenance import device_name

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CostKey:
    """What a measurement depends on.

    Attributes:
        weights: fingerprint of the model's source.
        device: type and model of the device.
        dtype: of the linear layers.
        threads: CPU threads of torch.
        packed: whether the weights are packed (:func:`atspeed.models.pack_linears`).
    """

    weights: str
    device: str
    dtype: str
    threads: int
    packed: bool

    @classmethod
    def of(cls, model: PreTrainedModel, weights: str) -> "CostKey":
        """Return the key of a model as it is now."""
        return cls(
            weights=weights,
            device=device_name(model.device),
            dtype=dtype_name(model),
            threads=torch.get_num_threads(),
            packed=is_packed(model),
        )


def load_or_measure(
    file: Path | None,
    model: PreTrainedModel,
    weights: str,
    measure: Callable[[PreTrainedModel], CostModel] = measure_cost,
) -> CostModel:
    """Return what calls of a model cost: from a file if it was measured for the same :class:`CostKey`, else anew.

    It is kept on the model as well, so that a drafter with ``max_nodes: auto`` goes by the same figures. It lives in
    this package because decoding knows no run folder, and everyone who serves or measures a model may import this one.

    Args:
        file: where the record is, or will be written: ``<run folder>/cost/target.json``; None: nowhere.
        model: the model, on its device, packed or not as it will be used.
        weights: fingerprint of the model's source.
        measure: how to measure.
    """
    key = asdict(CostKey.of(model, weights))
    record: dict[str, Any] = json.loads(file.read_text()) if file is not None and file.is_file() else {}
    if record.get("key") != key:
        if record:
            changed = [name for name, value in key.items() if record["key"].get(name) != value]
            what = ", ".join(f"{name} (was {record['key'].get(name)}, is {key[name]})" for name in changed)
            log.info("%s was measured with other settings, so the cost of a call is measured anew: %s", file, what)
        record = {"key": key, "cost": measure(model).to_json()}
        if file is not None:
            text = json.dumps(record, indent=2) + "\n"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, lambda partial: partial.write_text(text))
    cost = CostModel.from_json(record["cost"])
    keep_cost(model, cost)
    return cost


def load_costs(
    run_dir: Path,
    target: PreTrainedModel,
    target_source: ModelSource,
    draft: PreTrainedModel | None,
    draft_source: ModelSource | None,
) -> None:
    """Keep on both models what their calls cost; see :func:`load_or_measure`.

    Args:
        run_dir: the run folder; its files ``cost/target.json`` and ``cost/draft.json`` hold the costs.
        target: the target, on its device, packed or not as it will be used.
        target_source: where it came from.
        draft: the draft, likewise, if there is one.
        draft_source: where it came from.
    """
    load_or_measure(run_dir / "cost" / "target.json", target, target_source.fingerprint(run_dir))
    if draft is not None and draft_source is not None:
        load_or_measure(run_dir / "cost" / "draft.json", draft, draft_source.fingerprint(run_dir))
