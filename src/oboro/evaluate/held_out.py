"""An inverse problem on held-out samples: which one sample i is of, and what is known of it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.settings import settings
from oboro.condition import Condition
from oboro.conditioner import Conditioner
from oboro.conditioner.image import with_measured
from oboro.data import DataModule
from oboro.measurement import MaskShape, Measured, Measurement, measure
from oboro.modality import Image


class HeldOut:
    """Held-out samples of ``data`` that are measured, each with ``noise`` and a mask of its own, by functions of
    (``seed``, its row). Sample i is drawn of row i mod n, under the conditions of that row, so that more samples than
    there are rows are several draws of the same measurements."""

    def __init__(self, data: DataModule, measurement: Measurement | MaskShape, noise: float = 0.0, seed: int = 0):
        self.data = data
        self.measurement = measurement
        self.noise = noise
        self.seed = seed

    def check(self) -> Measured:
        """The measurement of the first sample. Raises ``UserError`` for data that cannot be measured so."""
        if not isinstance(self.data.modality, Image):
            raise UserError(f"measurements are of images and the data are {self.data.modality.noun}; leave it out.")
        if not len(self.data.validation):
            raise UserError("nothing is held out, of which samples could be drawn; set data.validation=500 or so.")
        return self.measured([0])

    def rows(self, ids: Sequence[int]) -> list[int]:
        """The rows of ``data.validation`` that samples ``ids`` are of."""
        return [i % len(self.data.validation) for i in ids]

    def truth(self, ids: Sequence[int]) -> Tensor:
        """The held-out samples themselves, (B, C, ...), as they are stored."""
        return self._batch(ids)["x"]

    def measured(self, ids: Sequence[int]) -> Measured:
        """y, its noise and its operator, on the CPU."""
        x = self.data.modality.to_model(self.truth(ids))
        return measure(x, self.measurement, self.rows(ids), noise=self.noise, seed=self.seed)

    def condition(self, conditioner: Conditioner, ids: Sequence[int]) -> Condition:
        """The conditions of the rows, and what is known of them."""
        cond = conditioner.keep(self.data.on_after_batch_transfer(self._batch(ids), 0))
        return with_measured(cond, self.measured(ids), conditioner)

    def metadata(self, ids: Sequence[int]) -> dict[str, Any]:
        """The label and the caption of the rows, where the data have them."""
        batch = self._batch(ids)
        return {key: batch[key] for key in ("label", "caption") if key in batch}

    @property
    def settings(self) -> dict[str, Any]:
        """For the protocol."""
        rows = len(self.data.validation)
        return {"measurement": settings(self.measurement), "noise": self.noise, "held_out": rows, "seed": self.seed}

    def _batch(self, ids: Sequence[int]) -> dict[str, Any]:
        return self.data.validation.__getitems__((torch.tensor(self.rows(ids)), None))
