"""Many encoded pictures of any origin, decoded into blocks of the cache; those that cannot be read are left out."""

import errno
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import UnidentifiedImageError
from rich.progress import Progress

from oboro.base.errors import UserError
from oboro.data.cache import HINT, Block
from oboro.data.left_out import UNREADABLE, LeftOut
from oboro.modality.decode_image import SEVERAL, fit, load_image, warnings_off
from oboro.modality.image import KINDS

HintChannels = Literal[1, 3, 4] | Mapping[str, Literal[1, 3, 4]]  # of all second pictures, or by entry
TAKEN = ("x", "index", "label", "caption", "latent", "flip", "weight", "negative")  # entries of a batch
_BLOCK = 256
# Of the machine, and perhaps for a moment: a cache that leaves the picture out would do so for ever.
NOT_THE_PICTURE = (errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EINTR, errno.ETIMEDOUT)


@dataclass(frozen=True)
class Decoded:
    image: np.ndarray
    hints: Mapping[str, np.ndarray]
    enlarged: bool
    several: bool


@dataclass(frozen=True)
class Picture:
    """One picture: the path of its file or the bytes of one, and what is known of it.

    ``name`` is what messages call it; label, caption and group are those of ``Block``. ``hints`` are, by entry, the
    files of further pictures that belong to it.
    """

    name: str
    file: Path | bytes
    label: int | None = None
    caption: str | None = None
    group: int | None = None
    hints: Mapping[str, Path | bytes] = field(default_factory=dict)


def decoded(
    pictures: Iterable[Picture],
    shape: tuple[int, int, int],
    *,
    place: str,
    total: int | None = None,
    hint_channels: HintChannels = 3,
) -> Iterator[Block]:
    """The pictures in their order as blocks of ``shape`` (C, H, W), each made to fit as ``decode_image.fit`` says.

    Every picture has a label or none has; captions, groups and hints likewise. Hints get ``hint_channels`` channels,
    those of their entry, and the size of their pictures. Pictures that cannot be read are left out, with the reason in
    ``Block.left_out``; ``UserError`` where a hint has not the shape of its picture. ``place`` is what the progress bar
    calls all of them, ``total`` their number.
    """
    channels, *resolution = shape
    height, width = resolution

    def decode(picture: Picture) -> Decoded | str:
        """The decoded image, or the reason why there is none: a damaged file makes Pillow raise almost anything."""
        reading = ""
        try:
            image = load_image(opened(picture.file))
            hints = {}
            for entry, file in picture.hints.items():
                reading = f"the picture {entry} that belongs to it: "
                hint = load_image(opened(file))
                check_alike(picture.name, image.size, hint.size)
                hints[entry] = fit(hint, channels_of(entry, hint_channels), (height, width))
            enlarged = image.width < width or image.height < height
            return Decoded(fit(image, channels, (height, width)), hints, enlarged, image.info[SEVERAL])
        except UserError:
            raise
        except Exception as error:
            if isinstance(error, MemoryError) or getattr(error, "errno", None) in NOT_THE_PICTURE:
                raise UserError(
                    f"{picture.name} could not be read ({reason(error)}), which says nothing about the picture; start "
                    "again, and if it stays so, take it out of the data"
                ) from error
            return reading + reason(error)

    rest = iter(pictures)
    with (
        warnings_off(),
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,  # Pillow decodes outside of the interpreter lock
        Progress(transient=True, disable=total is not None and total < _BLOCK) as progress,
    ):
        task = progress.add_task(f"Decoding {Path(place).name}", total=total)
        while part := list(islice(rest, _BLOCK)):
            both = list(zip(part, pool.map(decode, part), strict=True))
            left_out = [LeftOut(p.name, UNREADABLE, image) for p, image in both if isinstance(image, str)]
            good = [(picture, image) for picture, image in both if not isinstance(image, str)]
            progress.update(task, advance=len(part))
            yield _block(good, left_out) if good else Block(np.empty((0, *shape), np.uint8), left_out=left_out)


def reason(error: Exception) -> str:
    """Why a picture cannot be read, without its path."""
    if isinstance(error, UnidentifiedImageError):
        return "no picture, or of no known format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def hint_entries(hints: str | Mapping[str, str] | None) -> dict[str, str]:
    """Where second pictures are, by the entries of a batch that they become; one without a name is ``hint``. Raises
    ``UserError`` for an entry that has another meaning."""
    several = {} if hints is None else {HINT: hints} if isinstance(hints, str) else dict(hints)
    if taken := [entry for entry in several if entry in TAKEN]:
        raise UserError(f"data.hints names {taken[0]}, which is another entry of a batch; choose another name")
    if odd := [entry for entry in several if not re.fullmatch(r"\w+", entry, re.ASCII)]:
        raise UserError(f"data.hints names {odd[0]!r}; name pictures in letters, digits and underscores")
    return several


def check_hint_channels(hint_channels: HintChannels) -> None:
    given = hint_channels if isinstance(hint_channels, Mapping) else {"": hint_channels}
    for entry, channels in given.items():
        if channels not in KINDS:
            key = f"data.hint_channels.{entry}" if entry else "data.hint_channels"
            raise UserError(f"{key}={channels} is not a kind of image; set 1 (grey), 3 (RGB) or 4 (RGBA)")


def channels_of(entry: str, hint_channels: HintChannels) -> int:
    return hint_channels.get(entry, 3) if isinstance(hint_channels, Mapping) else hint_channels


def opened(file: Path | bytes) -> Path | io.BytesIO:
    return io.BytesIO(file) if isinstance(file, bytes) else file


def check_alike(name: str, image: tuple[int, int], hint: tuple[int, int]) -> None:
    """Raises ``UserError`` unless two sizes (width, height) are in proportion, to a pixel: both are cropped alike."""
    if abs(image[0] * hint[1] - image[1] * hint[0]) > max(*image, *hint):
        raise UserError(
            f"{name} is {image[1]}×{image[0]} and the picture that belongs to it {hint[1]}×{hint[0]} (height × width), "
            "which cannot be cropped alike; give both the same shape"
        )


def _block(both: list[tuple[Picture, Decoded]], left_out: list[LeftOut]) -> Block:
    pictures, decoded = zip(*both, strict=True)
    first = pictures[0]
    return Block(
        np.stack([one.image for one in decoded]),
        None if first.label is None else np.array([picture.label for picture in pictures]),
        None if first.caption is None else [picture.caption for picture in pictures],
        None if first.group is None else np.array([picture.group for picture in pictures]),
        {entry: np.stack([one.hints[entry] for one in decoded]) for entry in first.hints},
        left_out,
        sum(one.enlarged for one in decoded),
        sum(one.several for one in decoded),
    )
