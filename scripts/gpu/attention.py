"""What attention to a tree costs: one softmax under the 4-D mask, split at the prompt, and without any mask.

Usage: ``python -m scripts.gpu.attention --out results``; writes ``attention.json`` and ``attention.md``. It takes about
five minutes on an H100; ``--tiny`` runs all of it on a CPU, with small shapes.

A row is the attention of all layers of one call, replayed as one CUDA graph, each layer with keys of its own, so that
they come from memory. Prompts are padded on the left by up to an eighth, slots are preallocated, and what is prepared
once a call (split bias, block mask) is part of the time.
"""

import argparse
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from atspeed.decoding.tree_attention import SharedPrompt, aligned, attend, tree_attention
from scripts.gpu.measuring import Times, as_graph, default_device, table, take_times, write_results

ROOM = 72
"""Slots behind those that are used."""
DTYPE = torch.bfloat16


@dataclass(frozen=True)
class Case:
    """A call.

    Attributes:
        model: whose shape.
        layers: of the model.
        heads: of the queries.
        groups: heads of the keys.
        width: of a head.
        hidden: width of the model.
        intermediate: width within its feed-forward layers.
        prompt: slots of the prompt, P.
        nodes: of the tree, T.
        batch: requests, B.
    """

    model: str
    layers: int
    heads: int
    groups: int
    width: int
    hidden: int
    intermediate: int
    prompt: int
    nodes: int
    batch: int = 1


@dataclass(frozen=True)
class AttentionRow:
    """The attention of a call.

    Attributes:
        case: the call.
        attention: which.
        times: of all layers; None if it cannot be used here.
        error: largest difference from float64, the answers of a layer being about 0.05 to 0.5.
        failure: why it cannot be used here.
    """

    case: Case
    attention: str
    times: Times | None
    error: float | None = None
    failure: str = ""


LLAMA_7B = partial(Case, "LLaMA-7B", 32, 32, 32, 128, 4096, 11008)
QWEN_1B = partial(Case, "Qwen3-1.7B", 28, 16, 8, 128, 2048, 6144)
CASES = (
    *(LLAMA_7B(64, nodes) for nodes in (20, 140, 256)),
    LLAMA_7B(64, 140, batch=16),
    *(QWEN_1B(prompt, 256) for prompt in (1000, 5000)),
    QWEN_1B(1000, 256, batch=4),
)
TINY = (
    Case("tiny", 2, 4, 4, 16, 64, 128, prompt=8, nodes=5),
    Case("tiny", 2, 4, 2, 16, 64, 128, prompt=40, nodes=9, batch=3),
)


