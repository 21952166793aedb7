"""How good reconstructions are, during training."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from lightning import Trainer

from oboro.base.errors import UserError
from oboro.base.ranges import Count, CountOrNone, Several
from oboro.base.spread import spread
from oboro.callbacks.evaluation import CodecEvaluation, MetricEvaluation, check_images
from oboro.evaluate.evaluator import Evaluator, average_settings
from oboro.evaluate.reconstruction import reconstructions
from oboro.extractor import Extractor, Joint
from oboro.metrics import Metric, Paired
from oboro.task import Autoencoder


class ReconstructionMetrics(CodecEvaluation, MetricEvaluation):
    """``metrics`` of the averaged weights' reconstructions of ``n`` held-out images (None: all) against the training
    set, on all ranks: ``reconstruction/<name>``, the rFID of the literature where a metric is FID.

    The codec has not seen these images, so the number beside each, of real images, is the best that can be had.
    """

    def __init__(
        self,
        extractor: Extractor | Joint,
        metrics: Mapping[str, Metric | Paired],
        every_n_steps: CountOrNone,
        n: Several | None = None,
        chunk: Count = 100,
        stop_on_error: bool = True,
    ):
        super().__init__(every_n_steps)
        self.stop_on_error = stop_on_error
        check_images(self, n, chunk)
        self.chunk = chunk
        self.extractor = extractor
        self.metrics = metrics
        self.n = n

    def on_fit_start(self, trainer: Trainer, task: Autoencoder) -> None:
        """Before any training: what is missing or impossible is reported now."""
        data = trainer.datamodule
        self._rows = spread(self.n, len(data.validation))
        if self.metrics and len(self._rows) < 2:
            raise UserError("no images are held out to be reconstructed; set data.validation=1000, or metrics=[].")
        self.images = len(self._rows)
        self._evaluator = Evaluator(self.extractor, self.metrics, data)
        self._evaluator.check({"truth"} | ({"label"} if data.num_classes else set()), len(self._rows))
        self._evaluator.prepare()

    def evaluate(self, trainer: Trainer, task: Autoencoder) -> None:
        if not self.metrics:
            return
        data = trainer.datamodule
        with task.averaged(), trainer.precision_plugin.forward_context():
            images = reconstructions(task.learned, data.validation.samples, self._rows, task.device, self.chunk)
        labels = None if data.validation.labels is None else data.validation.labels[self._rows]
        origin = {
            "images": "reconstructions of held-out images",
            "images_fingerprint": data.fingerprint,
            "ema": average_settings(task.ema),
            "precision": str(trainer.precision),
            "device": task.device.type,
        }
        truth = data.validation.samples[torch.tensor(self._rows)]
        result = self._evaluator.evaluate_images(images, labels, origin, task.device, truth=truth)
        values = {f"reconstruction/{name}": value for name, value in result.values.items()}
        self.log_result(trainer, replace(result, values=values))
