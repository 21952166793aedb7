"""How good the samples are, during training."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from lightning import Trainer

from oboro.base.amounts import check_fits_memory
from oboro.base.errors import UserError
from oboro.base.ranges import Count, CountOrNone, Seed, Several
from oboro.callbacks.evaluation import MetricEvaluation, SampleEvaluation
from oboro.callbacks.preflight import advise
from oboro.evaluate.drawn_after import Conditions
from oboro.evaluate.evaluator import Evaluator
from oboro.evaluate.protocol import Protocol
from oboro.extractor import Extractor, Joint
from oboro.metrics import Metric, Paired
from oboro.task import Generation


class SampleMetrics(SampleEvaluation, MetricEvaluation):
    """``metrics`` of ``n`` samples of the averaged weights against the training set, on all ranks.

    The values do not depend on the number of devices, and training does not depend on them. They go to every logger
    with their protocol, to ``trainer.callback_metrics`` and, as the latest, to ``latest``.
    """

    def __init__(
        self,
        extractor: Extractor | Joint,
        metrics: Mapping[str, Metric | Paired],
        every_n_steps: CountOrNone,
        n: Several = 2000,
        seed: Seed = 0,
        chunk: Count = 100,
        stop_on_error: bool = True,
        conditions: Conditions = "training",
    ):
        super().__init__(every_n_steps)
        self.stop_on_error = stop_on_error
        if n < 2 or chunk < 1:
            raise UserError(
                f"{n} samples in chunks of {chunk} measure nothing; set callbacks.sample_metrics.n=2 or more and "
                "callbacks.sample_metrics.chunk=1 or more."
            )
        self.extractor = extractor
        self.metrics = metrics
        self.images = n
        self.conditions = conditions
        self.protocol = Protocol(n=n, seed=seed, chunk=min(chunk, n))

    @property
    def samples(self) -> int:
        return self.protocol.n

    @property
    def chunk_size(self) -> int:
        return self.protocol.chunk

    @contextmanager
    def of(self, samples: int) -> Iterator[None]:
        whole = self.protocol
        self.protocol = replace(whole, n=samples)
        try:
            yield
        finally:
            self.protocol = whole

    def on_fit_start(self, trainer: Trainer, task: Generation) -> None:
        """Before any training: what is missing, impossible or out of proportion is reported now."""
        self._evaluator = Evaluator(self.extractor, self.metrics, trainer.datamodule, conditions=self.conditions)
        self._evaluator.check(self._evaluator.known(task), self.protocol.n)
        modality = trainer.datamodule.modality
        check_fits_memory(
            "callbacks.sample_metrics.n", self.protocol.n, modality.shape, modality.dtype.itemsize, modality.noun
        )
        self._evaluator.prepare()
        if self.metrics:
            advise(trainer, task, trainer.datamodule, self.extractor, self.protocol, self.every_n_steps)

    def evaluate(self, trainer: Trainer, task: Generation) -> None:
        if not self.metrics:
            return
        result = self._evaluator.evaluate(
            task, self.protocol, precision=str(trainer.precision), autocast=trainer.precision_plugin.forward_context
        )
        self.log_result(trainer, result)
