"""The monitors on a CUDA device."""

from pathlib import Path

import pytest
import torch

from atspeed.callbacks import LossParts, SpeculationMonitor, SpeedupMonitor
from atspeed.data import EmbeddedCatalog, RecommendationData
from atspeed.decoding import ModelDrafter, StrictTopK, TrieDrafter
from atspeed.losses import AtSpeedS
from atspeed.models import NewModel
from atspeed.modules import Alignment, Inference
from tests.modules.tiny import TINY, make_trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_monitors_log_on_a_gpu(tmp_path: Path) -> None:
    gpu = {"accelerator": "gpu", "devices": 1}
    data = RecommendationData(EmbeddedCatalog(20, 140), examples="requests", max_tokens=256, batch_size=5)
    module = Alignment("strict", NewModel("llama", TINY, 1), NewModel("llama", TINY, 2), AtSpeedS(4), num_beams=4)
    callbacks = [SpeculationMonitor(ModelDrafter(8, 3), 4, num_users=9), LossParts()]
    trainer = make_trainer(tmp_path, callbacks=callbacks, limit_val_batches=2, **gpu)
    trainer.fit(module, data)
    assert 1 <= trainer.callback_metrics["val/target_calls"] <= 4
    assert trainer.callback_metrics["val/overlap"] > 0.9
    recommender = Inference(
        "recommend", NewModel("llama", TINY, 1), TrieDrafter(), StrictTopK(), num_beams=5, metrics_at=[5]
    )
    (values,) = make_trainer(tmp_path, callbacks=[SpeedupMonitor(2)], **gpu).test(recommender, data, verbose=False)
    assert values["test/speedup"] > 0
