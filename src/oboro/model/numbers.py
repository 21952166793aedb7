"""How networks read numbers beside the noise level: where on the flow to land (``end``), the scale of guidance."""

from abc import ABC, abstractmethod
from math import pi

import torch
from torch import Tensor, nn

from oboro.condition import NUMBERS, Signals
from oboro.model.layers import zero

FEATURES = 64
FREQUENCIES = (0.5, 16.0)  # half turns per unit of the angle: from what tells the ends apart to what tells neighbours


class NumberEmbedding(nn.Module):
    """angle (B,) in [0, 1] ↦ (B, dim): sines and cosines of pi f angle with f from 1/2 to 16, and a two-layer MLP.

    Its last layer starts at zero: a denoiser that learns to read a number starts as the denoiser that it was.
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


class NumberReader(nn.Module, ABC):
    """A network whose stages read an embedding of noise level and condition, to which those of numbers are added, each
    made by the module of its name (``NUMBERS``), None where the network does not read it."""

    end: nn.Module | None
    guidance_scale: nn.Module | None

    @abstractmethod
    def embed(self, c_noise: Tensor, signals: Signals) -> tuple[Tensor | None, ...]:
        """The embedding (B, dim) of noise level and condition, and what stages read beside it."""

    def arguments(self, c_noise: Tensor, signals: Signals) -> tuple[Tensor | None, ...]:
        """What stages read: ``embed`` with the numbers. Every pass begins here."""
        embedding, *others = self.embed(c_noise, signals)
        for name in NUMBERS:
            if name in signals:
                embedding = embedding + getattr(self, name)(signals[name].angle.to(c_noise.dtype))
        return (embedding, *others)
