"""atspeed: exact speculative beam decoding and draft alignment for LLM-based generative recommendation.

Letters of shapes, used in docstrings and comments throughout:

==  ============================================  ==  ============================================
B   requests of a batch                           P   prompt tokens, padding included
K   beams (``num_beams``)                         Q   tokens of one forward pass
N   draft beams (``draft_beams``)                 S   cache slots
L   levels of a semantic ID                       T   nodes of the token tree
C   children of a node                            W   nodes in question, padding included
M   nodes of the trie                             E   scored children, of all nodes of a request
R   true items of a request, padding included     V   vocabulary
==  ============================================  ==  ============================================
"""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import ``Recommender`` at its first use: with it come torch and transformers, which take seconds."""
    if name == "Recommender":
        from atspeed.recommender import Recommender

        return Recommender
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
