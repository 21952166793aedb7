"""Conditioners: batch ↦ cond, with conditions dropped for each sample on its own."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from oboro.base.errors import UserError
from oboro.data import Population
from oboro.denoiser import Cond

Batch = Mapping[str, Any]


class Conditioner(nn.Module, ABC):
    """What a network is told of an image beside the noise: never the image itself.

    Attributes:
        dropout: the chance, independent for each sample of a training batch, that its condition is dropped: the
            training of classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598, algorithm 1).
        num_classes, text_dim, pooled_dim: what the network has to read: classes, the width of text tokens and that of
            the one vector for a whole text; 0 where there is none.
    """

    def __init__(self, dropout: float = 0.0, num_classes: int = 0, text_dim: int = 0, pooled_dim: int = 0):
        super().__init__()
        self.dropout = dropout
        self.num_classes = num_classes
        self.text_dim = text_dim
        self.pooled_dim = pooled_dim

    prompts: Sequence[str] = ()  # texts of pictures

    @property
    @abstractmethod
    def keys(self) -> set[str]:
        """The keys of cond."""

    @abstractmethod
    def forward(self, batch: Batch, generator: torch.Generator) -> Cond:
        """For training: conditions with dropout drawn from ``generator``."""

    @abstractmethod
    def keep(self, batch: Batch) -> Cond:
        """For evaluation: every condition."""

    @abstractmethod
    def choose(self, ids: Sequence[int], population: Population | None) -> dict[str, Any]:
        """What generated samples shall be: a batch without images, a function of the sample ids alone.

        ``None``: in turn, for pictures. With the ``population`` of training images: as they are distributed, so that
        any run of ids has their classes in proportion.
        """

    def for_samples(self, ids: Sequence[int], population: Population | None) -> Cond:
        """The conditions of generated samples."""
        return self.keep(self.choose(ids, population))

    def told(self, population: Population) -> set[str]:
        """What is known of samples of ``population`` before they are drawn: "label", "caption"."""
        return set(self.choose([0], population))

    def cache(self, texts: Sequence[str], folder: Path, done: Callable[[int], None] | None = None) -> None:
        """Encode ``texts`` once for all runs, in ``folder``; ``done`` is told how many are finished.

        Raises ``UserError`` where conditions are not made of texts.
        """
        raise UserError("this conditioner encodes no texts; leave callbacks.text_cache out.")

    def check(self, population: Population) -> None:
        """Raises ``UserError`` where the data do not have what the condition is made of."""
