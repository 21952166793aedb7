"""The objective of an autoencoder: pixels, features, a bottleneck, and a discriminator that it plays against."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oboro.base import distributed
from oboro.base.constant import constant
from oboro.base.ranges import CountOrNone, NonNegative
from oboro.codec import Learned
from oboro.loss.discriminator import Patch
from oboro.loss.perceptual import Perceptual
from oboro.loss.terms import Terms

LARGEST = 1e4  # of the adaptive weight, as VQGAN's
SCALE = 2.0**12  # of these gradients while they are on their way: float16 has nothing below 6e-8


class Reconstruction(nn.Module):
    """mean over pixels of l1 |x̂ - x| + l2 (x̂ - x)², + perceptual_weight d(x̂, x) + the codec's own term, and from
    step ``warmup`` on + lambda E[-D(x̂)] and the hinge loss of D: the first stage of LDM (Rombach et al. 2022,
    arXiv:2112.10752, eq. 25) and VQGAN (arXiv:2012.09841, eq. 6).

    lambda = adversarial |grad L_rec| / (|grad E[-D(x̂)]| + 1e-4), the gradients at the codec's last layer and of
    L_rec the terms on pixels and features; the ratio is at most 1e4 (VQGAN, eq. 7). Gradients are averaged over ranks
    before their norms are taken: lambda is what one device would find with the batch of all.

    One backward pass serves both players. What the codec learns from sees D with constant weights, what D learns from
    sees x and x̂ as constants, so neither moves the other's weights; the task gives each an optimizer. Until ``warmup``
    D's weights have a gradient of exactly 0, since a process that shares a batch with others waits for a gradient of
    every weight.
    """

    def __init__(
        self,
        perceptual: Perceptual,
        discriminator: Patch,
        l1: NonNegative = 1.0,
        l2: NonNegative = 0.0,
        perceptual_weight: NonNegative = 1.0,
        adversarial: NonNegative = 0.5,
        warmup: CountOrNone = 50000,
    ):
        super().__init__()
        self.perceptual = perceptual
        self.discriminator = discriminator
        self.l1, self.l2 = l1, l2
        self.perceptual_weight = perceptual_weight
        self.adversarial = adversarial
        self.warmup = warmup

    def forward(self, codec: Learned, x: Tensor, step: int, generator: torch.Generator) -> Terms:
        """For images ``x`` (B, C, H, W) in the optimizer step ``step``, counted from 0."""
        made = codec.reconstruct(x, generator)
        image = made.image.to(x)  # a sum over an image needs more digits than bfloat16 has
        error = (image - x).flatten(1)
        pixel = self.l1 * error.abs().mean(1) + self.l2 * error.square().mean(1)
        perceptual = self.perceptual(image, x)
        likeness = pixel + self.perceptual_weight * perceptual
        objective = likeness + made.penalty
        numbers = {"pixel": pixel.mean(), "perceptual": perceptual.mean(), **made.numbers}
        if step >= self.warmup and self.adversarial > 0:
            fooled = self.generator_term(image)
            weight = self.adversarial * adaptive_weight(likeness.mean(), fooled.mean(), codec.last)
            judged = self.discriminator_term(x, image)
            objective = objective + weight * fooled + judged
            numbers |= {"generator": fooled.mean(), "discriminator": judged.mean(), "adaptive_weight": weight}
        else:
            objective = objective + 0 * sum(p.sum() for p in self.discriminator.parameters())
        return Terms(objective, {name: number.detach() for name, number in numbers.items()})

    def generator_term(self, image: Tensor) -> Tensor:
        """-D(x̂), the mean over patches, (B,); the weights of D are constants."""
        return -constant(self.discriminator)(image).flatten(1).mean(1)

    def discriminator_term(self, x: Tensor, image: Tensor) -> Tensor:
        """The hinge loss of D, (B,); both images are constants."""
        return hinge(self.discriminator(x.detach()), self.discriminator(image.detach()))


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """(max(0, 1 - D(x)) + max(0, 1 + D(x̂))) / 2, the mean over patches, (B,), of logits (B, 1, h, w).

    Lim & Ye 2017 (arXiv:1705.02894), halved as in VQGAN's code.
    """
    return (F.relu(1 - real) + F.relu(1 + fake)).flatten(1).mean(1) / 2


def adaptive_weight(likeness: Tensor, fooled: Tensor, last: nn.Parameter) -> Tensor:
    """|grad likeness| / (|grad fooled| + 1e-4), at most 1e4; gradients at ``last`` of the means of all ranks."""
    gradients = [
        torch.autograd.grad(SCALE * term, last, retain_graph=True)[0].float() / SCALE for term in (likeness, fooled)
    ]
    first, second = distributed.mean(torch.stack(gradients)).flatten(1).norm(dim=1)
    return (first / (second + 1e-4)).clamp(max=LARGEST)
