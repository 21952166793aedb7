"""temporary"""
import torch
from torch import Tensor

from oboro.metrics.bank import Bank
from oboro.metrics.inception_score import inception_score
from oboro.metrics.kernel import kernel_distance
from oboro.metrics.manifold import density_coverage, precision_recall
from oboro.metrics.memorization import memorization
from oboro.metrics.metric import Metric, Value
from oboro.metrics.nearest import radii
from oboro.metrics.reference import Reference
from oboro.metrics.sliced_wasserstein import sliced_wasserstein


class Kernel(Metric):
    """The squared MMD under the cubic polynomial kernel: KID on Inception's features; unbiased at any n; final."""

    least = 3

    def __call__(self, generated: Bank, reference: Reference) -> dict[str, Value]:
        found = kernel_distance(generated["features"], reference.bank["features"])
        return {"kd": Value(found.value, better=-1, interval=found.interval)}


class InceptionScore(Metric):
    """The score by the extractor's own classifier: IS on Inception's logits; no reference enters it; final.

    ``detail["std"]`` is the standard deviation over the splits, which is how papers print it. Raise ``splits`` only with
    n: the score of few images is biased downwards.
    """

    outputs = ("logits",)

    def __init__(self, splits: int = 10):
        self.splits = splits
        self.least = splits

    def __call__(self, generated: Bank, reference: Reference) -> dict[str, Value]:
        mean, std = inception_score(generated["logits"], self.splits)
        return {"score": Value(mean, better=1, detail={"std": std})}


class PrecisionRecall(Metric):
    """Improved precision (share of samples within the real manifold) and recall (the reverse); final."""

    def __init__(self, k: int = 3):
        self.k = k
        self.least = k + 1

    def __call__(self, generated: Bank, reference: Reference) -> dict[str, Value]:
        real = reference.bank["features"]
        precision, recall = precision_recall(generated["features"], real, self.k, reference_radii(reference, self.k))
        return {"precision": Value(precision, better=1), "recall": Value(recall, better=1)}


class DensityCoverage(Metric):
    """Density (how many real balls hold a sample) and coverage (share of real balls that hold one); final."""

    def __init__(self, k: int = 5):
        self.k = k
        self.least = k + 1

    def __call__(self, generated: Bank, reference: Reference) -> dict[str, Value]:
        real = reference.bank["features"]
        density, coverage = density_coverage(generated["features"], real, self.k, reference_radii(reference, self.k))
        return {"density": Value(density, better=1), "coverage": Value(coverage, better=1)}


def reference_radii(reference: Reference, k: int) -> Tensor:
    """Distances of real images to their k-th nearest other one, computed once."""

    def compute() -> dict:
        return {"radii": radii(reference.bank["features"], k).numpy()}

    return torch.from_numpy(reference.derived(f"radii to the neighbour {k}, 1", compute)["radii"])


class SlicedWasserstein(Metric):
    """The mean squared 1-Wasserstein-2 distance over random directions: MIND on Inception's features; final."""

    def __init__(self, projections: int = 1000):
        self.projections = projections

    def __call__(self, generated: Bank, reference: Reference) -> dict[str, Value]:
        value = sliced_wasserstein(generated["features"], reference.bank["features"], self.projections)
        return {"sw": Value(value, better=-1)}


class Memorization(Metric):
    """Whether samples are copies of training images: authenticity, copied share, duplicates, median ratio; final.

    A perfect generator does not score 1 or 0 but what real images score, which stands beside each number.
    ``detail["closest"]`` has the ``shown`` likeliest copies as sample id, training image and distance ratio.
    """

    least = 2

    def __init__(self, shown: int = 20):
        self.shown = shown

    def __call__(self, generated: Bank, reference: Reference) -> dict[str, Value]:
        found = memorization(generated["features"], reference.bank["features"], reference_radii(reference, 1))
        rows = (column[: self.shown].tolist() for column in found.closest)
        closest = [{"sample": i, "training": j, "ratio": r} for i, j, r in zip(*rows, strict=True)]
        return {
            "authenticity": Value(found.authenticity, better=1, detail={"closest": closest}),
            "copied": Value(found.copied, better=-1),
            "duplicates": Value(found.duplicates, better=-1),
            "nn_ratio": Value(found.median_ratio, better=1),
        }
