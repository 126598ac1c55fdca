"""One folder with all that serving needs."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from atspeed.catalog import ItemCatalog
from atspeed.decoding import Drafter, Verifier
from atspeed.decoding.forward import Normalize
from atspeed.models import Checkpoint, Int8, ModelSource, WeightOnly, cast, dtype_name, export
from atspeed.prompts import Prompt, PromptEncoder
from atspeed.recommender.calibration_file import copy_calibration
from atspeed.recommender.manifest import MANIFEST, Check, check_manifest, is_bundle, write_manifest
from atspeed.recommender.saved_parts import part_from_json, part_to_json

SETTINGS, ITEMS = "recommender.json", "items.parquet"
TARGET, DRAFT = "target", "draft"
TOKENIZERS = {"prompt": "tokenizer", "draft_prompt": "draft-tokenizer"}
"""Folder of the tokenizer of each prompt that has one."""
DTYPES = ("float32", "bfloat16", "int8", "int8_weights", "float8_e4m3fn_weights")
"""Of all floats, or of what linear layers compute in (``Int8``) or store (``WeightOnly``)."""
PARTS: dict[str, type] = {"prompt": Prompt, "draft_prompt": Prompt, "drafter": Drafter, "verifier": Verifier}


@dataclass(frozen=True)
class BundleSettings:
    """How a bundle answers.

    Attributes:
        prompt: of the target.
        draft_prompt: of the draft, where that reads another one.
        drafter: proposes prefixes.
        verifier: decides which are accepted.
        num_beams: beam width K.
        normalize: of scores; see :class:`SpeculativeDecoder`.
        max_history: items of a history that a prompt has.
        batch_size: requests of a batch.
        exclude_seen: whether the items of a history are left out, unless a request says otherwise.
    """

    prompt: Prompt
    draft_prompt: Prompt | None
    drafter: Drafter
    verifier: Verifier
    num_beams: int
    normalize: Normalize
    max_history: int
    batch_size: int
    exclude_seen: bool


class Bundle:
    """A bundle, checked and read; its models are loaded by :meth:`load_model`.

    ::

        recommender/
          manifest.json      format, versions, size and SHA-256 of every file
          recommender.json   BundleSettings, dtypes of the models, fingerprints of the prompts
          items.parquet      item, sid, title and other metadata, train_interactions
          target/            the target, in Hugging Face format
          draft/             the draft and its calibration, if the drafter needs one
          tokenizer/         of a text or chat prompt; draft-tokenizer/ of another prompt of the draft

    A bundle is data: nothing outside atspeed is imported, and no code in it is run, unless ``trust_code`` is given.

    Args:
        folder: the bundle.
        check: see :func:`check_manifest`.
        trust_code: import classes outside atspeed that the settings name, and run code that comes with a model.

    Attributes:
        fingerprint: a hash of all content.
        settings: how it answers.
        items: a row per item: ``item``, ``sid``, ``train_interactions``, and other columns, such as ``title``.
        catalog: the items.

    Raises:
        FileNotFoundError: if the folder is no bundle.
        ValueError: if it is damaged, of a newer format, or needs ``trust_code``.
    """

    def __init__(self, folder: Path, check: Check = "full", trust_code: bool = False) -> None:
        self.folder = Path(folder)
        self.trust_code = trust_code
        self.fingerprint = check_manifest(self.folder, check)
        record = json.loads((self.folder / SETTINGS).read_text())
        self._prompts: dict[str, str] = record.pop("prompt_fingerprints")
        self._dtypes: dict[str, str] = record.pop("dtypes")
        for name, base in PARTS.items():
            if record[name] is not None:
                settings = record[name]["init_args"]
                if name in TOKENIZERS and "tokenizer" in settings:
                    settings["tokenizer"] = str(self.folder / settings["tokenizer"])
                record[name] = part_from_json(record[name], base, trust_code)
        self.settings = BundleSettings(**record)
        self.items = pq.read_table(self.folder / ITEMS)
        self.catalog = ItemCatalog.from_table(self.items)

    @property
    def has_draft(self) -> bool:
        """Whether there is a draft."""
        return DRAFT in self._dtypes

    def encoders(self, catalog: ItemCatalog | None = None) -> tuple[PromptEncoder, PromptEncoder]:
        """Return the encoders of the target's and the draft's prompts; the same where both read the same.

        Args:
            catalog: the items, if not the bundle's own; with the same codes.

        Raises:
            ValueError: if they do not encode the bundle's own items as they did when the bundle was made.
        """
        encoders = {
            name: prompt.encoder(catalog or self.catalog, self.settings.max_history)
            for name in TOKENIZERS
            if (prompt := getattr(self.settings, name)) is not None
        }
        for name, encoder in encoders.items():
            if catalog is None and encoder.fingerprint() != self._prompts[name]:
                raise ValueError(
                    f"the {name} of {self.folder} has other tokens than when the bundle was made: this version of "
                    f"transformers or tokenizers reads its tokenizer differently. {MANIFEST} says with "
                    "which versions it was made: install these, or make the bundle anew"
                )
        return encoders["prompt"], encoders.get("draft_prompt", encoders["prompt"])

    def source(self, name: str, dtype: str | None = None) -> ModelSource:
        """Return where a model comes from.

        Args:
            name: ``target`` or ``draft``.
            dtype: one of :data:`DTYPES`; the bundle's own if not given.

        Raises:
            ValueError: if the dtype is another one.
        """
        return _source(self.folder / name, dtype or self._dtypes[name], self.trust_code)


def _source(folder: Path, dtype: str, trust_code: bool) -> ModelSource:
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; expected {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
    floats: Any = "float32" if dtype == "float32" else "bfloat16"
    weights: Any = dtype.removesuffix("_weights")
    model = Checkpoint(folder, dtype=floats, trust_code=trust_code)
    if weights != dtype:
        return WeightOnly(model, weights)
    return Int8(model) if dtype == "int8" else model


def write_bundle(
    folder: Path,
    settings: BundleSettings,
    items: pa.Table,
    target: ModelSource,
    draft: ModelSource | None,
    run_dir: Path,
    dtype: str | None = None,
) -> None:
    """Write a bundle; the folder appears when it is complete, in the place of an older bundle.

    Args:
        folder: the bundle.
        settings: how it answers.
        items: see :attr:`Bundle.items`.
        target: where the target comes from.
        draft: where the draft comes from; left out if the drafter does not need it.
        run_dir: the run folder.
        dtype: of the models; as they come if not given.

    Raises:
        FileExistsError: if there is something else at the folder's path.
        ValueError: if the drafter lacks its draft, or something cannot be saved.
    """
    if folder.exists() and not is_bundle(folder):
        raise FileExistsError(f"{folder} exists and is no bundle; choose another --out, or remove it")
    if not settings.drafter.needs_draft:
        settings, draft = replace(settings, draft_prompt=None), None
    elif draft is None:
        raise ValueError(f"{type(settings.drafter).__name__} needs a draft; set model.draft, or take TrieDrafter")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    pq.write_table(items, partial / ITEMS)
    catalog = ItemCatalog.from_table(items)
    encoders, records = {}, {}
    for name, folder_name in TOKENIZERS.items():
        prompt = getattr(settings, name)
        if prompt is not None:
            encoders[name] = prompt.encoder(catalog, settings.max_history)
            records[name] = part_to_json(prompt)
            if "tokenizer" in records[name]["init_args"]:
                encoders[name].vocabulary.save(partial / folder_name)
                records[name]["init_args"]["tokenizer"] = folder_name
    dtypes = {TARGET: _export(target, encoders["prompt"], partial / TARGET, run_dir, dtype)}
    if draft is not None:
        encoder = encoders.get("draft_prompt", encoders["prompt"])
        dtypes[DRAFT] = _export(draft, encoder, partial / DRAFT, run_dir, dtype)
        copies = (_source(partial / name, dtypes[name], trust_code=False) for name in (DRAFT, TARGET))
        copy_calibration(draft, target, run_dir, *copies)
    record = {
        **{name: value for name, value in vars(settings).items() if name not in PARTS},
        **{name: records.get(name) for name in TOKENIZERS},
        "drafter": part_to_json(settings.drafter),
        "verifier": part_to_json(settings.verifier),
        "dtypes": dtypes,
        "prompt_fingerprints": {name: encoder.fingerprint() for name, encoder in encoders.items()},
    }
    (partial / SETTINGS).write_text(json.dumps(record, indent=2) + "\n")
    write_manifest(partial)
    Bundle(partial, trust_code=True).encoders()  # raises if the tokenizers were not saved as they are
    _replace(folder, partial)


def _export(source: ModelSource, encoder: PromptEncoder, folder: Path, run_dir: Path, dtype: str | None) -> str:
    """Write a model, and return the dtype that it is to be loaded in."""
    model = (source.base if isinstance(source, (Int8, WeightOnly)) else source).build(encoder.vocabulary, run_dir)
    if dtype is not None:
        cast(model.parameters(), dtype)
    export(model, encoder.vocabulary, folder)
    if isinstance(source, WeightOnly):
        return f"{source.dtype}_weights"
    return "int8" if isinstance(source, Int8) else dtype_name(model)


def _replace(folder: Path, partial: Path) -> None:
    """Move a complete folder to its path; an older one is there until then."""
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
