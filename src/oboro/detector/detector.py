"""What all detectors share: (task, samples) ↦ maps of how far each place is from what is normal."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from oboro.condition import Condition
from oboro.distance import Distance
from oboro.modality import Modality
from oboro.task import Task


class Normals(Protocol):
    """Stored samples that are all normal: ``len(normals)``, and ``normals[ids]`` -> (len(ids), C, ...)."""

    def __len__(self) -> int: ...

    def __getitem__(self, ids: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class Pictures:
    """What is looked at.

    Attributes:
        x: samples (B, C, ...) in the range of the model, on its device.
        ids, seed: of the noise of each; what is found of a sample is a function of them, of it and its condition.
        cond: what is known of them.
    """

    x: Tensor
    ids: Sequence[int]
    seed: int
    cond: Condition


class Detector(ABC):
    """(task, pictures) ↦ K measurements: maps (B, K, ...) of the places of samples, or numbers (B, K), larger for what
    is less normal.

    Each is brought to mean 0 and standard deviation 1 of normal samples before they become one, as Graham et al. 2023
    (arXiv:2211.07740, sec. 3.2) do; that is not the detector's (``oboro.detection.Calibration``).

    Attributes:
        needs: what a checkpoint it needs: ``denoiser``, ``reconstruction``, or None, none.
        learns: whether it has to ``fit`` normal training samples.
    """

    needs: str | None = None
    learns: bool = False

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """Of the K measurements."""

    def check(self, task: Task | None, modality: Modality) -> None:
        """Read what has to be read. Raises ``UserError`` for a model or samples that it cannot look at."""
        return None

    def to(self, device: torch.device) -> None:
        """Compute there."""
        return None

    def fit(self, task: Task | None, normals: Normals, modality: Modality) -> None:
        """Learn from normal training samples, where it ``learns``."""
        return None

    def state(self) -> Mapping[str, Tensor]:
        """What it has learned."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of ``state``."""
        return None

    @abstractmethod
    def __call__(self, task: Task | None, pictures: Pictures) -> Tensor: ...


class Reconstructing(Detector):
    """The distance of a sample from its reconstructions x̂, as they would be if all of it were normal.

    K is the number of reconstructions times that of ``distances``.
    """

    def __init__(self, distances: Mapping[str, Distance]):
        self.distances = dict(distances)

    @property
    @abstractmethod
    def reconstructions(self) -> Sequence[str]:
        """The names of the reconstructions of a sample."""

    @abstractmethod
    def reconstruct(self, task: Task | None, pictures: Pictures) -> Sequence[Sequence[Tensor]]:
        """Of each reconstruction its draws x̂ (B, C, ...), whose distances are averaged."""

    @property
    def names(self) -> Sequence[str]:
        return [" ".join(filter(None, (one, distance))) for one in self.reconstructions for distance in self.distances]

    def check(self, task: Task | None, modality: Modality) -> None:
        for distance in self.distances.values():
            distance.check(modality)

    def to(self, device: torch.device) -> None:
        for distance in self.distances.values():
            distance.to(device)

    def __call__(self, task: Task | None, pictures: Pictures) -> Tensor:
        maps = []
        for draws in self.reconstruct(task, pictures):
            for distance in self.distances.values():
                maps.append(torch.stack([distance(made.to(pictures.x), pictures.x) for made in draws]).mean(0))
        return torch.stack(maps, 1)
