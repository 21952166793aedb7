"""Photographs of good and of defective parts, with masks: MVTec AD and LOCO AD, VisA and folders like theirs."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.paths import LocalPath
from oboro.data.cache import Block, Cached, Source
from oboro.data.category import DEFECTS, TEST, TRAIN, VALIDATION, Category, Part, list_category
from oboro.data.decode_or_skip import Picture, decoded
from oboro.data.folder import state
from oboro.data.image_data import ImageData, ImageSettings
from oboro.data.split import Rows, Split, split_rows
from oboro.modality.decode_image import centre, load_image, open_image


class MVTec(ImageData):
    """One category, ``root``, in the layout of

    - MVTec AD (Bergmann et al. 2021, IJCV 129): ``train/good``, ``test/good``, ``test/<defect>`` and
      ``ground_truth/<defect>`` with the mask of ``001.png`` as ``001_mask.png`` or ``001.png``;
    - MVTec LOCO AD (Bergmann et al. 2022, IJCV 130): the same with ``validation/good``, which is the validation part,
      and masks in a folder ``001`` for each photograph, one for each defect, of which the union is taken;
    - VisA (Zou et al. 2022, arXiv:2207.14315): ``Data/Images/Normal``, ``Data/Images/Anomaly`` and
      ``Data/Masks/Anomaly``. Which normals are for the test says ``split_csv/1cls.csv`` beside the categories; without
      it set ``test``.

    Good parts of ``train`` are for training and ``validation``, or as many as ``test`` says for the test, where they
    join those of ``test/good``; ``anomalous`` are the defective ones. There are no classes.

    What is not black in a mask is the defect. Masks are cropped and scaled as their photographs: a pixel is in it where
    the defect covers a half of it, of defects smaller than that where it covers most. Without ``ground_truth`` nobody
    knows the places. Raises ``UserError`` where a mask is missing, of another size, or outside of the crop.
    """

    def __init__(self, *, root: LocalPath, **settings: Unpack[ImageSettings]):
        given = self.complete(settings)
        for key in ("num_classes", "left_out"):
            if given[key]:
                raise UserError(f"data=mvtec has no classes; leave data.{key}={'[]' if key == 'left_out' else 0}.")
        super().__init__(**settings)
        self.root = Path(root).expanduser()

    def source(self) -> Source:
        found = list_category(self.root)
        content = [[part.name, part.kind, state(self.root / part.name)] for part in found.parts]
        return Source(
            hashlib.sha256(json.dumps(content).encode()).hexdigest(),
            0,  # to a model; the stored labels are kinds
            lambda: self._blocks(found),
            names=found.kinds,
            left_out=found.left_out,
            count=len(found.parts),
        )

    def unread(self) -> dict[str, str]:
        validates = list_category(self.root).validates
        return {"validation": f"{self.root} has validation/good"} if validates else {}

    def _blocks(self, found: Category) -> Iterator[Block]:
        pictures = (Picture(part.name, self.root / part.name, part.kind) for part in found.parts)
        return decoded(pictures, self.modality.shape, place=str(self.root), total=len(found.parts))

    def partition(self, source: Source, cached: Cached) -> tuple[Rows, np.ndarray]:
        kinds = cached.labels
        normal = np.flatnonzero(kinds == TRAIN)
        given = np.flatnonzero(kinds == VALIDATION)
        held_out = 0 if len(given) else self.held_out
        train, validation, test = split_rows(len(normal), held_out, self.tested, None, self.seed)
        validated = given if len(given) else normal[validation]
        tested = np.sort(np.concatenate([normal[test], np.flatnonzero(kinds == TEST)]))
        return Rows(normal[train], validated, tested), np.flatnonzero(kinds >= DEFECTS)

    def sample_names(self, part: Split) -> list[str]:
        return [one.name for one in self._parts(part)]

    def anomalous_masks(self) -> Tensor | None:
        parts = self._parts(self.anomalous)
        if not any(part.masks for part in parts):
            return None
        masks = [fitted_mask(self.root, part, self.modality.shape[1:]) for part in parts]
        return torch.from_numpy(np.stack(masks))

    def _parts(self, part: Split) -> list[Part]:
        """Those that could be read, as they lie in the cache."""
        unreadable = {item.name for item in self._store.left_out or ()}
        readable = [one for one in list_category(self.root).parts if one.name not in unreadable]
        if len(readable) != self._store.shape[0]:
            raise UserError(f"files have come to {self.root} or gone since they were read; start again")
        return [readable[row] for row in part.samples.rows]


def fitted_mask(root: Path, part: Part, resolution: tuple[int, int]) -> np.ndarray:
    """The union of the masks of a photograph, (H, W) bool, as ``MVTec`` says."""
    with open_image(root / part.name) as photograph:
        size = photograph.size
    pixels = np.zeros(size[::-1], bool)
    for path in part.masks:
        try:
            drawn = np.asarray(load_image(path).convert("RGB")).any(2)
        except Exception as error:  # a damaged file makes Pillow raise almost anything
            raise UserError(f"the mask {path} cannot be read; save it as a PNG of black and white.") from error
        if drawn.shape != pixels.shape:
            raise UserError(
                f"the mask {path} is {drawn.shape[1]}×{drawn.shape[0]} and {part.name} {size[0]}×{size[1]}; give both "
                "one size."
            )
        pixels |= drawn
    height, width = resolution
    box = centre(size, resolution)
    mask = Image.fromarray(pixels.astype(np.float32))
    covered = np.asarray(mask.resize((width, height), Image.Resampling.BOX, box=box))
    if not pixels.any():
        path = part.masks[0]
        raise UserError(f"the mask {path} is black and {part.name} defective; draw the defect, or remove both.")
    if not covered.max() > 0:
        raise UserError(
            f"the defect of {part.name} lies outside of the middle that data.resolution={height}×{width} keeps; set "
            "data.resolution=[H,W] in the proportions of the pictures."
        )
    return covered >= min(0.5, covered.max())
