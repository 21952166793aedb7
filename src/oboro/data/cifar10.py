"""CIFAR-10 (Krizhevsky 2009): colour photographs of 32 pixels in ten classes, the 50,000 training images."""

import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Unpack

import numpy as np

from oboro.base.errors import UserError
from oboro.base.paths import LocalPath
from oboro.data.cache import Block, Source
from oboro.data.download import download, not_in, sha256_of
from oboro.data.image_data import ImageData, ImageSettings
from oboro.modality.decode_image import fit_all

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE, FOLDER = "cifar-10-binary.tar.gz", "cifar-10-batches-bin"
ARCHIVE_SHA256, ARCHIVE_SIZE = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd", 170052171
FILES = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
}
RECORD = 1 + 3 * 32 * 32  # label, then red, green and blue plane, row by row
RECORDS = 10_000  # of each file


class CIFAR10(ImageData):
    """The binary version: it needs no unpickling.

    ``root`` may hold the folder ``cifar-10-batches-bin`` or the archive ``cifar-10-binary.tar.gz``, which is read in
    place; without either the archive is downloaded. Contents are checked against their digests before they are used.
    """

    defaults: ClassVar[ImageSettings] = {"resolution": 32, "num_classes": 10, "flip": True, "validation": 1000}

    def __init__(
        self,
        *,
        root: LocalPath | None = None,
        **settings: Unpack[ImageSettings],
    ):
        super().__init__(**settings)
        self.root = Path(root).expanduser() if root else None

    def source(self) -> Source:
        return Source(ARCHIVE_SHA256, classes=10, blocks=self._blocks, notes=not_in(self.root, [FOLDER, ARCHIVE]))

    def _blocks(self) -> Iterator[Block]:
        for content in self._extracted() if self._is_extracted() else self._archived():
            records = np.frombuffer(content, np.uint8).reshape(RECORDS, RECORD)
            images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            for block in fit_all(images, self.modality.shape[0], self.modality.shape[1:], block=RECORDS):
                yield Block(block, records[:, 0])

    def _is_extracted(self) -> bool:
        return self.root is not None and (self.root / FOLDER).is_dir()

    def _extracted(self) -> Iterator[bytes]:
        for name, sha256 in FILES.items():
            path = self.root / FOLDER / name
            try:
                with path.open("rb") as file:
                    content = file.read(RECORDS * RECORD + 1)
            except OSError as error:
                raise UserError(f"cannot read {path}: {error.strerror}; delete {path.parent} and try again") from error
            if hashlib.sha256(content).hexdigest() != sha256:
                raise UserError(f"{path} is not the CIFAR-10 file of that name; delete {path.parent} and try again")
            yield content

    def _archived(self) -> Iterator[bytes]:
        archive = self.root / ARCHIVE if self.root is not None and (self.root / ARCHIVE).is_file() else None
        if archive is None:
            archive = self.cache_dir / "downloads" / ARCHIVE
            remedy = f"put it into data.root=<folder> or {archive.parent}"
            download([URL], archive, size=ARCHIVE_SIZE, sha256=ARCHIVE_SHA256, remedy=remedy)
        elif sha256_of(archive) != ARCHIVE_SHA256:
            raise UserError(f"{archive} is not the published CIFAR-10 archive; delete it to have it downloaded again")
        try:
            with tarfile.open(archive, "r:gz") as tar:
                contents = {name: tar.extractfile(f"{FOLDER}/{name}").read(RECORDS * RECORD) for name in FILES}
        except (OSError, EOFError, KeyError, AttributeError, tarfile.TarError, zlib.error) as error:
            raise UserError(f"cannot read {archive}: {error}; delete it to have it downloaded again") from error
        yield from contents.values()
