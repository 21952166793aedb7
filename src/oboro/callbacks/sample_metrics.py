"""How good the samples are, during training."""

import logging
from typing import Any

import torch
from lightning import Trainer

from oboro import evaluation
from oboro.callbacks.evaluation import Evaluation
from oboro.errors import UserError
from oboro.metrics import Metric
from oboro.task import Diffusion

log = logging.getLogger(__name__)


class SampleMetrics(Evaluation):
    """``metric`` of ``n`` samples of the averaged weights against the training set, on all ranks.

    The value does not depend on the number of devices, and training does not depend on it (``oboro.evaluation``). It
    goes to every logger, to ``trainer.callback_metrics`` and, as the latest, to ``values``.
    """

    def __init__(self, metric: Metric, every_n_steps: int, n: int = 2000, seed: int = 0, chunk: int = 100):
        super().__init__(every_n_steps)
        if n < 2 or chunk < 1:
            raise UserError(
                f"{n} samples in chunks of {chunk} measure nothing; set callbacks.sample_metrics.n=2 or more and "
                "callbacks.sample_metrics.chunk=1 or more."
            )
        self.metric = metric
        self.protocol = evaluation.Protocol(n=n, seed=seed, chunk=min(chunk, n))
        self.values: dict[str, float] = {}
        self._reference: Any = None

    def setup(self, trainer: Trainer, task: Diffusion, stage: str) -> None:
        """Before any training: weights of the extractor are found or fetched, by rank 0 first."""
        if trainer.is_global_zero:
            self.metric.prepare()
        trainer.strategy.barrier()

    def evaluate(self, trainer: Trainer, task: Diffusion) -> None:
        if not self.metric.active:
            return
        if self._reference is None:
            self._reference = evaluation.reference(self.metric, trainer.datamodule, task.device)
            said = evaluation.describe(task, self.metric, self._reference, trainer.datamodule, self.protocol)
            log.info("protocol of %s: %s", self.metric.name(self.protocol.n), said)
        self.values = evaluation.evaluate(
            task,
            self.metric,
            self._reference,
            trainer.datamodule,
            self.protocol,
            autocast=trainer.precision_plugin.forward_context,
        )
        trainer.callback_metrics.update({k: torch.tensor(v) for k, v in self.values.items()})
        for logger in trainer.loggers:
            logger.log_metrics(self.values, trainer.global_step)
        if trainer.is_global_zero:
            log.info("step %d: %s", trainer.global_step, ", ".join(f"{k} {v:.4g}" for k, v in self.values.items()))
