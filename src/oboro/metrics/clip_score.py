"""Numbers on CLIP embeddings: how well images fit their texts, and the distance of two sets of images."""

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from oboro.base.counted import counted
from oboro.metrics.bank import Bank
from oboro.metrics.cache import Arrays
from oboro.metrics.metric import Metric, Value
from oboro.metrics.nearest import BLOCK, checked
from oboro.metrics.reference import Reference

BANDWIDTH = 10.0  # sigma of the Gaussian kernel
SCALE = 1000.0


def clip_score(images: Tensor, texts: Tensor) -> Tensor:
    """100 max(cos(image_i, text_i), 0) (n,), float64, of the CLIP embeddings ``images`` (n, d) and ``texts`` (n, d).

    The scale is that of torchmetrics and of most tables; Hessel et al. 2021 (arXiv:2104.08718) define CLIP-S as
    2.5 max(cos, 0), which is this over 40. The score of a set is the mean; torchmetrics clips that mean instead of each
    pair, which is the same while all cosines are positive, as they are in practice.

    Raises ``ValueError`` unless both have one shape (n, d).
    """
    images, texts = checked(images, texts)
    if len(images) != len(texts):
        raise ValueError(f"{counted(len(images), 'images')} and {counted(len(texts), 'texts')} do not make pairs")
    return 100 * F.cosine_similarity(images.double(), texts.double()).clamp(min=0)


def cmmd(x: Tensor, y: Tensor, within_y: float | None = None) -> float:
    """CMMD of the CLIP embeddings ``x`` (n, d) and ``y`` (m, d) (Jayasumana et al. 2024, arXiv:2401.09603).

    1000 (mean k(x, x') + mean k(y, y') - 2 mean k(x, y)) with k(a, b) = exp(-|a - b|² / (2 · 10²)) on embeddings of
    length one; in [0, 39.6]. The paper describes the unbiased estimate, but the authors' code takes the means over all
    pairs, those of an image and itself included (the V-statistic; Gretton et al. 2012, eq. 5), and so does this: never
    negative, and above the unbiased one by at most 20 (1/n + 1/m).

    The kernel is within 2 % of one, so that in float32 rounding costs 1e-4. Here 1 - k is summed, in float64. Cost
    O((n + m)² d); ``within_y`` is ``spread(y)``, for a caller that keeps it.

    Raises ``ValueError`` for features that are not (n, d) and (m, d), or hold NaN or infinity.
    """
    x, y = checked(x, y)
    within_y = spread(y) if within_y is None else within_y
    pairs = ((a, b) for a in _unit(x).split(BLOCK) for b in _unit(y).split(BLOCK))
    across = sum(_one_minus_kernel(a, b).sum().item() for a, b in pairs) / (len(x) * len(y))
    return SCALE * (2 * across - spread(x) - within_y)


def spread(x: Tensor) -> float:
    """The mean of 1 - k(x_i, x_j) over all n² pairs of rows of ``x`` (n, d), each scaled to length one."""
    parts = _unit(*checked(x)).split(BLOCK)
    total = 0.0
    for i, a in enumerate(parts):
        total += _one_minus_kernel(a, a).sum().item()
        total += 2 * sum(_one_minus_kernel(a, b).sum().item() for b in parts[i + 1 :])
    return total / len(x) ** 2


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.double())


def _one_minus_kernel(a: Tensor, b: Tensor) -> Tensor:
    """1 - k (n, m), float64, of rows of length one, for which |a - b|² = 2 - 2 a·b."""
    return (a @ b.T).sub_(1).div_(BANDWIDTH**2).expm1_().neg_()


class CMMD(Metric):
    """The squared maximum mean discrepancy of CLIP embeddings under a Gaussian kernel, times 1000; final.

    It assumes no normal distribution and is nearly unbiased, so a few thousand images do. Defined for extractor=clip;
    published numbers are on ``openai/clip-vit-large-patch14-336`` and on 30,000 images of COCO.
    """

    extractor = "clip"

    def __call__(self, generated: Bank, reference: Reference) -> dict[str, Value]:
        real = reference.bank["features"]

        def compute() -> Arrays:
            return {"spread": np.array(spread(real))}

        within = reference.derived("mean of 1 - k of CMMD over pairs of features, 1", compute)["spread"]
        return {"cmmd": Value(cmmd(generated["features"], real, float(within)), better=-1)}


class CLIPScore(Metric):
    """The mean of ``clip_score`` over samples and the texts they were drawn for, with its 95 % interval; final.

    Real images and their own captions score what stands beside it. For extractors that read texts: numbers of
    different ones do not compare.
    """

    captioned = True
    least = 1

    def __call__(self, generated: Bank, reference: Reference) -> dict[str, Value]:
        scores = clip_score(generated["features"], generated.texts)
        mean, n = scores.mean().item(), len(scores)
        if n < 2:  # one score has no spread
            return {"clip_score": Value(mean, better=1)}
        error = 1.96 * scores.std().item() / n**0.5
        return {"clip_score": Value(mean, better=1, interval=(mean - error, mean + error))}
