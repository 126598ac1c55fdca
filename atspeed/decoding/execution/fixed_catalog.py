"""The catalog of an engine, at fixed addresses."""

from atspeed.decoding.execution.execution import Engine
from atspeed.decoding.execution.fixed_trie import FixedTrie


class FixedCatalog:
    """What target and draft see of a catalog, for all shapes that an engine's searches are captured for.

    Args:
        engine: whose catalog is the first one.
        room: see :class:`FixedTrie`.
    """

    def __init__(self, engine: Engine, room: float) -> None:
        self.trie = FixedTrie(engine.trie, room)
        self.draft_trie = FixedTrie(engine.draft_trie, room) if engine.draft is not None else None

    def has_room_for(self, engine: Engine) -> bool:
        """Return whether what was captured searches the catalog of an engine, too."""
        return self.trie.has_room_for(engine.trie) and (
            self.draft_trie is None or self.draft_trie.has_room_for(engine.draft_trie)
        )

    def load(self, engine: Engine) -> None:
        """Copy the catalog of an engine into place, unless it is there."""
        self.trie.load(engine.trie)
        if self.draft_trie is not None:
            self.draft_trie.load(engine.draft_trie)
