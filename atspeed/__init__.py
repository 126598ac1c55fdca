"""atspeed: exact speculative beam decoding and draft alignment for LLM-based generative recommendation.

Shape letters used in comments throughout: ``B`` requests, ``K`` beams, ``N`` draft beams, ``T`` token-tree nodes,
``S`` cache slots, ``C`` children of a node, ``P`` prompt tokens, ``L`` levels of a semantic ID, ``V`` vocabulary.
"""

__version__ = "0.1.0"
