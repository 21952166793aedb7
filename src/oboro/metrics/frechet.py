"""The Fréchet distance between two sets of images."""

import torch

from oboro.base.counted import counted
from oboro.metrics.bank import Bank
from oboro.metrics.metric import Metric, Value
from oboro.metrics.reference import Reference
from oboro.metrics.statistics import FeatureStatistics

SHOWN = 12  # classes that a message lists


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Squared 2-Wasserstein distance of the Gaussians with these moments (Dowson & Landau 1982; Heusel et al. 2017).

    |mu_a - mu_b|² + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2), float64. With roots S = A Aᵀ and S = B Bᵀ the last trace is
    the sum of the singular values of Aᵀ B, so no matrix square root is taken, and singular covariances (fewer samples
    than features) are exact. Non-negative up to rounding: equal inputs give about 1e-15 of the traces.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {len(a.mean)} and of {len(b.mean)} dimensions have no distance")
    cross = torch.linalg.svdvals(a.root.T @ b.root).sum()
    return ((a.mean - b.mean).square().sum() + a.root.square().sum() + b.root.square().sum() - 2 * cross).item()


class Frechet(Metric):
    """The Fréchet distance on one output of the extractor: FID on Inception's pooled features; final.

    ``output="spatial"`` is sFID (Nash et al. 2021, arXiv:2103.03841), which sees where things are. The estimate is
    biased upwards by about c / n, so numbers of different n do not compare.
    """

    moments = True

    def __init__(self, output: str = "features"):
        self.output = output

    @property
    def outputs(self) -> tuple[str, ...]:
        return (self.output,)

    def __call__(self, generated: Bank, reference: Reference) -> dict[str, Value]:
        output = self.output
        statistics = FeatureStatistics.from_features(generated[output])
        short = {"features": "fd", "spatial": "sfd"}.get(output, f"fd_{output}")
        n, d = generated[output].shape
        warning = f"{n:,} samples are not more than its {d:,} features, so its bias is large" if n <= d else ""
        return {short: Value(frechet_distance(statistics, reference.statistics(output)), better=-1, warning=warning)}


class FrechetPerClass(Metric):
    """The mean over classes of the Fréchet distance between generated and real images of a class; final.

    Intra-FID (Miyato & Koyama 2018, arXiv:1802.05637). A generator that ignores its label has a good distance over all
    and a bad one here. Classes have few images each, so the bias is large: compare with what real images score.
    Classes with fewer than two images on a side are left out, and a warning counts them; raises ``ValueError`` where
    no class is left.
    """

    labelled = True
    least = 4

    def least_of(self, classes: int) -> int:
        """With one image more than classes some class has two."""
        return max(self.least, classes + 1)

    def __call__(self, generated: Bank, reference: Reference) -> dict[str, Value]:
        distances = {}
        classes = sorted({*generated.labels.tolist(), *reference.bank.labels.tolist()})
        for label in classes:
            sides = [bank["features"][bank.labels == label] for bank in (generated, reference.bank)]
            if min(len(side) for side in sides) >= 2:
                distances[label] = frechet_distance(*map(FeatureStatistics.from_features, sides))
        if not distances:
            drawn, real = (
                f"{len(bank)} of {counted(len(bank.labels.unique()), 'classes')}"
                for bank in (generated, reference.bank)
            )
            raise ValueError(f"no class has two generated and two real images (there are {drawn} and {real})")
        absent = [label for label in classes if label not in distances]
        listed = ", ".join(map(str, absent[:SHOWN])) + (" …" if len(absent) > SHOWN else "")
        have = "has" if len(absent) == 1 else "have"
        few = f"{len(absent)} of {counted(len(classes), 'classes')} ({listed}) {have} fewer than two images a side"
        warning = f"{few}, so this is a mean over {len(distances)}" if absent else ""
        mean = sum(distances.values()) / len(distances)
        detail = {"classes": distances, "left_out": absent}
        return {"class_fd": Value(mean, better=-1, warning=warning, detail=detail)}
