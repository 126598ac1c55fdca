"""The search of a catalog of OneRec's size with a vocabulary of Llama 3's, in memory beside the model."""

import subprocess
import sys

import pytest

LIMIT_MB = 2000
SEARCH = """
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from atspeed.decoding import ItemTrie, NoDrafter, SpeculativeDecoder, TrieDrafter


def megabytes(name):
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 1000


config = AutoConfig.for_model(
    "llama", vocab_size=128_256, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2
)
model = AutoModelForCausalLM.from_config(config).eval()
before = megabytes("VmRSS")
sids = 100_000 + 8192 * torch.arange(3) + torch.randint(8192, (1_500_000, 3))
drafter = {"plain": NoDrafter(), "all first codes": TrieDrafter(max_nodes=10_000)}[sys.argv[1]]
decode = SpeculativeDecoder(model, ItemTrie(sids), drafter)
prompts = torch.randint(1, 1000, (1, 64))
answer = decode(prompts, prompts > 0, num_beams=512)
assert (answer.scores > -torch.inf).all()
print(megabytes("VmHWM") - before)
"""


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("drafter", ["plain", "all first codes"])  # calls for 512 and for 8,192 new tokens
def test_512_beams_on_1_500_000_items_take_less_than_2_gb_beside_the_model(drafter: str) -> None:
    done = subprocess.run([sys.executable, "-c", SEARCH, drafter], capture_output=True, text=True, check=True)
    assert float(done.stdout) < LIMIT_MB
