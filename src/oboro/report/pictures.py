"""Images beside each other."""

from collections.abc import Sequence
from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, cat
from torchvision.utils import make_grid

TILE = 64  # small images are enlarged by a whole factor to at least this many pixels
MANY = 16  # kinds of which each gets a row or a column of its own
COLUMNS = 10
HEADING, FONT = 150, 13  # pixels


def grid_image(images: Tensor, columns: int) -> Image.Image:
    """uint8 images (N, C, H, W), C = 1, 3 or 4, in rows of ``columns`` on white, small ones enlarged pixel by pixel."""
    factor = max(1, -(-TILE // max(images.shape[-2:])))
    large = images.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    grid = make_grid(large, columns, padding=2, pad_value=255).permute(1, 2, 0).numpy()
    return Image.fromarray(grid[..., 0] if images.shape[1] == 1 else grid)


def prompts_image(images: Tensor, texts: Sequence[str]) -> Image.Image:
    """Images by their texts, each of which stands to the left of its own; on white. Many images take several rows."""
    distinct = list(dict.fromkeys(texts))
    members = [[i for i, text in enumerate(texts) if text == one] for one in distinct]
    columns = max(COLUMNS, round(len(texts) ** 0.5))
    rows = [grid_image(images[ids], min(len(ids), columns)) for ids in members]
    font, top = ImageFont.load_default(FONT), 0
    page = Image.new("RGB", (HEADING + max(row.width for row in rows), sum(row.height for row in rows)), "white")
    for text, row in zip(distinct, rows, strict=True):
        page.paste(row.convert("RGB"), (HEADING, top))
        lines = "\n".join(wrap(text, 2 * HEADING // FONT - 2)) or "(no text)"
        place = (6, top + row.height / 2)
        ImageDraw.Draw(page).multiline_text(place, lines, fill="black", font=font, anchor="lm", spacing=2)
        top += row.height
    return page


def samples_image(images: Tensor, texts: Sequence[str] | None, num_classes: int) -> Image.Image:
    """Samples by their text, where there are few, or else a column for each class, or else a square."""
    if texts is not None and len(set(texts)) <= MANY:
        return prompts_image(images, texts)
    return grid_image(images, columns_for(len(images), num_classes))


def columns_for(n: int, num_classes: int) -> int:
    """A column per class where there are few classes, else a square."""
    return num_classes if 1 < num_classes <= MANY else round(n**0.5)


def pairs_image(generated: Tensor, training: Tensor) -> Image.Image:
    """Two rows: generated images above, and below each the training image that belongs to it."""
    return grid_image(cat([generated, training]), len(generated))
