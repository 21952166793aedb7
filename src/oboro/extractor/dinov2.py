"""DINOv2 features: what FD-DINOv2 is measured on. The network is that of the ``transformers`` library."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oboro.base.paths import PathOrName
from oboro.extractor.extractor import Extractor
from oboro.extractor.pretrained import Checkpoint, Lengths, resized, standardised

DEFAULT = "facebook/dinov2-large"
SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, pixels in [0, 1]
OFFSET = 0.1  # patches, in the scale of the position grid


class DINOv2(Extractor):
    """The class token of DINOv2 after the last layer norm, d = 1024 of ViT-L/14; final.

    The features of FD-DINOv2 (Stein et al. 2023, arXiv:2306.04675, who found that it agrees with human judgement better
    than FID), prepared as in their dgm-eval. EDM2 (Karras et al. 2024, arXiv:2312.02696) takes the same network, and by
    default an antialiased bicubic filter on float pixels that neither rounds nor clips: numbers a little apart.

    Positions: the network has learned a 37 x 37 grid of them (518 pixels), which 224 pixels shrink to 16 x 16. Meta's
    code, which both used, scales that grid by 16.1 / 37, ``transformers`` by 16 / 37: other features. Here it is 16.1.

    ``path``: a folder, or a name on the Hugging Face hub; the length of the features follows the model. What the
    literature calls FD-DINOv2 is ViT-L/14 without registers. Grey images are repeated to three channels, and images
    that are not square are squeezed. 162 GFLOP an image.
    """

    name = "dinov2"
    resize = "PIL bicubic, antialiased, to 224x224, rounded to 8 bits"

    def __init__(self, path: PathOrName | None = None):
        super().__init__()
        self.checkpoint = Checkpoint(path or DEFAULT, "dinov2")
        self.outputs = Lengths(self._length)

    def _length(self) -> int:
        return self.checkpoint.setting("hidden_size")

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the weights file; raises ``UserError`` where it is missing."""
        return self.checkpoint.digest

    def prepare(self) -> None:
        """Find or download the weights and check that they fit; raises ``UserError`` with the remedy otherwise."""
        self.checkpoint.fetch()
        self.load(self._device)

    def build(self) -> nn.Module:
        network = self.checkpoint.load("Dinov2Model")
        side = SIZE // network.config.patch_size
        positions = network.embeddings.position_embeddings
        network.embeddings.position_embeddings = nn.Parameter(shrunk(positions.detach(), side))
        return network

    def forward(self, network: nn.Module, images: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        pixels = standardised(resized(images, SIZE, SIZE), MEAN, STD)
        return {"features": network(pixel_values=pixels).last_hidden_state[:, 0]}


def shrunk(positions: Tensor, side: int) -> Tensor:
    """Positions of a class token and of M x M patches, (1, 1 + M², d), for side x side patches, (1, 1 + side², d).

    Bicubic, without antialiasing: row i is read at (i + 1/2) M / (side + 0.1) - 1/2, as in Meta's DINOv2.
    """
    grid = round((positions.shape[1] - 1) ** 0.5)
    if grid == side:
        return positions
    patches = positions[:, 1:].unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, scale_factor=((side + OFFSET) / grid,) * 2, mode="bicubic")
    return torch.cat([positions[:, :1], patches.flatten(2).mT], 1)
