"""The cross-entropy E_{t ~ p(t), eps} -log p(y | x_t, t) of a classifier of noisy images, per sample."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oboro.base.draws import rand, randn
from oboro.classifier import NoisyClassifier
from oboro.loss.time import TimeDistribution, time_at
from oboro.schedule import expand_as


class CrossEntropy(nn.Module):
    """-log p(y | x_t, t) with x_t = alpha_t x + sigma_t eps and t ~ p(t): Dhariwal & Nichol 2021 (arXiv:2105.05233,
    sec. 4). The posterior of y makes it least at every t, whatever p(t) is."""

    def __init__(self, time: TimeDistribution):
        super().__init__()
        self.time = time

    def forward(self, classifier: NoisyClassifier, x: Tensor, label: Tensor, generator: torch.Generator) -> Tensor:
        """Objective (B,) of ``x`` (B, ...) with ``label`` (B,); every draw is from ``generator``, on its own device."""
        u = self.time.draw(rand(x.shape[:1], generator).to(x))
        eps = randn(x.shape, generator).to(x)
        loss = F.cross_entropy(self.logits(classifier, x, u, eps), label, reduction="none")
        corrected = self.time.correct(u, loss)
        self.time.record(u, loss.detach())
        return corrected

    def logits(self, classifier: NoisyClassifier, x: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        """(B, num_classes) at the quantiles ``u`` (B,) of p(t) and the noise ``eps`` (B, ...); nothing is drawn."""
        _, t = time_at(u, self.time, classifier.schedule)
        alpha, sigma = classifier.schedule(expand_as(t, x))
        return classifier(alpha * x + sigma * eps, t)
