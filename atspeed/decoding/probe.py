"""Whether a model takes a tree attention mask: found out by trying, never by its name."""

import logging

import torch
from torch import Tensor
from transformers import PreTrainedModel

from atspeed.decoding.forward import HEAD_APART
from atspeed.decoding.scorer import PrefixScorer
from atspeed.decoding.trie import ItemTrie

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Largest difference of log-probabilities in float32, in standard deviations of the logits. Rounding gives
1e-6 to 1e-5, a mask that a model does not honour 1e-2 and more (tests/decoding/test_probe.py)."""
ROUNDING = 4.0
"""In low precision: how many times the difference between plain rows and the same rows, padded, is still rounding. So
is what the smallest change of the input embeddings makes, and twice the precision, as that of the logits alone."""
LARGEST = 0.3
"""In low precision: a difference that is never rounding."""
NUM_BRANCHES = 2
_PROBED = "_atspeed_probed_tokens"
"""Attribute of a model: how it attends → tokens of the longest prompt and semantic ID that passed."""

_WAY_OUT = (
    "If it attends within a chunk or a window of its own, shorten the prompts (data.max_history); otherwise use an "
    "architecture with full or sliding attention and position_ids, such as Llama, Qwen3, Mistral, Gemma 3 or GPT-2, or "
    "transformers.generate"
)


def check_tree_attention(model: PreTrainedModel, prompt_tokens: int, num_levels: int) -> None:
    """Refuse a model whose scores under a tree attention mask are not those of plain causal rows.

    A short and a long prompt, left-padded to one length, and a branching tree are scored in two calls, the second
    branch first, and compared with each branch as a plain row without padding, mask or cache. A model that numbers
    positions by cache slot (ALiBi), attends within a chunk or within another window than :class:`SlidingWindow` finds,
    keeps a recurrent state or ignores the mask does not pass. Windows and chunks show only beyond their length, so the
    probe is as long as the longest request.

    What passed is kept on the model, so a model is probed once, and again only for longer requests.

    Args:
        model: the model, on its device; its mode is restored.
        prompt_tokens: tokens of the longest prompt to come.
        num_levels: codes of a semantic ID, L.

    Raises:
        ValueError: naming the architecture, the difference, and what to do.
    """
    if _is_probed(model, prompt_tokens, num_levels):
        return
    length = prompt_tokens + num_levels
    name = type(model).__name__
    log.info("probing the tree attention of %s with prompts of %d tokens (a few forward passes)", name, prompt_tokens)
    training = model.training
    model.eval()
    try:
        setattr(model, HEAD_APART, model.config.get_text_config().vocab_size if head_is_apart(model) else 0)
        difference, tolerance = _measure(model, prompt_tokens, num_levels)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model does not take, it says in its own way
        raise ValueError(
            f"{name} cannot be used here: its forward pass fails under a 4-D tree attention mask with explicit "
            f"position_ids and a key-value cache, at {length} tokens ({type(error).__name__}: {error}). {_WAY_OUT}"
        ) from error
    finally:
        model.train(training)
    if not difference <= tolerance:  # also where it is not a number
        raise ValueError(
            f"{name} cannot be used here: its log-probabilities under a tree attention mask differ from those of plain "
            f"rows by {difference:.2g} standard deviations of the logits at {length} tokens (tolerance "
            f"{tolerance:.2g}), so its answers would be silently wrong. {_WAY_OUT}"
        )
    setattr(model, _PROBED, {**getattr(model, _PROBED, {}), _attention(model): length})


def ensure_tree_attention(model: PreTrainedModel, prompt_tokens: int, num_levels: int) -> None:
    """Probe a model before prompts that are longer than those it was probed for, with room for longer ones to come.

    Lengths are rounded up to powers of two, so that a stream of ever longer prompts takes a few probes; where the model
    has no such room, the probe is at the length itself. Arguments and errors as in :func:`check_tree_attention`.
    """
    if _is_probed(model, prompt_tokens, num_levels):
        return
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2 * prompt_tokens
    rounded = min(1 << (prompt_tokens - 1).bit_length(), room - num_levels)
    if rounded > prompt_tokens:
        try:
            return check_tree_attention(model, rounded, num_levels)
        except ValueError as error:
            log.info("%s", error)
    check_tree_attention(model, prompt_tokens, num_levels)


@torch.no_grad()
def head_is_apart(model: PreTrainedModel) -> bool:
    """Return whether a model's logits are its output embedding on its base model's last hidden state, no more.

    Then logits need not be held for all positions at once. It is found out by swapping what the output embedding
    returns for large numbers during one call, so that a cap of any height shows, whatever the weights. Gemma 2 caps its
    logits, Granite divides them, Cohere multiplies them. Weights that ZeRO-3 shards are gathered at each use of a
    module, which all processes must make equally often, so there it is never done.
    """
    head = model.get_output_embeddings()
    if head is None or any(hasattr(weight, "ds_id") for weight in head.parameters()):
        return False
    seen: list[Tensor] = []  # what the output embedding was given, and what it is said to have returned

    def swap(_: torch.nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
        seen.extend((arguments[0], torch.linspace(-1e3, 1e3, output.numel()).view(output.shape).to(output)))
        return seen[-1]

    tokens = torch.arange(min(8, model.config.get_text_config().vocab_size), device=model.device)[None]
    hook = head.register_forward_hook(swap)
    try:
        logits = model(input_ids=tokens, use_cache=False).logits
        hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    except Exception:  # a base model of another kind; whether the model itself can be used is measured next
        logits = hidden = None
    finally:
        hook.remove()
    is_apart = hidden is not None and len(seen) == 2 and seen[0].equal(hidden) and seen[1].float().equal(logits.float())
    is_apart = is_apart and logits.shape[2] == model.config.get_text_config().vocab_size
    if not is_apart:
        log.info(
            "%s does more for its logits than multiply by its output embedding: a call holds those of all new tokens",
            type(model).__name__,
        )
    return is_apart


def _is_probed(model: PreTrainedModel, prompt_tokens: int, num_levels: int) -> bool:
    return getattr(model, _PROBED, {}).get(_attention(model), 0) >= prompt_tokens + num_levels


def _attention(model: PreTrainedModel) -> str | None:
    """Return the name of a model's attention function, which may be changed."""
    return getattr(model.config.get_text_config(), "_attn_implementation", None)


