"""What Python users and the service load."""

import copy
import numbers
import secrets
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from transformers import PreTrainedModel

from atspeed.decoding import (
    BoundedTopK,
    Drafter,
    ItemFilter,
    LosslessSampling,
    NoDrafter,
    RelaxedSampling,
    SpeculativeDecoder,
    StrictTopK,
    Verifier,
)
from atspeed.decoding.drafters.calibration import keep_calibration
from atspeed.decoding.execution import Eager, Execution
from atspeed.models import pack_linears
from atspeed.recommender.answering_method import Method
from atspeed.recommender.answers import Answer, answers
from atspeed.recommender.bundle import DRAFT, TARGET, Bundle
from atspeed.recommender.calibration_file import read_calibration
from atspeed.recommender.cost_file import load_or_measure
from atspeed.recommender.manifest import Check
from atspeed.recommender.request import Request
from atspeed.recommender.seen_items import unseen_items
from atspeed.recommender.served_catalog import ServedCatalog

VERIFIERS: dict[str, type[Verifier]] = {
    cls.name: cls for cls in (StrictTopK, BoundedTopK, RelaxedSampling, LosslessSampling)
}
LARGEST_SEED = 2**63 - 1
LARGEST_DRAWN_SEED = 2**53  # what a JSON client whose numbers are doubles reads exactly


