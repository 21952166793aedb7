"""The Inception Score: how sure a classifier is of each image, and how varied its answers are over all of them."""

import numpy as np
import torch
from torch import Tensor

from oboro.base.ranges import Count
from oboro.metrics.bank import Bank
from oboro.metrics.metric import Metric, Value
from oboro.metrics.nearest import checked
from oboro.metrics.reference import Reference


def inception_score(logits: Tensor, splits: int = 10, seed: int = 2020) -> tuple[float, float]:
    """Mean and standard deviation over ``splits`` of exp E KL(p(y|x) || p(y)) (Salimans et al. 2016).

    ``logits`` (n, classes) are shuffled with the draws of torch-fidelity and cut into ``splits`` parts of equal size up
    to one; p(y) is the mean of p(y|x) over a part. The divergence is taken as the difference of entropies
    H(p(y)) - E H(p(y|x)), float64, which is defined also where a probability is zero. Larger is better; the range is
    1 to the number of classes. The score grows with the size of a part, so it depends on n and ``splits``.

    Raises ``ValueError`` where n < ``splits``, and for logits that hold NaN or infinity.
    """
    if logits.ndim != 2 or not 1 <= splits <= len(logits):
        raise ValueError(f"logits of shape {tuple(logits.shape)} cannot be cut into {splits} parts")
    (logits,) = checked(logits)
    order = torch.from_numpy(np.random.RandomState(seed).permutation(len(logits)))
    scores = []
    for i in range(splits):
        part = order[i * len(logits) // splits : (i + 1) * len(logits) // splits]
        p = logits[part].double().softmax(1)
        information = torch.special.entr(p.mean(0)).sum() - torch.special.entr(p).sum(1).mean()
        scores.append(information.exp().item())
    return float(np.mean(scores)), float(np.std(scores))


class InceptionScore(Metric):
    """The score by the extractor's own classifier: IS on Inception's logits; no reference enters it; final.

    ``detail["std"]`` is the standard deviation over the splits, which is how papers print it. Raise ``splits`` only
    with n: the score of few images is biased downwards.
    """

    outputs = ("logits",)

    def __init__(self, splits: Count = 10):
        self.splits = splits

    @property
    def least(self) -> int:
        return self.splits

    def __call__(self, generated: Bank, reference: Reference) -> dict[str, Value]:
        mean, std = inception_score(generated["logits"], self.splits)
        return {"score": Value(mean, better=1, detail={"std": std})}
