"""How far apart two images look: distances of features of frozen networks, with gradients."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.base.paths import LocalPath
from oboro.extractor import fashion
from oboro.interop.state import read_tensors

EPS = 1e-8  # under the root of a norm: features of a flat patch may all be 0
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of the pixels in [-1, 1] that LPIPS was fitted on
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)  # channels; 0 halves the image


class Perceptual(nn.Module, ABC):
    """d(x, y) (B,) of images (B, C, H, W) in [-1, 1], 0 for equal images.

    Weights are buffers that no checkpoint holds: they are never trained, and come from files of their own. ``least`` is
    the smallest side of an image.
    """

    least = 1

    def check(self, channels: int) -> None:
        """Before training: read what has to be read. Raises ``UserError`` where files or ``channels`` do not fit."""

    @abstractmethod
    def differences(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """Of each layer the differences at its places, (B, h, w); d is the sum of their means."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return torch.stack([d.mean((1, 2)) for d in self.differences(x, y)]).sum(0).to(x)


class Zero(Perceptual):
    """0 for any two images: pixels alone are compared."""

    def differences(self, x: Tensor, y: Tensor) -> list[Tensor]:
        return [x.new_zeros(len(x), 1, 1)]


class Fashion(Perceptual):
    """The sum over the four convolutions of the shipped Fashion-MNIST classifier of the mean over places of
    |u(x) - u(y)|², u the features of a place divided by their norm: LPIPS with all weights 1 (Zhang et al. 2018,
    arXiv:1801.03924, eq. 1), for pictures of clothes. ``weights_path`` as in ``oboro.extractor.Fashion``.
    """

    def __init__(self, weights_path: LocalPath | None = None):
        super().__init__()
        self.weights_path = weights_path
        with torch.device("meta"):  # shapes alone
            layers = fashion.FashionNetwork().state_dict()
        keep_buffers(self, {name: torch.full(w.shape, float("nan")) for name, w in layers.items() if "conv" in name})

    def check(self, channels: int) -> None:
        if channels not in (1, 3):
            raise channels_unseen(channels)
        fill_buffers(self, fashion.Fashion(self.weights_path).build().state_dict())

    def differences(self, x: Tensor, y: Tensor) -> list[Tensor]:
        features = [self.features(image.float()) for image in (x, y)]
        return [squared(a, b).sum(1) for a, b in zip(*features, strict=True)]

    @property
    def channels(self) -> tuple[int, ...]:
        return tuple(len(getattr(self, f"conv{layer}_bias")) for layer in range(1, 5))

    def features(self, x: Tensor) -> list[Tensor]:
        """Of images in [-1, 1], float32: (B, C_k, h, w) after each convolution."""
        h, features = fashion.standardise((x + 1) * 127.5), []
        for layer, stride in ((1, 2), (2, 2), (3, 1), (4, 2)):
            weight, bias = (getattr(self, f"conv{layer}_{what}") for what in ("weight", "bias"))
            h = F.relu(F.conv2d(h, weight, bias, stride=stride, padding=1))
            features.append(h)
        return features


