"""What speculation costs with the current draft."""

import logging
from typing import Any

import lightning.pytorch as pl
from transformers import PreTrainedModel

from atspeed.callbacks.required_module import require_module
from atspeed.checks import require_at_least
from atspeed.data.examples import evenly_spread
from atspeed.decoding import Drafter, NoDrafter, SpeculativeDecoder, Verifier, request_seeds
from atspeed.metrics import AnswerOverlap, Speculation
from atspeed.modules import Alignment
from atspeed.modules.model_building import build_frozen_model
from atspeed.modules.zero import zero_stage

log = logging.getLogger(__name__)


class SpeculationMonitor(pl.Callback):
    """Decodes requests of some validation users with the current draft, and logs what speculation costs.

    It does so at every validation of an :class:`Alignment`, and before its first training step, so that the curves
    start at the initial draft. It logs, over the users of all processes, ``val/target_calls`` and ``val/draft_calls``
    per request, ``val/accepted_levels`` per target call, ``val/acceptance_rate``, the acceptance rate of each level
    (``val/acceptance_rate_level_<l>``, 0 for the first code), and ``val/overlap``, the share of the exact answer that
    is found. At the end of a fit a line says what it brought.

    A validation costs the decoding of ``num_users`` requests, shared among the processes. The exact answers take
    ``num_users`` plain beam searches once. If the module reads a target cache and has no target, this callback loads
    the target, once per process, and keeps it until the end of the run.

    Args:
        drafter: what proposes.
        num_beams: beam width K.
        num_users: validation users to decode, evenly spread over the file; all of them if there are fewer.
        verifier: what is accepted; strict if not given.
        seed: for a verifier that samples; every validation draws the same random numbers.
    """

    def __init__(
        self,
        drafter: Drafter,
        num_beams: int = 20,
        num_users: int = 64,
        verifier: Verifier | None = None,
        seed: int = 0,
    ) -> None:
        require_at_least(1, num_beams=num_beams, num_users=num_users)
        self.drafter = drafter
        self.num_beams = num_beams
        self.num_users = num_users
        self.verifier = verifier
        self.seed = seed
        self._decoder: SpeculativeDecoder | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a module without a draft, and warn where nothing can be measured."""
        require_module(self, pl_module, Alignment)
        self._initial: dict[str, float] | None = None  # of the draft that the fit starts from
        self._latest: dict[str, float] | None = None  # of the last validation
        self._silent = zero_stage(trainer) == 3
        if self._silent:
            log.warning(
                "SpeculationMonitor logs nothing: trainer.strategy has ZeRO stage 3, where all processes must make the "
                "same number of forward passes, and decoding does not. Choose ddp or deepspeed_stage_2 to see target "
                "calls"
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: Alignment) -> None:  # type: ignore[override]
        """Log the initial draft."""
        if trainer.global_step == 0 and not self._silent:
            self._initial = self._measure(trainer, pl_module)
            for logger in trainer.loggers:  # Lightning logs no values in this hook
                logger.log_metrics(self._initial, step=0)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Alignment) -> None:  # type: ignore[override]
        """Log the current draft."""
        if not (trainer.sanity_checking or self._silent):
            self._latest = self._measure(trainer, pl_module)
            # all processes have the same values; without sync_dist Lightning warns
            pl_module.log_dict(self._latest, sync_dist=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Alignment) -> None:  # type: ignore[override]
        """Say what the alignment brought; a resumed fit does not know what it started from."""
        if self._initial is None or self._latest is None or not trainer.is_global_zero:
            return
        log.info(
            "%s: target calls per request %.2f before, %.2f after; acceptance rate %.2f and %.2f",
            pl_module.stage,
            *(values["val/target_calls"] for values in (self._initial, self._latest)),
            *(values.get("val/acceptance_rate", float("nan")) for values in (self._initial, self._latest)),
        )

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Release the models."""
        self._decoder = None

    def _measure(self, trainer: pl.Trainer, module: Alignment) -> dict[str, float]:
        """Return the values over the users of all processes; undefined ones are left out."""
        decoder = self._decoder = self._decoder or self._prepare(trainer, module)
        speculation = Speculation(module.trie.num_levels).to(module.device)
        overlap = AnswerOverlap().to(module.device)
        training = module.model.training
        module.model.eval()
        for batch, exact in self._sample:
            seeds = request_seeds(self.seed, batch.rows)
            decoded = decoder(**batch.decoder_inputs, num_beams=self.num_beams, seeds=seeds)
            speculation.update(decoded.target_calls, decoded.draft_calls, decoded.accepted, decoded.drafted)
            overlap.update(decoded.leaves, exact)
        module.model.train(training)
        values = {**speculation.compute(), "overlap": overlap.compute()}
        return {f"val/{name}": float(value) for name, value in values.items() if not value.isnan()}

    def _prepare(self, trainer: pl.Trainer, module: Alignment) -> SpeculativeDecoder:
        """Choose this process's users, find their exact answers, and return the decoder."""
        target = module.target if module.target_cache is None else self._load_target(module)
        data = module.data
        requests = evenly_spread(data.requests("val"), self.num_users)
        requests.sort(key=lambda request: len(request.history))  # each process gets short and long ones
        requests = requests[trainer.global_rank :: trainer.world_size]
        plain = SpeculativeDecoder(target, module.trie, NoDrafter())
        self._sample = []
        for batch in data.batches_by_length(requests, data.batch_size, module.device):
            self._sample.append((batch, plain(batch.prompts, batch.prompt_mask, self.num_beams).leaves))
        return SpeculativeDecoder(
            target, module.trie, self.drafter, self.verifier, module.model, draft_tokens=module.draft_tokens
        )

    def _load_target(self, module: Alignment) -> PreTrainedModel:
        target: Any = build_frozen_model(module.target_source, module.target_dtype, module.data.encoder, module.trainer)
        target = target.to(module.device)
        log.info(
            "model.target_cache is set, so training needs no target; SpeculationMonitor loads it to decode %d users: "
            "%.1f GB for each process",
            self.num_users,
            target.get_memory_footprint() / 1e9,
        )
        return target
