"""Embeddings of a CLIP that was trained here: a checkpoint of ``task=clip`` as an extractor."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oboro.base.paths import LocalPath
from oboro.base.precision import full_float32
from oboro.extractor.extractor import Extractor, file_digest
from oboro.extractor.fashion import LUMA
from oboro.extractor.pretrained import Lengths
from oboro.modality import from_uint8
from oboro.restore import Trained
from oboro.restore.modality import modality_of


class TrainedCLIP(Extractor):
    """Unit vectors of images, by the averaged weights of the checkpoint ``path`` (the average that validation used).

    Images get the channels and the size of those it was trained on: grey is repeated, colour becomes luma (ITU-R
    BT.601), other sizes are resized with antialiased bilinear interpolation. The vectors know what the captions of its
    data tell apart; distances in them compare with no others.
    """

    name = "trained_clip"
    reads_texts = True

    def __init__(self, path: LocalPath):
        super().__init__()
        self.path = Path(path).expanduser()
        self.clip = Trained(path, "clip")
        self.outputs = Lengths(lambda: self._config["task"]["clip"]["text"]["embedding"])

    @cached_property
    def _config(self) -> dict[str, Any]:
        return self.clip.checkpoint["config"]

    @property
    def _shape(self) -> tuple[int, int, int]:
        return modality_of(self.clip.checkpoint).shape

    @property
    def resize(self) -> str:
        """How images become the network's input; the size is that of the data it was trained on."""
        channels, height, width = self._shape
        colour = "luma (BT.601), " if channels == 1 else ""
        return f"{colour}bilinear antialiased to {height}x{width}"

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the checkpoint."""
        return file_digest(self.path)

    def prepare(self) -> None:
        """Raises ``UserError`` where ``path`` is no checkpoint of ``task=clip``."""
        _ = self._config

    def build(self) -> nn.Module:
        return self.clip.module

    def forward(self, network: nn.Module, images: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        channels, *size = self._shape
        x = from_uint8(images)
        if channels == 1 and x.shape[1] == 3:
            x = (x * x.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        if list(x.shape[2:]) != size:
            x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
        return {"features": network.encode_image(x.expand(-1, channels, -1, -1))}

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (n, d) of n texts, float32, on the extractor's device: the other half of ``clip_score``."""
        if self._network is None:
            self.load(self._device)
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False), full_float32():
            return self._network.encode_text(texts)
