"""The description of one sample."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor


class Modality(ABC):
    """What one sample is, from the file on disk to the tensor that a network sees.

    A sample has two forms: *stored*, as the cache, metrics and files have it, and *of the model*, float32 in the range
    that networks are trained in. A new kind of data is one subclass.

    Attributes:
        noun: what many samples are called, ``"images"``: in messages, as a folder, as the name of an array.
        shape: of one sample, (C, ...).
        dtype: of stored samples.
        quantisation: what ``to_stored`` does to numbers, for the protocol of a measurement.
        layout: what ``to_array`` gives, in words.
        suffixes: of the files that ``read`` knows; ``write`` gives the first.
        mirrors: whether the mirror image of a sample is a sample, too.
        size_option: what is set for samples of another size.
    """

    noun: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    quantisation: str
    layout: str
    suffixes: tuple[str, ...]
    mirrors: bool = False
    size_option: str

    @abstractmethod
    def to_model(self, stored: Tensor) -> Tensor:
        """Stored samples (B, C, ...) as float32 in the range of the model, on their device."""

    @abstractmethod
    def to_stored(self, x: Tensor) -> Tensor:
        """Samples (B, C, ...) of a model, of any floating-point type and unlimited, as they are stored.

        Raises ``UserError`` for NaN and infinity.
        """

    def mirror(self, samples: Tensor) -> Tensor:
        """The mirror images of samples (B, C, ...) in either form; only where ``mirrors``."""
        return samples.flip(-1)

    def flip(self, samples: Tensor, mask: Tensor) -> Tensor:
        """Samples (B, C, ...) in either form, mirrored where ``mask`` (B,) is true."""
        return torch.where(mask.view(-1, *[1] * (samples.ndim - 1)), self.mirror(samples), samples)

    @abstractmethod
    def picture(self, stored: Tensor, columns: int) -> PIL.Image.Image:
        """Stored samples (N, C, ...) on the CPU shown together, in rows of ``columns``."""

    @abstractmethod
    def write(self, stored: Tensor, path: Path) -> Path:
        """One stored sample (C, ...) as a file; ``path`` has no suffix. The path with its suffix comes back."""

    @abstractmethod
    def read(self, path: Path) -> Tensor:
        """One stored sample (C, ...) from a file of another program, nothing resized: the inverse of ``write``.

        Raises ``UserError`` for a file that is damaged or holds another shape.
        """

    def read_fitted(self, path: Path) -> Tensor:
        """One stored sample (C, ...) from a file, made to fit as data are. Raises ``UserError`` where it cannot be."""
        return self.read(path)

    @abstractmethod
    def to_array(self, stored: Tensor) -> np.ndarray:
        """Stored samples (N, C, ...) as they stand in an ``.npz`` file under the name ``noun``."""

    def check_array(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Before an array is read: raises ``ValueError``, whose text is ``layout``, for one of another layout and
        ``UserError`` for samples of another shape."""
        if len(shape) != len(self.shape) + 1 or not shape[0]:
            raise ValueError(self.layout)

    @abstractmethod
    def from_array(self, array: np.ndarray) -> Tensor:
        """The inverse of ``to_array``. Raises as ``check_array`` does."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """Plain values from which Hydra builds it again: what a checkpoint keeps."""

    def __str__(self) -> str:
        """``1×28×28``."""
        return sizes(self.shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Modality) and self.spec() == other.spec()

    def __hash__(self) -> int:
        return hash(repr(self.spec()))


def sizes(shape: tuple[int, ...]) -> str:
    """``1×28×28``."""
    return "×".join(map(str, shape))
