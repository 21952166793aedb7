"""Training of a classifier of noisy images, for classifier guidance."""

import torch
import torch.nn.functional as F
from torch import Tensor

from oboro.base.compiled import compile_in_place
from oboro.base.draws import Noise
from oboro.base.ranges import Seed
from oboro.classifier import NoisyClassifier
from oboro.codec import Codec
from oboro.data import DataModule
from oboro.divergence import Divergence
from oboro.ema import EMA
from oboro.loss import CrossEntropy
from oboro.optimizer import Optimizer
from oboro.task.noise_levels import NoiseLevels


class Classification(NoiseLevels):
    """``classifier`` trained by ``loss`` on noisy ``codec.encode(x)`` and its label, averaged by ``ema``.

    Validation tells the loss and the share of right answers (top 1). ``compile`` as in ``Diffusion``.
    """

    measures = ("loss", "accuracy")

    def __init__(
        self,
        classifier: NoisyClassifier,
        codec: Codec,
        loss: CrossEntropy,
        ema: EMA,
        optimizer: Optimizer,
        seed: Seed = 0,
        compile: bool = False,
        noise: Noise = "per_rank",
        divergence: Divergence | None = None,
    ):
        super().__init__(codec, loss, ema, optimizer, seed, noise, divergence)
        self.classifier = classifier
        if compile:
            compile_in_place(self.classifier.network)

    @property
    def learned(self) -> NoisyClassifier:
        return self.classifier

    @property
    def description(self) -> str:
        return f"classifier of noisy images on {type(self.classifier.schedule).__name__}"

    def check(self, data: DataModule) -> None:
        """Raises ``UserError`` for a network that does not give a number for each class of the data."""
        self.check_network(data, [(data.num_classes,)], "unet_encoder_tiny")

    def objective(self, batch: dict[str, Tensor], x: Tensor, generator: torch.Generator) -> Tensor:
        return self.loss(self.classifier, x, batch["label"], generator)

    def errors(self, batch: dict[str, Tensor], x: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        label = batch["label"]
        logits = self.loss.logits(self.classifier, x, u, eps)
        right = (logits.argmax(1) == label).to(logits)
        return torch.stack([F.cross_entropy(logits, label, reduction="none"), right], 1)
