"""What a contender gives, and what all of them are given."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

PADDED = (2, 2, 2, 2)  # 28 pixels to 32


@dataclass(frozen=True)
class Given:
    """Training images, uint8 (N, 1, 28, 28); CPU seconds of training at which a model is to be measured, ascending; an
    empty folder to work in."""

    images: Tensor
    marks: list[float]
    folder: Path


@dataclass(frozen=True)
class Point:
    """A model after ``seconds`` of training and ``images`` seen; ``draw(n)`` gives n samples, uint8 (n, 1, 28, 28)."""

    seconds: float
    images: int
    draw: Callable[[int], Tensor]


@dataclass
class Clock:
    """CPU seconds of this process since it was made."""

    start: float = field(default_factory=time.process_time)

    @property
    def spent(self) -> float:
        return time.process_time() - self.start

    def resume_from(self, spent: float) -> None:
        """Now is ``spent`` seconds after the start."""
        self.start = time.process_time() - spent


def padded(images: Tensor) -> Tensor:
    """(N, 1, 32, 32) in [-1, 1], black around: no resize blurs what networks of 32 pixels see."""
    return F.pad(images.float() / 127.5 - 1, PADDED, value=-1.0)


def cropped(x: Tensor) -> Tensor:
    """uint8 (N, 1, 28, 28) of samples in [-1, 1] of 32 pixels."""
    return ((x[..., 2:-2, 2:-2].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