class LPIPS(Perceptual):
    """The sum over relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3 of VGG16 of the mean over places of
    w · (u(x) - u(y))², u the features of a place divided by their norm, w >= 0 fitted to what people see: Zhang et al.
    2018 (arXiv:1801.03924, eq. 1), the variant "lin" that LDM trains with.

    ``backbone`` is a file of torchvision's VGG16 weights (names ``features.0.weight``, …), ``heads`` one of the
    ``lpips`` package's (``lin0.model.1.weight``, …), both state dictionaries saved by torch. Grey images become RGB.
    """

    least = 16
    shift: Tensor
    scale: Tensor

    def __init__(self, backbone: LocalPath | None, heads: LocalPath | None):
        super().__init__()
        self.backbone, self.heads = backbone, heads
        self._convs: list[tuple[int, bool]] = []  # torchvision's index of each convolution; whether a feature follows
        shapes: dict[str, tuple[int, ...]] = {}
        before, index = 3, 0
        for i, channels in enumerate(VGG16):
            if channels:
                shapes |= {f"features.{index}.weight": (channels, before, 3, 3), f"features.{index}.bias": (channels,)}
                self._convs.append((index, i + 1 == len(VGG16) or VGG16[i + 1] == 0))
                before = channels
            index += 2 if channels else 1
        for k, channels in enumerate((64, 128, 256, 512, 512)):
            shapes[f"lin{k}.model.1.weight"] = (1, channels, 1, 1)
        keep_buffers(self, {name: torch.full(shape, float("nan")) for name, shape in shapes.items()})
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None], persistent=False)

    def check(self, channels: int) -> None:
        if channels not in (1, 3):
            raise channels_unseen(channels)
        weights: dict[str, Tensor] = {}
        for key, path in (("backbone", self.backbone), ("heads", self.heads)):
            if path is None or not Path(path).expanduser().is_file():
                lacks = "none is named" if path is None else f"there is no file {path}"
                raise UserError(
                    f"LPIPS needs weights for its {key} and {lacks}; set loss.perceptual.{key}=FILE, or "
                    f"metrics.lpips.{key}=FILE where it is a metric."
                )
            weights |= read_tensors(Path(path).expanduser())
        fill_buffers(self, weights)

    def differences(self, x: Tensor, y: Tensor) -> list[Tensor]:
        features = [self.features(image.to(self.scale)) for image in (x, y)]
        heads = [getattr(self, f"lin{k}_model_1_weight") for k in range(len(features[0]))]
        return [F.conv2d(squared(a, b), head)[:, 0] for a, b, head in zip(*features, heads, strict=True)]

    @property
    def channels(self) -> tuple[int, ...]:
        return tuple(len(getattr(self, f"features_{index}_bias")) for index, is_feature in self._convs if is_feature)

    def features(self, x: Tensor) -> list[Tensor]:
        """Of images in [-1, 1], float32: (B, C_k, h, w) at the end of each size."""
        h, features = (x.expand(-1, 3, -1, -1) - self.shift) / self.scale, []
        for index, is_feature in self._convs:
            weight, bias = (getattr(self, f"features_{index}_{what}") for what in ("weight", "bias"))
            h = F.relu(F.conv2d(h, weight, bias, padding=1))
            if is_feature:
                features.append(h)
                h = F.max_pool2d(h, 2) if index != self._convs[-1][0] else h
        return features


def channels_unseen(channels: int) -> UserError:
    """For images that are neither grey nor RGB."""
    return UserError(f"no network sees {channels} channels; set data.channels=3 or loss/perceptual=zero.")


def squared(a: Tensor, b: Tensor) -> Tensor:
    """(u(a) - u(b))² of features (B, C, h, w), each divided by its norm over channels."""
    a, b = (f / (f.square().sum(1, keepdim=True) + EPS).sqrt() for f in (a, b))
    return (a - b).square()


def keep_buffers(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Buffers that are in no checkpoint, ``.`` in their names replaced by ``_``."""
    for name, weight in weights.items():
        module.register_buffer(name.replace(".", "_"), weight, persistent=False)


@torch.no_grad()
def fill_buffers(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Values for those of ``keep_buffers``; what else ``weights`` holds is not read."""
    here = dict(module.named_buffers(recurse=False))
    given = {name.replace(".", "_"): weight for name, weight in weights.items()}
    for name in sorted(here.keys() - {"shift", "scale"}):
        if name not in given or given[name].shape != here[name].shape:
            raise UserError(
                f"the weights of {type(module).__name__} have no {name} of shape {tuple(here[name].shape)}; give the "
                "files that loss.perceptual asks for."
            )
        if not (given[name].is_floating_point() and given[name].isfinite().all()):
            raise UserError(
                f"the weights of {type(module).__name__} hold NaN, infinity or no numbers in {name}; get the files "
                "again."
            )
        here[name].copy_(given[name])
