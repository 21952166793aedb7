"""Reconstruction by the principal components of the training samples."""

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.ranges import Count
from oboro.detector.detector import Normals, Pictures, Reconstructing
from oboro.distance import Distance
from oboro.modality import Modality
from oboro.task import Task

CHUNK = 1024  # samples of which sums are taken at once


class PCA(Reconstructing):
    """x̂ = m + V Vᵀ (x - m): m the mean of the training samples, V their ``components`` directions of largest variance.

    The linear autoencoder with the least squared error (Baldi & Hornik 1989), the baseline of all that reconstruct.
    """

    learns = True

    def __init__(self, distances: Mapping[str, Distance], components: Count):
        super().__init__(distances)
        self.components = components
        self._mean = self._directions = torch.empty(0)

    @property
    def reconstructions(self) -> Sequence[str]:
        return [""]

    def fit(self, task: Task | None, normals: Normals, modality: Modality) -> None:
        """From the covariance in float64, one pass over the samples for each of its two moments.

        Raises ``UserError`` for more components than there are dimensions, or samples.
        """
        n, d = len(normals), prod(modality.shape)
        if self.components >= min(n, d):
            raise UserError(
                f"{self.components} components reconstruct {n} samples of {d} numbers as they are; set "
                f"detector.components below {min(n, d)}."
            )

        rows = torch.arange(n).split(CHUNK)

        def read(r: Tensor) -> Tensor:
            return modality.to_model(normals[r]).flatten(1).double()

        mean = torch.stack([read(r).sum(0) for r in rows]).sum(0) / n
        if d <= n:
            scatter = torch.zeros(d, d, dtype=torch.float64)
            for r in rows:
                x = read(r) - mean
                scatter += x.T @ x
            directions = torch.linalg.eigh(scatter)[1][:, -self.components :]
        else:
            x = torch.cat([read(r) for r in rows]) - mean
            directions = torch.linalg.svd(x, full_matrices=False)[2][: self.components].T
        self._mean, self._directions = mean.float(), directions.float()

    def state(self) -> Mapping[str, Tensor]:
        return {"mean": self._mean.cpu(), "directions": self._directions.cpu()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self._mean, self._directions = state["mean"], state["directions"]

    def reconstruct(self, task: Task | None, pictures: Pictures) -> Sequence[Sequence[Tensor]]:
        mean, directions = self._mean.to(pictures.x), self._directions.to(pictures.x)
        x = pictures.x.flatten(1) - mean
        return [[(mean + x @ directions @ directions.T).view_as(pictures.x)]]
