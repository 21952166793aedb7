"""What a feature extractor is: stored samples in, float32 feature vectors out."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.base.precision import full_float32
from oboro.data import DataModule
from oboro.modality import Image, Modality


class Samples(Protocol):
    """Anything that holds stored samples: ``len(samples)``, and ``samples[ids]`` -> (len(ids), C, ...)."""

    def __len__(self) -> int: ...

    def __getitem__(self, ids: Tensor, /) -> Tensor: ...


class Extractor(ABC):
    """A frozen map from samples to features, with everything that a reported number must say about it.

    Constructing one is cheap: weights are read by ``load`` or by the first call. An extractor is a plain object, not an
    ``nn.Module``, so that its weights never enter a checkpoint, an EMA copy or a parameter count.

    Attributes:
        name: short name, part of the cache key and of the names of numbers.
        outputs: what it can give and how long each vector is: ``"features"`` always, ``"logits"`` of a classifier,
            ``"spatial"`` for features that still know where things are.
        resize: how images become the network's input, in words.
        reads_texts: whether ``embed_text(texts)`` puts texts into the space of its features.
        published: names under which the literature reports a metric on these features, ``{"fd": "fid"}``.
        described: what a protocol says of it besides name, digest and resize, ``{"extractor_accuracy": 0.91}``.
    """

    name: str
    outputs: Mapping[str, int]
    resize: str
    reads_texts: bool = False
    published: Mapping[str, str] = MappingProxyType({})
    described: Mapping[str, Any] = MappingProxyType({})

    def __init__(self) -> None:
        self._network: nn.Module | None = None
        self._device = torch.device("cpu")
        self._data: DataModule | None = None

    @property
    def parts(self) -> list["Extractor"]:
        """Itself; several of a ``Joint``."""
        return [self]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 (hex) of the weights file."""

    def accept(self, modality: Modality) -> None:
        """Get ready for samples of ``modality``. Raises ``UserError`` where the extractor sees no such samples."""
        if not isinstance(modality, Image) or modality.shape[0] not in (1, 3):
            raise UserError(
                f"the extractor {self.name} sees grey and RGB images and these are {modality.noun} of {modality}; "
                "choose extractor=raw, or metrics=[]."
            )

    def observe(self, data: DataModule) -> None:
        """Take note of the data whose samples it will see; they need not be read yet. For extractors that learn."""
        self._data = data

    @abstractmethod
    def prepare(self) -> None:
        """Make sure that the weights are on this machine; raises ``UserError`` with the remedy where they are not."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The network with its weights, in evaluation mode, on the CPU; never downloads."""

    @abstractmethod
    def forward(self, network: nn.Module, images: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        """``outputs`` of stored ``images`` (B, C, ...) that lie on the network's device."""

    def require(self, samples: Tensor) -> None:
        """Raises ``ValueError`` for what no extractor of images takes."""
        require_images(samples)

    def load(self, device: torch.device | str) -> None:
        """Read the weights (once) and put them on ``device``; later calls run there.

        Raises ``UserError`` for weights that are not finite, which would make every number NaN.
        """
        if self._network is None:
            network = self.build().eval().requires_grad_(False)
            if broken := [name for name, weight in network.state_dict().items() if not weight.isfinite().all()]:
                raise UserError(
                    f"the weights of the extractor {self.name} hold NaN or infinity in {broken[0]}; get the file again."
                )
            self._network = network
        self._device = torch.device(device)
        self._network.to(self._device)

    def __call__(self, samples: Tensor, outputs: Sequence[str] = ("features",)) -> dict[str, Tensor]:
        """``{output: (B, self.outputs[output])}``, float32, on the extractor's device.

        ``samples`` are stored ones, of images uint8 (B, C, H, W) with C = 1 or 3. No gradients, no autocast
        and no TF32: the precision a run trains in must not change what it is measured with.
        """
        self.require(samples)
        if self._network is None:
            self.load(samples.device)
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False), full_float32():
            # The layout in memory chooses the algorithm of a convolution, and with it the last bits; with one channel
            # contiguous() would keep the strides of channels-last.
            samples = samples.to(self._device).clone(memory_format=torch.contiguous_format)
            given = self.forward(self._network, samples, outputs)
        return {name: given[name] for name in outputs}

    def rows(self, samples: Tensor, outputs: Sequence[str]) -> Tensor:
        """The outputs beside each other, (B, sum of dims): one tensor to be gathered. ``split`` takes it apart."""
        return torch.cat(list(self(samples, outputs).values()), 1)

    def split(self, rows: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        """The inverse of ``rows``."""
        return dict(zip(outputs, rows.split([self.outputs[name] for name in outputs], 1), strict=True))


def require_images(images: Tensor) -> None:
    """Raise unless ``images`` is uint8 of shape (B, C, H, W) with C = 1 or 3."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            "an extractor takes uint8 images (B, C, H, W) with C = 1 or 3, "
            f"got {str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
        )


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file; read again only when its size or its modification time changed."""
    stat = path.stat()
    return _file_digest(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=16)
def _file_digest(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
