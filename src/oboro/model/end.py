"""How networks read where on the flow a flow map is to land: the signal ``end``."""

from abc import ABC, abstractmethod
from math import pi

import torch
from torch import Tensor, nn

from oboro.condition import Signals
from oboro.model.layers import zero

FEATURES = 64
FREQUENCIES = (0.5, 16.0)  # half turns per unit of the angle: from what tells the ends apart to what tells neighbours


class EndEmbedding(nn.Module):
    """angle (B,) ↦ (B, dim): sines and cosines of pi f angle with f from 1/2 to 16, and a two-layer MLP.

    Its last layer starts at zero: a denoiser that learns to read an end starts as the denoiser that it was.
    """

    def __init__(self, dim: int):
        super().__init__()
        lowest, highest = FREQUENCIES
        f = lowest * (highest / lowest) ** (torch.arange(FEATURES // 2) / (FEATURES // 2 - 1))
        self.register_buffer("frequencies", pi * f, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(FEATURES, dim), nn.SiLU(), zero(nn.Linear(dim, dim)))

    def forward(self, angle: Tensor) -> Tensor:
        wide = angle.to(torch.promote_types(angle.dtype, torch.float32))
        turn = wide[:, None] * self.frequencies
        return self.mlp(torch.cat([turn.cos(), turn.sin()], 1).to(angle.dtype))


class EndReader(nn.Module, ABC):
    """A network whose stages read an embedding of noise level and condition, to which that of the end, made by the
    module ``end`` of those that read one, is added."""

    end: nn.Module | None

    @abstractmethod
    def embed(self, c_noise: Tensor, signals: Signals) -> tuple[Tensor | None, ...]:
        """The embedding (B, dim) of noise level and condition, and what stages read beside it."""

    def arguments(self, c_noise: Tensor, signals: Signals) -> tuple[Tensor | None, ...]:
        """What stages read: ``embed`` with the end. Every pass begins here."""
        embedding, *others = self.embed(c_noise, signals)
        if "end" in signals:
            embedding = embedding + self.end(signals["end"].angle.to(c_noise.dtype))
        return (embedding, *others)