@torch.no_grad()
def _measure(model: PreTrainedModel, prompt_tokens: int, num_levels: int) -> tuple[float, float]:
    """Return how far tree and plain rows differ, in standard deviations of the logits, and how far they may."""
    generator = torch.Generator().manual_seed(0)
    num_tokens = model.config.get_text_config().vocab_size

    def random_tokens(*shape: int) -> Tensor:
        return torch.randint(num_tokens, shape, generator=generator)

    trie = ItemTrie(_branching_sids(num_tokens, num_levels, generator)).to(model.device)
    branches = torch.arange(NUM_BRANCHES, device=model.device)
    paths = trie.path(trie.leaves(branches))[:, 1:].flip(1)  # [NUM_BRANCHES, L - 1], inner nodes, first to last

    prompts = random_tokens(2, prompt_tokens)
    mask = torch.ones_like(prompts, dtype=torch.bool)
    mask[1, : prompt_tokens // 2] = False
    prompts, mask = prompts.to(model.device), mask.to(model.device)
    scorer = PrefixScorer(model, trie, prompts, mask)
    for path in (paths[1], paths[0]):
        scorer.score(path.expand(2, -1))
    nodes = torch.nn.functional.pad(paths, (1, 0))  # [NUM_BRANCHES, L], from the root
    children, ours = scorer.children(nodes.flatten().expand(2, -1))  # [2, NUM_BRANCHES · L, C]
    exists = (children > 0).unflatten(1, nodes.shape)
    wanted = trie.token[children].unflatten(1, nodes.shape)
    ours = ours.unflatten(1, nodes.shape)

    difference = rounding = 0.0
    for row in range(2):
        plain = torch.cat([prompts[row][mask[row]].expand(NUM_BRANCHES, -1), trie.token[paths]], dim=1)
        logits = _plain_logits(model, plain, num_levels)  # [NUM_BRANCHES, L, V]
        spread = logits.std().clamp(min=torch.finfo(logits.dtype).tiny)
        expected = logits.log_softmax(2)
        gap = (ours[row] - expected.gather(2, wanted[row])) / spread
        difference = max(difference, float(gap.masked_fill(~exists[row], 0).abs().nan_to_num(torch.inf).max()))
        if model.dtype != torch.float32:
            padded = _plain_logits(model, torch.nn.functional.pad(plain, (0, 3)), num_levels + 3)[:, :num_levels]
            alone = torch.cat([_plain_logits(model, one[None], num_levels) for one in plain])
            nudged = _nudged_logits(model, plain, num_levels)
            for other, factor in ((padded, ROUNDING), (alone, ROUNDING), (nudged, 1)):
                rounding = max(rounding, factor * float(((other.log_softmax(2) - expected) / spread).abs().max()))
    if model.dtype == torch.float32:
        return difference, TOLERANCE
    return difference, min(max(rounding, 2 * torch.finfo(model.dtype).eps), LARGEST)


def _branching_sids(num_tokens: int, num_levels: int, generator: torch.Generator) -> Tensor:
    """Return a small catalog ``[items, L]``: two branches that share their first code, and a sibling of every node.

    In digits, each level with three codes of its own, for L = 3::

        0 0 0    0 1 1                          the branches
        2 0 0    0 2 0    0 0 2                 siblings of the first
        2 1 1    0 2 1    0 1 2                 and of the second
    """
    branches = torch.zeros(NUM_BRANCHES, num_levels, dtype=torch.long)
    branches[1, 1:] = 1
    siblings = branches[:, None].expand(-1, num_levels, -1).clone()
    siblings.diagonal(dim1=1, dim2=2).fill_(2)
    digits = torch.cat([branches, siblings.flatten(0, 1)])
    codes = torch.stack([torch.randperm(num_tokens, generator=generator)[:3] for _ in range(num_levels)], dim=1)
    return codes.gather(0, digits)


def _plain_logits(model: PreTrainedModel, tokens: Tensor, keep: int) -> Tensor:
    """Return the last ``keep`` positions' logits of rows without padding, as any user of the model would get them.

    No others are computed: those of two prompts of 8,192 tokens would take 5 GB with the vocabulary of Qwen3.
    """
    return model(input_ids=tokens, use_cache=False, logits_to_keep=keep).logits.float()


def _nudged_logits(model: PreTrainedModel, tokens: Tensor, keep: int) -> Tensor:
    """Return the logits of plain rows where every second channel of the input embeddings is the next number.

    Products of other shapes often round alike, so their difference says little of what the rounding of a tree brings.
    """

    def nudge(_: torch.nn.Module, __: tuple[Tensor], output: Tensor) -> Tensor:
        nudged = output.clone()
        nudged[..., ::2] *= 1 + torch.finfo(output.dtype).eps
        return nudged

    hook = model.get_input_embeddings().register_forward_hook(nudge)
    try:
        return _plain_logits(model, tokens, keep)
    finally:
        hook.remove()
