"""What a feature extractor is: uint8 images in, one float32 feature vector an image out."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


class Images(Protocol):
    """Anything indexable that holds uint8 images: ``len(images)``, ``images[a:b]`` -> uint8 (b - a, C, H, W)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> Tensor: ...


class Extractor(ABC):
    """A frozen map from images to features, with everything that a reported number must say about it.

    Constructing one is cheap: weights are read by ``load`` or by the first call. An extractor is a plain object, not an
    ``nn.Module``, so that its weights never enter a checkpoint, an EMA copy or a parameter count.

    Attributes:
        name: short name, part of the cache key.
        metric_prefix: what the Fréchet distance on these features is called (``"fid_inception"``, ``"fd_fashion"``).
        dim: length d of a feature vector.
        resize: how images become the network's input, in words.
    """

    name: str
    metric_prefix: str
    dim: int
    resize: str

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 (hex) of the weights file."""

    @abstractmethod
    def prepare(self) -> None:
        """Make sure that the weights are on this machine; raises ``UserError`` with the remedy where they are not."""

    @abstractmethod
    def load(self, device: torch.device | str) -> None:
        """Read the weights (once) and put them on ``device``; later calls run there."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Features (B, dim), float32, on the extractor's device, of ``images`` (B, C, H, W), uint8, C = 1 or 3."""


def require_images(images: Tensor) -> None:
    """Raise unless ``images`` is uint8 of shape (B, C, H, W) with C = 1 or 3."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            "an extractor takes uint8 images (B, C, H, W) with C = 1 or 3, "
            f"got {str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
        )


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """No gradients, and no autocast: the precision a run trains in must not change what it is measured with."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def extract(extractor: Extractor, images: Images, chunk: int = 250, progress: Progress | None = None) -> Tensor:
    """Features (n, dim), float32, on the CPU, of all ``images``, in chunks of ``chunk`` from the first to the last."""
    features = torch.empty(len(images), extractor.dim, dtype=torch.float32)
    for start in range(0, len(images), chunk):
        rows = features[start : start + chunk]
        rows.copy_(extractor(images[start : start + len(rows)]))
        if progress is not None:
            progress(start + len(rows), len(images))
    return features


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file; read again only when its size or its modification time changed."""
    stat = path.stat()
    return _file_digest(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=16)
def _file_digest(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