class Recommender:
    """Answers requests from a bundle; safe to share between threads, which take turns on the device.

    An answer is the beginning of what a beam search of the bundle's width finds, which is what ``predict`` writes. The
    best ``k`` of a wider search are not always those of a search of width ``k``: they are better.

    Example::

        from atspeed import Recommender

        recommender = Recommender.load("recommender")
        for answer in recommender.recommend([["item-3", "item-14"]], k=10):
            print([each.items for each in answer.recommended])

    Args:
        bundle: the bundle.
        device: where the models go; a GPU if there is one.
        dtype: of the models, ``float32``, ``bfloat16`` or ``int8``; the bundle's if not given.
        cost_folder: where the measured costs of calls are kept, for drafters that go by them; without it they are
            measured at every start.
        execution: how searches are run; ``Captured`` replays them as CUDA graphs.

    Attributes:
        bundle: the bundle.
        num_beams: beam width K, the largest ``k`` of a request.
        served: the version of the catalog that new requests are answered from.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: torch.device | str | None = None,
        dtype: str | None = None,
        cost_folder: Path | None = None,
        execution: Execution | None = None,
    ) -> None:
        self.bundle = bundle
        self.execution = execution or Eager()
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.num_beams = bundle.settings.num_beams
        self.served = ServedCatalog(bundle, bundle.items, 1, self.device)
        self.target = self._load_model(TARGET, dtype)
        self.draft = self._load_model(DRAFT, dtype) if bundle.has_draft else None
        if bundle.settings.drafter.needs_cost:
            self._learn_costs(cost_folder)
        own = bundle.settings.verifier
        self._verifiers: dict[str, Verifier] = {**{name: cls() for name, cls in VERIFIERS.items()}, own.name: own}
        self._drafters: dict[Method, Drafter] = {}
        self._lock = threading.Lock()  # models and drafters keep state while they work
        self._decoder(self.served, self.method())  # refuses what cannot work before the first request

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        device: torch.device | str | None = None,
        dtype: str | None = None,
        check: Check = "full",
        trust_code: bool = False,
        cost_folder: Path | None = None,
        execution: Execution | None = None,
    ) -> "Recommender":
        """Check and load a bundle; see :class:`Bundle` and :class:`Recommender`.

        Raises:
            FileNotFoundError: if there is no bundle.
            ValueError: if it is damaged, newer than this version, or cannot be used as asked.
        """
        return cls(Bundle(Path(path), check, trust_code), device, dtype, cost_folder, execution)

    def _load_model(self, name: str, dtype: str | None) -> PreTrainedModel:
        encoder = self.served.encoder if name == TARGET else self.served.draft_encoder
        model: Any = self.bundle.source(name, dtype).build(encoder.vocabulary, self.bundle.folder)
        return pack_linears(model.to(self.device).requires_grad_(False))

    def _learn_costs(self, folder: Path | None) -> None:
        for name, model in ((TARGET, self.target), (DRAFT, self.draft)):
            if model is not None:
                file = folder / f"{name}.json" if folder else None
                load_or_measure(file, model, f"{self.bundle.fingerprint} {name}")
        calibration = read_calibration(self.bundle.folder / DRAFT) if self.draft is not None else None
        if self.draft is not None and calibration is not None:
            keep_calibration(self.draft, calibration)

    def method(self, verification: str | None = None, speculation: bool = True) -> Method:
        """Return a method of answering.

        Args:
            verification: ``strict``, ``bounded``, ``relaxed`` or ``lossless``, with the bundle's settings for its own
                verifier and the default ones for others; the bundle's own if not given.
            speculation: whether the bundle's drafter proposes; without it, the answer of plain beam search.

        Raises:
            ValueError: if there is no such verifier, or it cannot serve the catalog.
        """
        name = verification or self.bundle.settings.verifier.name
        if name not in self._verifiers:
            raise ValueError(f"verification is {name!r}; expected one of {', '.join(self._verifiers)}")
        self._verifiers[name].check(self.served.trie)
        return Method(name, speculation)

    def _decoder(self, served: ServedCatalog, method: Method) -> SpeculativeDecoder:
        if method not in served.decoders:
            settings = self.bundle.settings
            served.decoders[method] = SpeculativeDecoder(
                self.target,
                served.trie,
                self._drafter(method),
                self._verifiers[method.verification],
                self.draft,
                settings.normalize,
                max_prompt_tokens=served.encoder.max_prompt_tokens,
                draft_tokens=served.draft_tokens,
                max_draft_prompt_tokens=served.draft_encoder.max_prompt_tokens,
                execution=self.execution,
            )
        return served.decoders[method]

    def _drafter(self, method: Method) -> Drafter:
        """Return the drafter of a method, one for all versions of the catalog."""
        if method not in self._drafters:
            speculative = copy.deepcopy(self.bundle.settings.drafter)
            self._drafters[method] = speculative if method.speculation else NoDrafter()
        return self._drafters[method]

    def build(self, items: pa.Table, version: int) -> ServedCatalog:
        """Return another version of the catalog, ready to be assigned to :attr:`served`.

        New requests are then answered from it; those that were made before keep theirs.

        Args:
            items: a row per item; see :attr:`Bundle.items` and :func:`edit_items`.
            version: its number.

        Raises:
            ValueError: if the models cannot serve the items.
        """
        served = ServedCatalog(self.bundle, items, version, self.device)
        self._decoder(served, self.method())
        return served

    def request(
        self,
        history: Sequence[str | int],
        k: int | None = None,
        *,
        exclude_seen: bool | None = None,
        item_mask: torch.Tensor | None = None,
        allow: Sequence[str | int] | None = None,
        deny: Sequence[str | int] = (),
        where: Mapping[str, Collection[str]] | None = None,
        verification: str | None = None,
        speculation: bool = True,
        seed: int | None = None,
        skip_unknown_items: bool = False,
    ) -> Request:
        """Check a request; :meth:`answer` answers it from the catalog of this moment.

        Args:
            history: names of items, oldest first; empty for a user without history, who gets popular items.
            k: how many semantic IDs, at most the beam width; 10, or the beam width if that is less, if not given.
            exclude_seen: whether the items of the history are left out; as the bundle says if not given.
            item_mask: which items may be recommended, ``[num_items]``, bool; all if not given.
            allow: further conditions, as ``deny`` and ``where``; see :meth:`ServedCatalog.item_mask`.
            deny: see there.
            where: see there.
            verification: see :meth:`method`.
            speculation: see :meth:`method`.
            seed: of a verifier that samples: a seed repeats its answer, whatever shares the batch.
            skip_unknown_items: leave out items of the history that the catalog does not have, instead of refusing them.

        Raises:
            ValueError: if a value is out of range, or an item is not in the catalog.
        """
        served = self.served
        k = min(10, self.num_beams) if k is None else k
        if not 1 <= k <= self.num_beams:
            raise ValueError(f"k is {k}; expected 1 to {self.num_beams}, the beam width of the bundle")
        if seed is not None and not 0 <= seed <= LARGEST_SEED:
            raise ValueError(f"seed is {seed}; expected 0 to {LARGEST_SEED}")
        by_name = served.item_mask(allow, deny, where)
        if item_mask is not None and by_name is not None:
            item_mask = item_mask & by_name
        names = _names(history)
        skipped = [name for name in names if name not in served.catalog] if skip_unknown_items else []
        known = [name for name in names if name in served.catalog] if skipped else names
        return Request(
            served=served,
            history=served.indices(known),
            skipped=skipped,
            k=k,
            exclude_seen=self.bundle.settings.exclude_seen if exclude_seen is None else exclude_seen,
            item_mask=by_name if item_mask is None else item_mask,
            method=self.method(verification, speculation),
            seed=secrets.randbelow(LARGEST_DRAWN_SEED) if seed is None else seed,
        )

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer requests of one catalog version and method in one batch; in the order of the requests."""
        result: dict[int, Answer] = {}
        asked = []
        for number, request in enumerate(requests):
            if request.history:
                asked.append(number)
            else:
                result[number] = request.served.popular.answer(request.k, request.item_mask)
        if asked:
            found = self._decode([requests[number] for number in asked])
            result.update(zip(asked, found, strict=True))
        return [result[number] for number in range(len(requests))]

    def _decode(self, requests: Sequence[Request]) -> list[Answer]:
        served = requests[0].served
        histories = [request.history for request in requests]
        prompts, draft_prompts = (
            encoder.pad([encoder.encode(history) for history in histories], "left")
            for encoder in (served.encoder, served.draft_encoder)
        )
        item_filter = self._filter(requests)
        with self._lock:
            decoded = self._decoder(served, requests[0].method)(
                prompts.tokens.to(self.device),
                prompts.mask.to(self.device),
                self.num_beams,
                item_filter,
                seeds=torch.tensor([request.seed for request in requests], device=self.device),
                draft_prompts=draft_prompts.tokens.to(self.device),
                draft_prompt_mask=draft_prompts.mask.to(self.device),
            )
        found = answers(decoded, served.trie, served.catalog, item_filter)
        return [
            replace(answer, recommended=answer.recommended[: request.k])
            for answer, request in zip(found, requests, strict=True)
        ]

    def _filter(self, requests: Sequence[Request]) -> ItemFilter | None:
        """Return the filter of a batch; None if every request may get all items."""
        num_items = requests[0].served.catalog.num_items
        if not any(request.exclude_seen or request.item_mask is not None for request in requests):
            return None
        mask = unseen_items(
            [request.history if request.exclude_seen else [] for request in requests], num_items
        ).item_mask
        for row, request in zip(mask, requests, strict=True):
            if request.item_mask is not None:
                row &= request.item_mask
        return ItemFilter(mask.to(self.device))

    def recommend(
        self,
        histories: Sequence[Sequence[str | int]],
        k: int | None = None,
        *,
        exclude_seen: bool | None = None,
        item_filter: ItemFilter | None = None,
        verification: str | None = None,
        seed: int | None = None,
        skip_unknown_items: bool = False,
    ) -> list[Answer]:
        """Recommend items, in batches of similar length.

        Args:
            histories: any number of them; see :meth:`request` for this and what follows.
            k: how many semantic IDs; each comes with all items that share it.
            exclude_seen: leave out the items of each history.
            item_filter: which items may be recommended, to all or to each; see :class:`ItemFilter`.
            verification: how proposals are verified.
            seed: of a verifier that samples, for each history.
            skip_unknown_items: leave out items that the catalog does not have.

        Raises:
            ValueError: see :meth:`request`; the message names the history.
        """
        masks = item_filter.item_mask.expand(len(histories), -1) if item_filter else [None] * len(histories)
        requests = []
        for row, (history, mask) in enumerate(zip(histories, masks, strict=True)):
            try:
                request = self.request(
                    history,
                    k,
                    exclude_seen=exclude_seen,
                    item_mask=mask,
                    verification=verification,
                    seed=seed,
                    skip_unknown_items=skip_unknown_items,
                )
            except ValueError as error:
                raise ValueError(f"history {row}: {error}") from error
            requests.append(request)
        order = sorted(range(len(requests)), key=lambda row: requests[row].num_items)
        result: dict[int, Answer] = {}
        size = self.bundle.settings.batch_size
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            result.update(zip(rows, self.answer([requests[row] for row in rows]), strict=True))
        return [result[row] for row in range(len(requests))]


def _names(history: Sequence[str | int]) -> list[str]:
    """Return the names of items; a text, None or a missing value would otherwise pass as names of unknown items."""
    if history is None or isinstance(history, str):
        raise ValueError(f"the history is {history!r}; expected a list of item names, empty for a user without history")
    for name in history:
        if not isinstance(name, str | numbers.Integral):
            raise ValueError(f"the history has {name!r}; expected names of items, strings or integers")
    return [str(name) for name in history]
