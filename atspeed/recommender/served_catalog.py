"""A version of the catalog, with all that answering from it takes."""

from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from atspeed.catalog import ItemCatalog
from atspeed.catalog.item_catalog import POPULARITY
from atspeed.decoding import SpeculativeDecoder
from atspeed.recommender.answering_method import Method
from atspeed.recommender.bundle import Bundle
from atspeed.recommender.popular_items import PopularItems
from atspeed.recommender.response_trie import draft_tokens, response_trie


class ServedCatalog:
    """Items, and what is made of them; it never changes, so answers that began with a version are of that version.

    Args:
        bundle: whose models answer.
        items: a row per item; see :attr:`Bundle.items`.
        version: number of the version; 1 is the bundle's own catalog.
        device: where the trie goes.

    Attributes:
        catalog: the items.
        encoder: of the target's prompts.
        draft_encoder: of the draft's.
        trie: of the items.
        draft_tokens: see :func:`atspeed.recommender.response_trie.draft_tokens`.
        popular: what users without history get.
        decoders: those that have been made for this version, by method.

    Raises:
        ValueError: if an item has a code that the models have not learnt, or two items have one name.
    """

    def __init__(self, bundle: Bundle, items: pa.Table, version: int, device: torch.device) -> None:
        self.version = version
        self.items = items
        own = items is bundle.items
        self.catalog = bundle.catalog if own else ItemCatalog.from_table(items, bundle.catalog.words)
        if self.catalog.num_levels != bundle.catalog.num_levels:
            raise ValueError(
                f"the items have semantic IDs of {self.catalog.num_levels} codes; the models write "
                f"{bundle.catalog.num_levels}"
            )
        self.encoder, self.draft_encoder = bundle.encoders(None if own else self.catalog)
        self.trie = response_trie(self.catalog, self.encoder).to(device)
        self.draft_tokens = draft_tokens(self.encoder, self.draft_encoder) if bundle.has_draft else None
        self.decoders: dict[Method, SpeculativeDecoder] = {}
        self.popular = PopularItems(items[POPULARITY].to_numpy(), self.catalog, self.trie)

    def indices(self, names: Sequence[str | int]) -> list[int]:
        """Return the indices of items by their names (a number is the name that it is written as).

        Raises:
            ValueError: if there is no item of that name.
        """
        return [self.catalog.index(str(name)) for name in names]

    def item_mask(
        self,
        allow: Sequence[str | int] | None = None,
        deny: Sequence[str | int] = (),
        where: Mapping[str, Collection[str]] | None = None,
    ) -> Tensor | None:
        """Return which items may be recommended, ``[num_items]``, bool; None: all.

        Args:
            allow: names of the only items that may be; all if not given.
            deny: names of items that may not be.
            where: column of the metadata → values, of which an item must have one; every column must match. Of a column
                of lists, an item must have one of the values among its own.

        Raises:
            ValueError: if an item or a column is unknown, or a column is none of texts.
        """
        if allow is None and not deny and not where:
            return None
        mask = torch.full((self.catalog.num_items,), allow is None)
        mask[_rows(self.indices(allow or ()))] = True
        for column, values in (where or {}).items():
            mask &= self._has_value(column, values)
        mask[_rows(self.indices(deny))] = False
        return mask

    @property
    def text_columns(self) -> list[str]:
        """The columns of metadata that :meth:`item_mask` can look at."""
        known = ("item", "sid")
        return [field.name for field in self.items.schema if _is_text(field.type) and field.name not in known]

    def _has_value(self, column: str, values: Collection[str]) -> Tensor:
        """Return which items have one of some values in a column, ``[num_items]``, bool."""
        if column not in self.text_columns:
            raise ValueError(
                f"the items have no column {column!r} of texts to filter by; they have {self.text_columns}"
            )
        found = self.items[column].combine_chunks()
        wanted = pa.array(list(values), pa.string())
        if not pa.types.is_list(found.type):
            return torch.from_numpy(pc.is_in(found, wanted).to_numpy(zero_copy_only=False))
        owners = pc.list_parent_indices(found).filter(pc.is_in(pc.list_flatten(found), wanted))
        return torch.zeros(len(found), dtype=torch.bool).index_fill_(0, torch.tensor(owners.to_numpy()), True)


def _rows(indices: Sequence[int]) -> Tensor:
    return torch.tensor(indices, dtype=torch.long)


def _is_text(column: pa.DataType) -> bool:
    return pa.types.is_string(column.value_type if pa.types.is_list(column) else column)
