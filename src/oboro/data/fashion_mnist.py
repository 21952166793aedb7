"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747): grey clothes of 28 pixels in ten classes."""

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import ClassVar, Literal, Unpack

import numpy as np

from oboro.base.errors import UserError
from oboro.base.paths import LocalPath
from oboro.data.cache import Block, Source
from oboro.data.download import download, not_in
from oboro.data.image_data import ImageData, ImageSettings
from oboro.modality.decode_image import fit_all

SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # the Debian package dataset-fashion-mnist
MIRRORS = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",  # has no https; the checksum protects the content
)


@dataclass(frozen=True)
class IdxFile:
    """A gzip-compressed IDX file: digest and size of its content, which are the same for every compression of it, and
    of the file as published (None for one that is never downloaded)."""

    name: str
    sha256: str
    size: int
    published: tuple[str, int] | None = None


@dataclass(frozen=True)
class Part:
    images: IdxFile
    labels: IdxFile
    embedded: bool


PARTS = {
    "test": Part(
        IdxFile(
            "t10k-images-idx3-ubyte.gz", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b", 7840016
        ),
        IdxFile("t10k-labels-idx1-ubyte.gz", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34", 10008),
        embedded=True,
    ),
    "train": Part(
        IdxFile(
            "train-images-idx3-ubyte.gz",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            47040016,
            published=("3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84", 26421880),
        ),
        IdxFile(
            "train-labels-idx1-ubyte.gz",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            60008,
            published=("a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845", 29515),
        ),
        embedded=False,
    ),
}


class FashionMNIST(ImageData):
    """``part="test"``: the 10,000 test images, which come with oboro. ``part="train"``: the 60,000 training images.

    The training files are looked for in ``root``, then in ``/usr/share/datasets/fashion-mnist``, and are downloaded
    otherwise; their content is checked against the published one before it is used, wherever it comes from.
    """

    defaults: ClassVar[ImageSettings] = {"channels": 1, "resolution": 28, "num_classes": 10, "validation": 1000}

    def __init__(
        self,
        *,
        part: Literal["train", "test"] = "train",
        root: LocalPath | None = None,
        **settings: Unpack[ImageSettings],
    ):
        super().__init__(**settings)
        if part not in PARTS:
            raise UserError(
                f"data.part={part} is not a part of Fashion-MNIST; set data.part to one of {', '.join(PARTS)}"
            )
        self.part = PARTS[part]
        self.root = Path(root).expanduser() if root else None

    def unread(self) -> dict[str, str]:
        return (
            {"root": "the images of data.part=test come with oboro (pictures of your own: data=image_folder)"}
            if self.part.embedded
            else {}
        )

    def source(self) -> Source:
        notes = [] if self.part.embedded else not_in(self.root, [self.part.images.name])
        return Source(self.part.images.sha256 + self.part.labels.sha256, classes=10, blocks=self._blocks, notes=notes)

    def _blocks(self) -> Iterator[Block]:
        images = self._content(self.part.images)[16:].reshape(-1, 28, 28, 1)
        labels = self._content(self.part.labels)[8:]
        start = 0
        for block in fit_all(images, self.modality.shape[0], self.modality.shape[1:]):
            yield Block(block, labels[start : start + len(block)])
            start += len(block)

    def _content(self, file: IdxFile) -> np.ndarray:
        """The verified bytes of ``file``."""
        if self.part.embedded:
            place, remedy = resources.files("oboro.data") / "assets" / file.name, "install oboro again"
        else:
            place, remedy = self._find(file), "delete it to have it downloaded again"
        try:
            with place.open("rb") as packed, gzip.open(packed) as unpacked:
                content = unpacked.read(file.size + 1)  # one byte too many is proof enough
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"cannot read {place}: {error}; {remedy}") from error
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise UserError(f"{place} is not the Fashion-MNIST file of that name; {remedy}")
        return np.frombuffer(content, np.uint8)

    def _find(self, file: IdxFile) -> Path:
        for folder in (self.root, SYSTEM_FOLDER):
            if folder is not None and (folder / file.name).is_file():
                return folder / file.name
        target = self.cache_dir / "downloads" / "fashion-mnist" / file.name
        sha256, size = file.published
        remedy = f"put it into data.root=<folder>, {SYSTEM_FOLDER} or {target.parent}"
        download([mirror + file.name for mirror in MIRRORS], target, size=size, sha256=sha256, remedy=remedy)
        return target
