"""A small Fashion-MNIST classifier whose weights ship with the package: a number without a download, in seconds."""

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from oboro.base.errors import UserError
from oboro.base.paths import LocalPath
from oboro.extractor.extractor import Extractor, file_digest

WEIGHTS = Path(__file__).parent / "assets" / "fashion_classifier.safetensors"
PIXEL_MEAN, PIXEL_STD = 0.2860, 0.3530  # of the 60,000 training images, pixels in [0, 1]
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class FashionNetwork(nn.Module):
    """Four 3x3 convolutions and two linear layers: (B, 1, 28, 28) standardised pixels -> features (B, 128).

    28² -> 14² x 32 -> 7² x 48 -> 7² x 48 -> 4² x 96 -> 128 -> 10 logits; 2.6 million multiply-adds an image. The last
    feature map is flattened, not averaged, so the features see *where* things are. Batch normalisation existed in
    training only and is folded into the weights.
    """

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(32, 48, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(48, 48, 3, padding=1)
        self.conv4 = nn.Conv2d(48, 96, 3, stride=2, padding=1)
        self.feature = nn.Linear(96 * 4 * 4, 128)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = F.relu(conv(x))
        return F.relu(self.feature(x.flatten(1)))


class Fashion(Extractor):
    """Penultimate features (d = 128) of the shipped Fashion-MNIST classifier; final.

    128 keeps the covariance well conditioned from 1,000 images on, and its bias (about d/n) small at the sample sizes
    that a laptop affords. RGB becomes luma (ITU-R BT.601), other sizes are resized to 28 x 28 with antialiased bilinear
    interpolation on float pixels. Distances in these features compare models on this data set, and nothing else.

    ``weights_path`` is for classifiers of one's own with the same layers, e.g. for another 28 x 28 data set.
    """

    name = "fashion"
    outputs = MappingProxyType({"features": 128, "logits": 10})
    resize = "luma (BT.601), bilinear antialiased to 28x28"

    def __init__(self, weights_path: LocalPath | None = None):
        super().__init__()
        self.path = Path(weights_path).expanduser() if weights_path else WEIGHTS

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the weights file."""
        return file_digest(self.path)

    def prepare(self) -> None:
        """The weights ship with the package; raises ``UserError`` if ``weights_path`` names a file that is missing."""
        if not self.path.is_file():
            raise UserError(f"the classifier weights {self.path} are missing: reinstall the package or fix the path")

    def build(self) -> nn.Module:
        self.prepare()
        network = FashionNetwork()
        try:
            network.load_state_dict({k: v.float() for k, v in load_file(self.path).items()})
        except (SafetensorError, OSError, RuntimeError) as error:
            raise UserError(
                f"{self.path} does not hold the weights of a classifier as oboro's for Fashion-MNIST, a .safetensors "
                "file; correct the path, or reinstall the package."
            ) from error
        return network

    def forward(self, network: nn.Module, images: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        """Non-negative features (B, 128), and logits (B, 10) of the classes in the data set's order."""
        features = network(standardise(images))
        return {"features": features, "logits": network.head(features)}


def standardise(images: Tensor) -> Tensor:
    """uint8 (B, C, H, W), C = 1 or 3 -> the network's float32 input (B, 1, 28, 28)."""
    x = images.float()
    if x.shape[1] == 3:
        x = (x * x.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    if x.shape[-2:] != (28, 28):
        x = F.interpolate(x, (28, 28), mode="bilinear", antialias=True, align_corners=False)
    return (x / 255 - PIXEL_MEAN) / PIXEL_STD
