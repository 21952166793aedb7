"""The Fréchet distance between two sets of images, on the features of a named extractor."""

import warnings
from pathlib import Path

import torch
from torch import Tensor

from oboro.metrics.extractor import Extractor, Images, Progress
from oboro.metrics.metric import QUANTISATION, Metric
from oboro.metrics.statistics import FeatureStatistics, reference_statistics
from oboro.seeding import generator


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


def frechet_floor(features: Tensor, n: int, seed: int = 0) -> float:
    """Distance of ``n`` randomly chosen rows of real ``features`` (N, d) from the N - n others.

    What a perfect generator scores with n samples: the estimate is biased upwards by about c / n.
    """
    order = torch.randperm(len(features), generator=generator(seed, "frechet floor"))
    features = features.cpu()
    chosen, others = features[order[:n]], features[order[n:]]
    return frechet_distance(FeatureStatistics.from_features(chosen), FeatureStatistics.from_features(others))


class Frechet(Metric):
    """The Fréchet distance on the features of ``extractor``; smaller is better; final.

    The name carries the extractor and the number of generated images, ``fid_inception_50000`` or ``fd_fashion_2000``,
    because the bias of the estimate depends on both: numbers under different names do not compare.
    """

    def __init__(self, extractor: Extractor):
        self.extractor = extractor
        self._warned = False

    def name(self, n: int) -> str:
        return f"{self.extractor.metric_prefix}_{n}"

    def prepare(self) -> None:
        """Make sure that the extractor's weights are here; raises ``UserError`` with the remedy otherwise."""
        self.extractor.prepare()

    def load(self, device: torch.device | str) -> None:
        """Put the extractor on ``device``."""
        self.extractor.load(device)

    def reference(
        self, images: Images, fingerprint: str, split: str, cache_dir: str | Path, progress: Progress | None = None
    ) -> FeatureStatistics:
        """Statistics of the real ``images``, from ``cache_dir`` where they are there."""
        return reference_statistics(self.extractor, images, fingerprint, split, cache_dir, progress=progress)

    def features(self, images: Tensor) -> Tensor:
        """Features (B, d), float32, of uint8 ``images`` (B, C, H, W)."""
        return self.extractor(images)

    def value(self, features: Tensor, reference: FeatureStatistics) -> dict[str, float]:
        """``{name(n): distance}``; warns once where n is not above the number of features."""
        n, d = features.shape
        if n <= d and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.name(n)} comes from {n} images, not more than its {d} features: its bias is large and it "
                "compares only with numbers of the same sample count",
                stacklevel=2,
            )
        return {self.name(n): frechet_distance(FeatureStatistics.from_features(features), reference)}

    def protocol(self, n: int, reference: FeatureStatistics, fingerprint: str, split: str) -> dict[str, str | int]:
        """Metric, extractor, weights digest, resize, quantisation, sample count, and what it is compared with."""
        return {
            "metric": self.name(n),
            "extractor": self.extractor.name,
            "extractor_digest": self.extractor.digest,
            "resize": self.extractor.resize,
            "quantisation": QUANTISATION,
            "samples": n,
            "reference_fingerprint": fingerprint,
            "reference_split": split,
            "reference_samples": reference.n,
        }
