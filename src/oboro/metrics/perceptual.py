"""How far a sample looks from the true picture."""

from abc import abstractmethod

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.paths import LocalPath
from oboro.base.precision import full_float32
from oboro.loss import perceptual
from oboro.metrics.paired import Regional, Regions
from oboro.modality import Modality


class Perceptual(Regional):
    """The mean over samples of a distance of features of ``network`` to the true picture. Of a region: to the true
    picture with the sample in that region, so that the rest is equal."""

    better = -1

    def __init__(self, regions: Regions = ("all",)):
        super().__init__(regions)
        self._network: perceptual.Perceptual | None = None

    @abstractmethod
    def network(self) -> perceptual.Perceptual:
        """The network, without weights."""

    def check(self, modality: Modality) -> None:
        super().check(modality)
        if self._network is None:
            network = self.network()
            try:
                network.check(modality.shape[0])
            except UserError as error:
                raise UserError(str(error).replace("loss.perceptual", f"metrics.{self.short}")) from error
            if min(modality.shape[1:]) < network.least:
                raise UserError(
                    f"{self.short} sees pictures of {network.least} pixels a side or more and these are {modality}; "
                    "leave it out of metrics=[...]."
                )
            self._network = network

    @torch.no_grad()
    def score(self, x: Tensor, truth: Tensor, where: Tensor) -> Tensor:
        assert self._network is not None
        network = self._network.to(x.device)
        with full_float32():
            mixed = torch.where(where, x, truth).float().clone(memory_format=torch.contiguous_format)
            return network(mixed, truth.float()).double()


class LPIPS(Perceptual):
    """The mean over samples of LPIPS to the true picture (Zhang et al. 2018, arXiv:1801.03924), with VGG16;
    ``oboro.loss.perceptual.LPIPS`` says what the files ``backbone`` and ``heads`` are."""

    short = "lpips"

    def __init__(self, backbone: LocalPath | None = None, heads: LocalPath | None = None, regions: Regions = ("all",)):
        super().__init__(regions)
        self.backbone, self.heads = backbone, heads

    def network(self) -> perceptual.Perceptual:
        return perceptual.LPIPS(self.backbone, self.heads)


class PerceptualFashion(Perceptual):
    """The same distance by the classifier of Fashion-MNIST that comes with oboro, all weights 1:
    ``oboro.loss.perceptual.Fashion``. For pictures of clothes; it compares with no published number."""

    short = "perceptual_fashion"

    def __init__(self, weights_path: LocalPath | None = None, regions: Regions = ("all",)):
        super().__init__(regions)
        self.weights_path = weights_path

    def network(self) -> perceptual.Perceptual:
        return perceptual.Fashion(self.weights_path)
