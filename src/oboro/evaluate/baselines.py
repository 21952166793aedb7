"""Pictures that need no model: what a number has to beat."""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from oboro.base.errors import UserError
from oboro.conditioner import Conditioner
from oboro.data import DataModule
from oboro.evaluate.drawn_after import DrawnAfter
from oboro.hint.hint import with_channels
from oboro.metrics import Given, Observation
from oboro.metrics.bank import CHUNK
from oboro.metrics.paired import SAMPLE
from oboro.modality import Image

# "shuffled" is no picture: samples, each compared with what the next condition was made of.
Baseline = Literal["copy", "mean", "nearest", "bicubic", "shuffled"]
FEWEST = 3  # images of which two conditions in a row never are the same


class Baselines:
    """Stored pictures (B, C, H, W) in the place of samples, one for each.

    - copy: what the condition shows, as a picture; a hole is grey;
    - bicubic: a smaller picture enlarged;
    - mean: the mean of the training images, of the class of the sample where that is known;
    - nearest: the training image of which the condition would show what comes nearest, by the sum of squares.

    In a hole alone, where known pixels are known without noise.
    """

    def __init__(self, names: Sequence[Baseline], after: DrawnAfter, data: DataModule):
        self.names = list(dict.fromkeys(names))
        self.after = after
        self.data = data
        self._means: dict[int | None, Tensor] = {}

    @property
    def pictures(self) -> list[Baseline]:
        """Those that are pictures."""
        return [name for name in self.names if name != "shuffled"]

    def check(self, conditioner: Conditioner, known: set[str]) -> None:
        """Raises ``UserError`` for a baseline that these conditions do not have."""
        for name in self.names:
            if "truth" not in known or not isinstance(self.data.modality, Image):
                raise UserError(
                    f"baselines=[{name}] is for samples that are drawn after pictures, and these are not; leave it "
                    "out, or set measurement=mask_box or another."
                )
            if name == "shuffled" and len(self.after.population.samples) < FEWEST:
                raise UserError(
                    f"baselines=[shuffled] compares with other images, and there are fewer than {FEWEST}; hold out "
                    "more with data.validation, or leave it out."
                )
            if name in ("bicubic", "nearest"):
                self.images(name, conditioner, [0])

    def images(self, name: Baseline, conditioner: Conditioner, ids: Sequence[int]) -> Tensor:
        """Those of samples ``ids``, on the CPU."""
        given = self.after.given(conditioner, ids)
        if name == "copy":
            x = self._as_sample(given.observations[-1].picture)
        elif name == "bicubic":
            x = self._bicubic(given)
        elif name == "mean":
            x = self._mean(self.after.metadata(conditioner, ids).get("label"), len(ids))
        else:
            x = self.data.modality.to_model(self.data.train.samples[self._nearest(given)])
        if given.known is not None and name != "copy" and self.after.exact(conditioner):
            x = torch.where(given.known, given.truth, x)
        return self.data.modality.to_stored(x)

    def _as_sample(self, picture: Tensor) -> Tensor:
        return with_channels(picture, self.data.modality.shape[0])

    def _bicubic(self, given: Given) -> Tensor:
        smaller = next((one.smaller for one in given.observations if one.smaller is not None), None)
        if smaller is None:
            raise UserError(
                "baselines=[bicubic] enlarges a smaller picture and the condition shows none; leave it out, or measure "
                "a model with hint=downsample, or set measurement=downsample."
            )
        size = self.data.modality.shape[1:]
        return self._as_sample(interpolate(smaller, size, mode="bicubic", align_corners=False))

    def _mean(self, labels: Tensor | None, n: int) -> Tensor:
        if labels is None or self.data.train.labels is None:
            return self._mean_of(None).expand(n, -1, -1, -1)
        return torch.stack([self._mean_of(label) for label in labels.tolist()])

    def _mean_of(self, label: int | None) -> Tensor:
        if label not in self._means:
            rows = torch.arange(len(self.data.train))
            if label is not None:
                own = rows[self.data.train.labels == label]
                rows = own if len(own) else rows  # a class that is held out as a whole
            total = torch.zeros(self.data.modality.shape, dtype=torch.float64)
            for part in rows.split(CHUNK):
                total += self.data.modality.to_model(self.data.train.samples[part]).double().sum(0)
            self._means[label] = (total / len(rows)).float()
        return self._means[label]

    def _nearest(self, given: Given) -> Tensor:
        """Rows (B,) of the training images."""
        usable = [one for one in given.observations if one.see is not None]
        if not usable:
            raise UserError(
                "baselines=[nearest] compares what conditions show of training images, and this one cannot be computed "
                "of them; leave it out."
            )
        return torch.cat([self._distances(rows, usable) for rows in self._parts()], 1).argmin(1)

    def _parts(self) -> Iterator[Tensor]:
        yield from torch.arange(len(self.data.train)).split(CHUNK)

    def _distances(self, rows: Tensor, observations: Sequence[Observation]) -> Tensor:
        """sum w (see(x_j) - y_i)² (B, len(rows)), without the part that all x_j have in common."""
        total: Tensor | float = 0.0
        for one in observations:
            assert one.see is not None
            if one.entry == SAMPLE:
                pictures = self.data.modality.to_model(self.data.train.samples[rows])
            else:
                pictures = self.data.hint_modalities[one.entry].to_model(self.data.train.hints[one.entry][rows])
            z, y = one.see(pictures).double().flatten(1), one.y.double()
            weight = torch.ones_like(y) if one.weight is None else one.weight.to(y).expand_as(y)
            y, weight = y.flatten(1), weight.flatten(1)
            total = total + weight @ z.square().T - 2 * (weight * y) @ z.T
        assert isinstance(total, Tensor)
        return total
