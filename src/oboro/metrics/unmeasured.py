"""No metric: for runs that are only looked at."""

from pathlib import Path

import torch
from torch import Tensor

from oboro.metrics.extractor import Images, Progress
from oboro.metrics.metric import Metric


class Unmeasured(Metric):
    """Measures nothing: no weights, no features, no numbers; final."""

    active = False

    def name(self, n: int) -> str:
        return "unmeasured"

    def prepare(self) -> None:
        """Nothing is needed."""

    def load(self, device: torch.device | str) -> None:
        """Nothing is loaded."""

    def reference(
        self, images: Images, fingerprint: str, split: str, cache_dir: str | Path, progress: Progress | None = None
    ) -> tuple[()]:
        """An empty tuple, without reading ``images``."""
        return ()

    def features(self, images: Tensor) -> Tensor:
        """A tensor (B, 0)."""
        return images.new_zeros(len(images), 0, dtype=torch.float32)

    def value(self, features: Tensor, reference: tuple[()]) -> dict[str, float]:
        """``{}``."""
        return {}

    def protocol(self, n: int, reference: tuple[()], fingerprint: str, split: str) -> dict[str, str | int]:
        return {"metric": "unmeasured"}
