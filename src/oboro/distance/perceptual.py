"""The difference of features of frozen networks, where they are."""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.paths import LocalPath
from oboro.base.precision import full_float32
from oboro.distance.distance import Distance
from oboro.loss import perceptual
from oboro.modality import Image, Modality


class Perceptual(Distance):
    """The squared differences of features that ``network`` sums up, at their places: those of each layer are enlarged
    to the size of the pictures, bilinearly, and added. The mean of the map is nearly the distance of the pictures."""

    @property
    @abstractmethod
    def name(self) -> str:
        """That of its option."""

    def __init__(self, network: perceptual.Perceptual):
        super().__init__()
        self.network = network

    def check(self, modality: Modality) -> None:
        if not isinstance(modality, Image):
            raise UserError(f"{self.name} compares pictures and these are {modality.noun}; choose distance=[pixel].")
        try:
            self.network.check(modality.shape[0])
        except UserError as error:
            raise UserError(str(error).replace("loss.perceptual", f"distance.{self.name}")) from error
        if min(modality.shape[1:]) < self.network.least:
            raise UserError(
                f"{self.name} sees pictures of {self.network.least} pixels a side or more and these are {modality}; "
                "choose distance=[pixel]."
            )

    @torch.no_grad()
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with full_float32(), torch.autocast(x.device.type, enabled=False):
            layers = self.network.differences(x.float().contiguous(), y.float().contiguous())
            size = x.shape[-2:]
            enlarged = [F.interpolate(d[:, None], size, mode="bilinear", align_corners=False)[:, 0] for d in layers]
        return torch.stack(enlarged).sum(0)


class PerceptualFashion(Perceptual):
    """By the classifier of Fashion-MNIST that comes with oboro, ``oboro.loss.perceptual.Fashion``."""

    name = "perceptual_fashion"

    def __init__(self, weights_path: LocalPath | None = None):
        super().__init__(perceptual.Fashion(weights_path))


class LPIPS(Perceptual):
    """LPIPS (Zhang et al. 2018, arXiv:1801.03924, eq. 1) by VGG16, whose map the paper takes the mean of;
    ``oboro.loss.perceptual.LPIPS`` says what the files ``backbone`` and ``heads`` are."""

    name = "lpips"

    def __init__(self, backbone: LocalPath | None = None, heads: LocalPath | None = None):
        super().__init__(perceptual.LPIPS(backbone, heads))
