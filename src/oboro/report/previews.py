"""What a sampler takes the samples for on the way."""

from pathlib import Path

from torch import Tensor, stack

from oboro.modality import Modality

ROWS = 8  # samples that are shown


class Previews:
    """x̂0 of the first samples on the way, from left to right, written to ``path`` whenever a column is added.

    A column is the first x̂0 at or below t = 1, 1 - 1/``columns``, 1 - 2/``columns`` …, or of the first evaluation that
    is below several of them.
    """

    def __init__(self, path: Path, columns: int, modality: Modality):
        self.path = path
        self.modality = modality
        self.columns = columns
        self._shown: list[Tensor] = []
        self._next = 1.0

    def wants(self, t: float) -> bool:
        return t <= self._next + 1e-6 and len(self._shown) < self.columns

    def add(self, samples: Tensor, t: float) -> None:
        """Stored ``samples`` (N, C, ...) as the next column, that of time ``t``."""
        self._shown.append(samples[:ROWS].cpu())
        while self._next >= t - 1e-6:
            self._next -= 1 / self.columns
        rows = stack(self._shown, 1).flatten(0, 1)
        self.modality.picture(rows, len(self._shown)).save(self.path)
