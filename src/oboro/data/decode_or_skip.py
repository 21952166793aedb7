"""Many encoded pictures of any origin, decoded into blocks of the cache; those that cannot be read are left out."""

import io
import os
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import Progress

from oboro.base.errors import UserError
from oboro.data.cache import Block
from oboro.modality.decode_image import fit, load_image

_BLOCK = 256
Decoded = tuple[np.ndarray, np.ndarray | None]  # picture and hint
_NAMED = 5  # unreadable pictures named in the warning; the rest is counted


@dataclass(frozen=True)
class Picture:
    """One picture: the path of its file or the bytes of one (PNG, JPEG, WebP), and what is known of it.

    ``name`` is what messages call it; label, caption and group are those of ``Block``. ``hint`` is the file of a second
    picture that belongs to it.
    """

    name: str
    file: Path | bytes
    label: int | None = None
    caption: str | None = None
    group: int | None = None
    hint: Path | bytes | None = None


def decoded(
    pictures: Iterable[Picture],
    shape: tuple[int, int, int],
    *,
    place: str,
    total: int | None = None,
    hint_channels: int = 3,
) -> Iterator[Block]:
    """The pictures in their order as blocks of ``shape`` (C, H, W), each made to fit as ``decode_image.fit`` says.

    Every picture has a label or none has; captions, groups and hints likewise. Hints get ``hint_channels`` channels and
    the size of their pictures. Pictures that cannot be read are named in a warning and left out; ``UserError`` where
    they are more than half, or where a hint has not the shape of its picture. ``place`` is what messages call all of
    them, ``total`` their number for the progress bar.
    """
    channels, *resolution = shape

    def decode(picture: Picture) -> Decoded | str:
        """The decoded image, or the reason why there is none: a damaged file makes Pillow raise almost anything."""
        try:
            image = load_image(opened(picture.file))
            hint = None if picture.hint is None else load_image(opened(picture.hint))
            if hint is not None:
                check_alike(picture.name, image.size, hint.size)
                hint = fit(hint, hint_channels, tuple(resolution))
            return fit(image, channels, tuple(resolution)), hint
        except UserError:
            raise
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    rest, count, skipped = iter(pictures), 0, []
    with (
        warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,  # Pillow decodes outside of the interpreter lock
        Progress(transient=True, disable=total is not None and total < _BLOCK) as progress,
    ):
        task = progress.add_task(f"Decoding {Path(place).name}", total=total)
        while part := list(islice(rest, _BLOCK)):
            both = list(zip(part, pool.map(decode, part), strict=True))
            skipped += [f"{picture.name} ({image})" for picture, image in both if isinstance(image, str)]
            good = [(picture, image) for picture, image in both if not isinstance(image, str)]
            count += len(part)
            progress.update(task, advance=len(part))
            if good:
                yield _block(good)
    if not skipped:
        return
    named = ", ".join(skipped[:_NAMED]) + (", …" if len(skipped) > _NAMED else "")
    summary = f"{len(skipped)} of {count} images in {place} cannot be read: {named}"
    if 2 * len(skipped) > count:
        raise UserError(f"{summary}; repair or remove them, or use other data")
    warnings.warn(f"{summary}; they are left out", stacklevel=2)


def opened(file: Path | bytes) -> Path | io.BytesIO:
    return io.BytesIO(file) if isinstance(file, bytes) else file


def check_alike(name: str, image: tuple[int, int], hint: tuple[int, int]) -> None:
    """Raises ``UserError`` unless two sizes (width, height) are in proportion, to a pixel: both are cropped alike."""
    if abs(image[0] * hint[1] - image[1] * hint[0]) > max(*image, *hint):
        raise UserError(
            f"{name} is {image[0]}×{image[1]} and the picture that belongs to it {hint[0]}×{hint[1]}, which cannot be "
            "cropped alike; give both the same shape"
        )


def _block(both: list[tuple[Picture, Decoded]]) -> Block:
    pictures, decoded = zip(*both, strict=True)
    images, hints = zip(*decoded, strict=True)
    first = pictures[0]
    return Block(
        np.stack(images),
        None if first.label is None else np.array([picture.label for picture in pictures]),
        None if first.caption is None else [picture.caption for picture in pictures],
        None if first.group is None else np.array([picture.group for picture in pictures]),
        None if first.hint is None else np.stack(hints),
    )
