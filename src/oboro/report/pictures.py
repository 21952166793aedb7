"""Samples beside each other."""

from collections.abc import Sequence
from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, cat, stack

from oboro.condition import Condition
from oboro.condition import Image as Picture
from oboro.hint.hint import with_channels
from oboro.modality import Modality

MANY = 16  # kinds of which each gets a row or a column of its own
COLUMNS = 10
HEADING, FONT = 150, 13  # pixels


def prompts_picture(modality: Modality, samples: Tensor, texts: Sequence[str]) -> Image.Image:
    """Samples by their texts, each of which stands to the left of its own; on white. Many samples take several rows."""
    distinct = list(dict.fromkeys(texts))
    members = [[i for i, text in enumerate(texts) if text == one] for one in distinct]
    columns = max(COLUMNS, round(len(texts) ** 0.5))
    rows = [modality.picture(samples[ids], min(len(ids), columns)) for ids in members]
    font, top = ImageFont.load_default(FONT), 0
    page = Image.new("RGB", (HEADING + max(row.width for row in rows), sum(row.height for row in rows)), "white")
    for text, row in zip(distinct, rows, strict=True):
        page.paste(row.convert("RGB"), (HEADING, top))
        lines = "\n".join(wrap(text, 2 * HEADING // FONT - 2)) or "(no text)"
        place = (6, top + row.height / 2)
        ImageDraw.Draw(page).multiline_text(place, lines, fill="black", font=font, anchor="lm", spacing=2)
        top += row.height
    return page


def samples_picture(
    modality: Modality,
    samples: Tensor,
    texts: Sequence[str] | None,
    num_classes: int,
    hints: Sequence[Tensor] = (),
) -> Image.Image:
    """Samples by their text, where there are few, or else a column for each class, or else a square; to the right of
    each of its ``hints``, stored like samples."""
    if hints:
        several = 1 + len(hints)
        together = stack([*hints, samples], 1).flatten(0, 1)
        if texts is not None and len(set(texts)) <= MANY:
            return prompts_picture(modality, together, [text for text in texts for _ in range(several)])
        return modality.picture(together, several * max(1, round((len(samples) / several) ** 0.5)))
    if texts is not None and len(set(texts)) <= MANY:
        return prompts_picture(modality, samples, texts)
    return modality.picture(samples, columns_for(len(samples), num_classes))


def hints_shown(modality: Modality, cond: Condition) -> list[Tensor]:
    """The pictures of a condition as samples are stored, each (n, C, H, W); a hole is grey."""
    return [stored(modality, signal.x) for signal in cond.signals.values() if isinstance(signal, Picture)]


def stored(modality: Modality, picture: Tensor) -> Tensor:
    """Pictures (n, C', H, W) that a model is given, as samples (n, C, H, W) are stored."""
    return modality.to_stored(with_channels(picture, modality.shape[0]))


def columns_for(n: int, num_classes: int) -> int:
    """A column per class where there are few classes, or several of each where these are very few, else a square."""
    return num_classes * max(1, COLUMNS // num_classes) if 1 < num_classes <= MANY else round(n**0.5)


def edits_picture(modality: Modality, sources: Tensor, edited: Tensor, frames: int = 1) -> Image.Image:
    """A row of sources (N, C, ...) above a row of what became of them (N, C, ...), and so on; with several ``frames``
    (N frames, C, ...) a row for each source, which stands to the left of its own."""
    if frames > 1:
        rows = cat([sources[:, None], edited.unflatten(0, (-1, frames))], 1)
        return modality.picture(rows.flatten(0, 1), frames + 1)
    rows = [rows_picture(modality, *row) for row in zip(*(s.split(COLUMNS) for s in (sources, edited)), strict=True)]
    page = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    for i, row in enumerate(rows):
        page.paste(row.convert("RGB"), (0, sum(other.height for other in rows[:i])))
    return page


def rows_picture(modality: Modality, *rows: Tensor) -> Image.Image:
    """Rows (N, C, ...) below each other: in a column stands what belongs together."""
    return modality.picture(cat(rows), len(rows[0]))