class Call:
    """Random queries, and keys and values in slots, of all layers of a call; attention to them in several ways.

    Attributes:
        mask: True where a node sees a slot: the prompt without its padding, itself and three others, ``[B, T, S]``.
    """

    def __init__(self, case: Case, device: torch.device) -> None:
        generator = torch.Generator(device).manual_seed(0)
        size, end = case.batch, case.prompt + case.nodes

        def states(heads: int, slots: int) -> Tensor:
            return torch.randn(size, heads, slots, case.width, generator=generator, device=device, dtype=DTYPE)

        self.case = case
        self.layers = [
            (
                states(case.heads, case.nodes),
                states(case.groups, end + ROOM)[:, :, :end],
                states(case.groups, end + ROOM)[:, :, :end],
            )
            for _ in range(case.layers)
        ]
        self.weights = [
            torch.randn(*shape, generator=generator, device=device, dtype=DTYPE)
            for shape in (
                ((case.heads + 2 * case.groups) * case.width, case.hidden),
                (case.hidden, case.heads * case.width),
                (2 * case.intermediate, case.hidden),
                (case.hidden, case.intermediate),
            )
        ]
        padding = case.prompt // 8 // (1 + torch.arange(size, device=device))[:, None]  # [B, 1]
        nodes = torch.arange(case.nodes, device=device)
        others = torch.randint(case.nodes, (size, case.nodes, 3), generator=generator, device=device)
        tree = (others[..., None] == nodes).any(2) | (nodes[:, None] == nodes)
        prompt = torch.arange(case.prompt, device=device) >= padding
        self.mask = torch.cat([prompt[:, None].expand(-1, case.nodes, -1), tree], dim=2)
        self.module = nn.Module()
        self.module.num_key_value_groups = case.heads // case.groups
        self.module.is_causal = True

    @property
    def bias(self) -> Tensor:
        """The mask as the engine gives it to a model, ``[B, 1, T, S]``."""
        return torch.where(self.mask, 0.0, torch.finfo(DTYPE).min).to(DTYPE)[:, None]

    def sdpa(self, align: bool = False) -> Iterator[Tensor]:
        """Transformers' ``sdpa``, which repeats keys for the heads of a group where there is a mask."""
        bias = aligned(self.bias) if align else self.bias
        for layer in self.layers:
            yield sdpa_attention_forward(self.module, *layer, bias)[0].transpose(1, 2)

    def cudnn(self) -> Iterator[Tensor]:
        """One softmax by cuDNN."""
        bias = self.bias
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            for layer in self.layers:
                yield scaled_dot_product_attention(
                    *layer, attn_mask=bias, enable_gqa=self.case.groups < self.case.heads
                )

    def split(self) -> Iterator[Tensor]:
        """The package's attention."""
        bias = self.bias
        shared = SharedPrompt(bias, self.case.prompt)
        for layer in self.layers:
            yield tree_attention(self.module, *layer, bias, shared_prompt=shared)[0].transpose(1, 2)

    def masked_prompt(self) -> Iterator[Tensor]:
        """The prompt's part of it alone, by the memory-efficient kernel, padding masked: what float32 models get."""
        shared = SharedPrompt(self.bias, self.case.prompt)
        for query, key, value in self.layers:
            folded = query.reshape(self.case.batch, self.case.groups, -1, self.case.width)
            parts = (states[:, :, : self.case.prompt] for states in (key, value))
            yield attend(folded, *parts, shared.prompt_bias, None)[0].view_as(query)

    def flex(self) -> Iterator[Tensor]:
        """FlexAttention, which leaves out blocks of padding and looks at the mask in none but the tree's."""
        on_gpu, mask = self.mask.is_cuda, self.mask
        attend_flexibly = compiled_flex_attention() if on_gpu else flex_attention
        block_mask = create_block_mask(
            lambda request, _, node, slot: mask[request, node, slot],
            *(self.case.batch, None, self.case.nodes, self.mask.shape[2]),
            device=self.mask.device,
            _compile=on_gpu,
        )
        for layer in self.layers:
            yield attend_flexibly(*layer, block_mask=block_mask, enable_gqa=self.case.groups < self.case.heads)

    def unmasked(self) -> Iterator[Tensor]:
        """No mask at all, the floor: wrong, as nodes see padding and each other."""
        for layer in self.layers:
            yield scaled_dot_product_attention(*layer, enable_gqa=self.case.groups < self.case.heads)

    def products(self) -> Iterator[Tensor]:
        """The products of all layers with their weights, those of one layer again and again."""
        tokens = self.layers[0][0].new_ones(self.case.batch * self.case.nodes, self.case.hidden)
        for _ in self.layers:
            for weight in self.weights:
                yield linear(tokens[:, :1].expand(-1, weight.shape[1]), weight)

    @torch.no_grad()
    def expected(self) -> Tensor:
        """The answer of the last layer by the definition, in float64 on the CPU."""
        query, key, value = (states.cpu().double() for states in self.layers[-1])
        key, value = (states.repeat_interleave(self.case.heads // self.case.groups, dim=1) for states in (key, value))
        scores = query @ key.transpose(2, 3) / self.case.width**0.5
        return scores.masked_fill(~self.mask.cpu()[:, None], -torch.inf).softmax(3) @ value


@cache
def compiled_flex_attention() -> Callable[..., Tensor]:
    """Return FlexAttention as one kernel, compiled for each shape."""
    return torch.compile(flex_attention, dynamic=False)


USUAL = "sdpa, 4-D bias"
PARTS: dict[str, Callable[[Call], Iterator[Tensor]]] = {
    "floor: sdpa without a mask": Call.unmasked,
    "products with the weights": Call.products,
    "prompt's part, padding masked": Call.masked_prompt,
}
ATTENTIONS: dict[str, Callable[[Call], Iterator[Tensor]]] = {
    USUAL: Call.sdpa,
    "sdpa, 4-D bias, rows aligned": partial(Call.sdpa, align=True),
    "FlexAttention, block mask": Call.flex,
    "cuDNN, 4-D bias": Call.cudnn,
    "split (`atspeed_tree`)": Call.split,
}


@torch.no_grad()
def measure(call: Call, name: str, expected: Tensor) -> AttentionRow:
    """Time one way of a call's attention."""

    def run() -> Tensor:
        return deque((ATTENTIONS | PARTS)[name](call), maxlen=1)[0]  # of the last layer

    try:
        error = float((run().cpu().double() - expected).abs().max()) if name in ATTENTIONS else None
        return AttentionRow(call.case, name, take_times(as_graph(run)), error)
    except Exception as failure:  # a kernel that this device or version lacks says so in its own way
        return AttentionRow(call.case, name, None, failure=f"{type(failure).__name__}: {str(failure).splitlines()[0]}")


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--tiny", action="store_true", help="small shapes, for a CPU")
    options = parser.parse_args()
    calls = [Call(case, default_device()) for case in (TINY if options.tiny else CASES)]
    expected = [call.expected() for call in calls]
    rows: list[AttentionRow] = []
    for name in PARTS | ATTENTIONS:  # way by way: after an illegal access of one kernel, nothing runs any more
        for call, answer in zip(calls, expected, strict=True):
            rows.append(measure(call, name, answer))
            write(options.out, rows)


def write(folder: Path, rows: list[AttentionRow]) -> None:
    """Write the table call by call, times beside those of transformers' ``sdpa`` for the same call."""
    usual = {row.case: row.times for row in rows if row.attention == USUAL}
    header = ("model", "batch", "prompt", "nodes", "attention", "ms", "p90", "of sdpa's", "error", "")
    lines = []
    for case in dict.fromkeys(row.case for row in rows):
        for row in (row for row in rows if row.case == case):
            times, sdpa = row.times, usual.get(case)
            share = times.median / sdpa.median if times and sdpa else None
            figures = (times and times.median, times and times.p90, share, row.error, row.failure)
            lines.append((case.model, case.batch, case.prompt, case.nodes, row.attention, *figures))
    notes = (
        "All layers of a call, median and p90 of replays of one CUDA graph by CUDA events; on a CPU wall time.",
        "Random queries, keys and values in bfloat16; prompts are padded on the left by an eighth at most.",
        "error: largest difference from float64 in the last layer.",
    )
    write_results(folder, "attention", "What attention to a tree costs", notes, rows, table(header, lines))


if __name__ == "__main__":
    main()
