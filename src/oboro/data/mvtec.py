"""Photographs of good and of defective parts, with masks of the defects: MVTec AD, VisA and folders like theirs."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.paths import LocalPath
from oboro.data.cache import Block, Cached, Source
from oboro.data.decode_or_skip import Picture, decoded
from oboro.data.folder import list_folder, natural, state
from oboro.data.image_data import ImageData, ImageSettings
from oboro.data.left_out import LeftOut
from oboro.data.split import Rows, Split, split_rows
from oboro.modality.decode_image import SUFFIXES, centre, load_image, open_image

TRAIN, TEST = 0, 1  # stored labels of normals; defects are numbered from 2 on


@dataclass(frozen=True)
class Part:
    """A photograph ``name`` below the root, its number among ``kinds``, and where its mask lies."""

    name: str
    kind: int
    mask: Path | None = None


@dataclass(frozen=True)
class Category:
    parts: list[Part]
    kinds: tuple[str, ...]
    left_out: list[LeftOut]


class MVTec(ImageData):
    """One category, ``root``, in the layout of

    - MVTec AD (Bergmann et al. 2021, IJCV 129): ``train/good``, ``test/good``, ``test/<defect>`` and
      ``ground_truth/<defect>`` with the mask of ``001.png`` as ``001_mask.png`` or ``001.png``;
    - VisA (Zou et al. 2022, arXiv:2207.14315): ``Data/Images/Normal``, ``Data/Images/Anomaly`` and
      ``Data/Masks/Anomaly``. It has no test normals of its own, so set ``test``.

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

    def _blocks(self, found: Category) -> Iterator[Block]:
        pictures = (Picture(part.name, self.root / part.name, part.kind) for part in found.parts)
        return decoded(pictures, self.modality.shape, place=str(self.root), total=len(found.parts))

    def partition(self, source: Source, cached: Cached) -> tuple[Rows, np.ndarray]:
        kinds = cached.labels
        normal = np.flatnonzero(kinds == TRAIN)
        train, validation, test = split_rows(len(normal), self.held_out, self.tested, None, self.seed)
        tested = np.sort(np.concatenate([normal[test], np.flatnonzero(kinds == TEST)]))
        return Rows(normal[train], normal[validation], tested), np.flatnonzero(kinds > TEST)

    def sample_names(self, part: Split) -> list[str]:
        return [one.name for one in self._parts(part)]

    def anomalous_masks(self) -> Tensor | None:
        parts = self._parts(self.anomalous)
        if not any(part.mask for part in parts):
            return None
        masks = [fitted_mask(self.root, part, self.modality.shape[1:]) for part in parts]
        return torch.from_numpy(np.stack(masks))

    def _parts(self, part: Split) -> list[Part]:
        """Those that could be read, as they lie in the cache."""
        unreadable = {item.name for item in self._cached.left_out or ()}
        readable = [one for one in list_category(self.root).parts if one.name not in unreadable]
        if len(readable) != self._cached.shape[0]:
            raise UserError(f"files have come to {self.root} or gone since they were read; start again")
        return [readable[row] for row in part.samples.rows]


def list_category(root: Path) -> Category:
    """Normals of both parts and defects, each in natural order. ``UserError`` for a folder of another layout."""
    if not root.is_dir():
        raise UserError(f"data.root={root} is no folder; set data.root=<folder of a category, with train/good in it>")
    visa = root / "Data" / "Images"
    if (root / "train" / "good").is_dir():
        tests = sorted(
            (path for path in (root / "test").glob("*") if path.is_dir()), key=lambda path: natural(path.name)
        )
        folders = [(root / "train" / "good", TRAIN, None), *((p, TEST, None) for p in tests if p.name == "good")]
        defects = [(path, root / "ground_truth" / path.name) for path in tests if path.name != "good"]
        truth = (root / "ground_truth").is_dir()
    elif (visa / "Normal").is_dir():
        folders = [(visa / "Normal", TRAIN, None)]
        defects = [(visa / "Anomaly", root / "Data" / "Masks" / "Anomaly")]
        truth = defects[0][1].is_dir()
    else:
        inside = [
            p.name for p in sorted(root.iterdir()) if any((p / s).is_dir() for s in ("train/good", "Data/Images"))
        ]
        remedy = f"one of its categories, {root / inside[0]} for example" if inside else "the folder of one category"
        raise UserError(f"data.root={root} has neither train/good nor Data/Images/Normal; set data.root to {remedy}")
    kinds = ["good", "good", *(path.name.lower() if path.name == "Anomaly" else path.name for path, _ in defects)]
    parts: list[Part] = []
    left_out: list[LeftOut] = []
    masked = [(path, number, masks if truth else None) for number, (path, masks) in enumerate(defects, TEST + 1)]
    for folder, kind, masks in [*folders, *masked]:
        below = folder.relative_to(root).as_posix()
        listing = list_folder(folder, SUFFIXES, labelled=False)
        left_out += [item._replace(name=f"{below}/{item.name}") for item in listing.left_out]
        images = (
            [] if masks is None else [masks / name for name, _ in list_folder(masks, SUFFIXES, labelled=False).files]
        )
        files = {path.stem: path for path in images}
        for name, _ in listing.files:
            stem = Path(name).stem
            mask = files.get(f"{stem}_mask", files.get(stem))
            if masks is not None and mask is None:
                raise UserError(
                    f"{below}/{name} has no mask in {masks}; add {stem}_mask.png, or take it out of the data"
                )
            parts.append(Part(f"{below}/{name}", kind, mask))
    if not any(part.kind == TRAIN for part in parts):
        raise UserError(f"{folders[0][0]} holds no pictures to train on; put good parts there")
    return Category(parts, tuple(kinds), left_out)


def fitted_mask(root: Path, part: Part, resolution: tuple[int, int]) -> np.ndarray:
    """The mask of a photograph, (H, W) bool, as ``MVTec`` says."""
    assert part.mask is not None
    try:
        pixels = np.asarray(load_image(part.mask).convert("RGB")).any(2)
    except Exception as error:  # a damaged file makes Pillow raise almost anything
        raise UserError(f"the mask {part.mask} cannot be read; save it as a PNG of black and white.") from error
    with open_image(root / part.name) as photograph:
        size = photograph.size
    if pixels.shape[::-1] != size:
        raise UserError(
            f"the mask {part.mask} is {pixels.shape[1]}×{pixels.shape[0]} and {part.name} {size[0]}×{size[1]}; give "
            "both one size."
        )
    height, width = resolution
    box = centre(size, resolution)
    mask = Image.fromarray(pixels.astype(np.float32))
    covered = np.asarray(mask.resize((width, height), Image.Resampling.BOX, box=box))
    if not pixels.any():
        raise UserError(f"the mask {part.mask} is black and {part.name} defective; draw the defect, or remove both.")
    if not covered.max() > 0:
        raise UserError(
            f"the defect of {part.name} lies outside of the middle that data.resolution={height}×{width} keeps; set "
            "data.resolution=[H,W] in the proportions of the pictures."
        )
    return covered >= min(0.5, covered.max())
