"""Artificial defects on normal pictures, with exact masks."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Len
from scipy.ndimage import label
from torch import Tensor

from oboro.anomalies.anomalies import Anomalies, check_normals, joined
from oboro.anomalies.test_set import TestSet
from oboro.base.errors import UserError
from oboro.base.ranges import Count, PositiveShare, Seed
from oboro.base.seeding import generator
from oboro.data import DataModule
from oboro.measurement import MaskBox, MaskStroke
from oboro.measurement.mask_shape import whole

TRIES = 200
SMALLEST = 0.005  # of a picture: the smallest connected piece of a defect, and at least ``FEWEST`` pixels
FEWEST = 4
THIN = 0.03  # width of a scratch, of the shorter side, and at least 1.5 pixels

Kind = Literal["patch", "scratch", "erasure"]
Draw = Callable[[Tensor, Tensor, float, torch.Generator], tuple[Tensor, Tensor]]


def patch(picture: Tensor, other: Tensor, size: float, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """A box out of another picture, anywhere in this one: in the manner of CutPaste (arXiv:2104.04015)."""
    region = box(picture, size, random)
    rows, columns = (torch.nonzero(region.any(axis)).flatten() for axis in (1, 0))
    top, left = (whole(0, n - len(part), random) for n, part in zip(region.shape, (rows, columns), strict=True))
    pasted = picture.clone()
    pasted[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = other[
        :, top : top + len(rows), left : left + len(columns)
    ]
    return pasted, region


def scratch(picture: Tensor, other: Tensor, size: float, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """A thin line, black or white, whichever is farther from what it crosses."""
    height, width = picture.shape[1:]
    region = ~MaskStroke(1, 3, max(THIN, 1.5 / min(height, width)))(height, width, random)[0]
    colour = 1.0 if picture[:, region].mean() < 0 else -1.0
    return torch.full_like(picture, colour), region


def erasure(picture: Tensor, other: Tensor, size: float, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """A broad stroke in the median colour of the picture."""
    height, width = picture.shape[1:]
    region = ~MaskStroke(1, 2, size / 2)(height, width, random)[0]
    return picture.flatten(1).median(1).values[:, None, None].expand_as(picture), region


DRAWN: Mapping[Kind, Draw] = MappingProxyType({"patch": patch, "scratch": scratch, "erasure": erasure})


class Defects(Anomalies):
    """Every second held-out normal (``data.test``) with one defect of one of ``kinds`` in turn. They are artificial:
    how well real ones are found is for real ones to say.

    The defect of the picture at a position of ``data.test`` is a function of (``seed``, position). A mask is exactly
    where the picture was changed, and everywhere in it by at least ``contrast`` of the range from black to white;
    connected pieces of less than half a percent of the picture are left as they were, and places where nothing is left
    are drawn anew. ``size`` is the largest side of a patch, of the shorter side of the picture.

    Raises ``UserError`` for data that are no pictures, and where no defect shows on one.
    """

    def __init__(
        self,
        kinds: Annotated[Sequence[Kind], Len(1, 3)] = ("patch", "scratch", "erasure"),
        size: PositiveShare = 0.3,
        contrast: PositiveShare = 0.2,
        seed: Seed = 0,
        n: Count | None = None,
    ):
        super().__init__(n)
        self.kinds, self.size, self.contrast, self.seed = tuple(kinds), size, contrast, seed

    def __call__(self, data: DataModule) -> TestSet:
        if len(data.modality.shape) != 3:
            raise UserError(f"defects are drawn on pictures, not on {data.modality.noun}; choose other anomalies.")
        check_normals(data, 2)
        normal, marred = self.halves(len(data.test))
        drawn = [self.defect(data, position) for position in marred.tolist()]
        kinds = [self.kind(position) for position in marred.tolist()]
        names = data.sample_names(data.test)
        return joined(
            data.test.samples[normal],
            torch.stack([picture for picture, _ in drawn]),
            [names[i] for i in normal.tolist()],
            [f"{kind}/{names[i]}" for kind, i in zip(kinds, marred.tolist(), strict=True)],
            kinds,
            torch.stack([mask for _, mask in drawn]),
        )

    def kind(self, position: int) -> Kind:
        return self.kinds[position // 2 % len(self.kinds)]

    def defect(self, data: DataModule, position: int) -> tuple[Tensor, Tensor]:
        """The stored picture (C, H, W) at ``position`` of ``data.test`` with its defect, and its mask (H, W)."""
        random, kind = generator(self.seed, "defect", position), self.kind(position)
        for _ in range(TRIES):
            another = (position + whole(1, len(data.test) - 1, random)) % len(data.test)
            picture, other = data.modality.to_model(data.test.samples[[position, another]])
            changed, region = DRAWN[kind](picture, other, self.size, random)
            differs = (changed - picture).abs().amax(0) >= 2 * self.contrast
            mask = without_specks(region & differs)
            if mask.any():
                return data.modality.to_stored(torch.where(mask, changed, picture)[None])[0], mask
        raise UserError(
            f"none of {TRIES} places has a visible {kind} on {data.sample_names(data.test)[position]}; set "
            "anomalies.contrast to less, or anomalies.kinds=[scratch]."
        )


def box(picture: Tensor, size: float, random: torch.Generator) -> Tensor:
    """(H, W), True in a box of half to the whole of ``size`` of the shorter side, anywhere."""
    height, width = picture.shape[1:]
    largest = max(2, round(size * min(height, width)))
    rows, columns = (whole(max(1, largest // 2), largest, random) for _ in range(2))
    return ~MaskBox(rows, columns)(height, width, random)[0]


def without_specks(mask: Tensor) -> Tensor:
    """``mask`` (H, W) without connected pieces that are smaller than the smallest defect."""
    pieces, _ = label(mask.numpy(), np.ones((3, 3)))
    sizes = np.bincount(pieces.ravel())
    large = sizes >= max(FEWEST, round(SMALLEST * mask.numel()))
    large[0] = False
    return torch.from_numpy(large[pieces])
