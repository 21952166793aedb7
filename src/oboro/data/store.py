"""Where decoded samples come from, and what is known of them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor


class Samples(Protocol):
    """n samples (n, C, ...): ``samples[indices]`` is a fresh tensor of those, as they are stored.

    ``rows`` (n,) int64 are their numbers among all of the source, and ``fingerprint`` identifies these of these.
    """

    shape: tuple[int, ...]
    fingerprint: str

    @property
    def rows(self) -> np.ndarray: ...
    def __len__(self) -> int: ...
    def __getitem__(self, indices: Tensor | np.ndarray | list[int] | slice | int) -> Tensor: ...


class Store(ABC):
    """All N samples of a source.

    Attributes:
        shape: (N, C, ...).
        labels, groups: (N,) int64, of sources that have some.
        captions: N texts, of sources that have some.
        hint_shapes: (N, C', H, W) of the second pictures of each, by entry.
        fingerprint: SHA-256 of all that they are, so it survives a move.
    """

    shape: tuple[int, ...]
    labels: np.ndarray | None
    captions: Sequence[str] | None
    groups: np.ndarray | None
    hint_shapes: Mapping[str, tuple[int, ...]]
    fingerprint: str

    @abstractmethod
    def samples(self, rows: np.ndarray, entry: str | None = None) -> Samples:
        """Those at ``rows``, or the pictures ``entry`` that belong to them."""

    def texts(self, rows: np.ndarray) -> Sequence[str] | None:
        """The captions of ``rows``."""
        return None if self.captions is None else [self.captions[i] for i in rows]
