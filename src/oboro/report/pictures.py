"""Images beside each other."""

from PIL import Image
from torch import Tensor, cat
from torchvision.utils import make_grid

TILE = 64  # small images are enlarged by a whole factor to at least this many pixels


def grid_image(images: Tensor, columns: int) -> Image.Image:
    """uint8 images (N, C, H, W), C = 1, 3 or 4, in rows of ``columns`` on white, small ones enlarged pixel by pixel."""
    factor = max(1, -(-TILE // max(images.shape[-2:])))
    large = images.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    grid = make_grid(large, columns, padding=2, pad_value=255).permute(1, 2, 0).numpy()
    return Image.fromarray(grid[..., 0] if images.shape[1] == 1 else grid)


def columns_for(n: int, num_classes: int) -> int:
    """A column per class where there are few classes, else a square."""
    return num_classes if 1 < num_classes <= 16 else round(n**0.5)


def pairs_image(generated: Tensor, training: Tensor) -> Image.Image:
    """Two rows: generated images above, and below each the training image that belongs to it."""
    return grid_image(cat([generated, training]), len(generated))
