"""Conditioning on a picture: edges, a mask, a smaller version, the picture before an edit."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from oboro import condition
from oboro.base.counted import counted
from oboro.base.draws import rand
from oboro.base.errors import UserError
from oboro.base.ranges import Name, Share, Width
from oboro.base.seeding import generator as generator_of
from oboro.conditioner.conditioner import Batch, Conditioner, Single, training_metadata, training_rows
from oboro.data import Population
from oboro.hint import Given, Hint
from oboro.hint.hint import with_channels
from oboro.measurement import NAME, Mask, Measured
from oboro.modality import from_uint8

SHOWN = 8  # pictures of the data that samples in pictures are drawn after
DRAWS = 2**24  # numbers that a uniform one in float32 can be


class Image(Single):
    """``hint`` of batch[``entry``] (B, C, H, W), in [-1, 1], ↦ the signal ``name``, of ``image_channels`` channels.

    By default the picture is one that the data have, batch["hint"], flipped and cropped along with its image; a hint
    that is computed (``oboro.hint``) is made of the sample. What is random of it follows in training from the generator
    of the step, so from (seed, position), and elsewhere from the index of a held-out or generated sample: it is the
    same whatever the batch, the rank and the device. Pictures during training show pictures of the data.

    ``latent``: the network reads what the codec makes of the picture (``oboro.task.Generation.seen``).
    """

    kind = condition.Image
    needing, otherwise = "conditioner=image needs", "conditioner=label, text or unconditional"

    def __init__(
        self,
        image_channels: Width,
        dropout: Share = 0.1,
        name: Name = "image",
        entry: Name | None = None,
        hint: Hint | None = None,
        latent: bool = False,
    ):
        if image_channels < 1:
            raise UserError("conditioner=image reads a picture; set conditioner.image_channels to 1, 3 or 4.")
        super().__init__(dropout)
        self.hint = hint or Given(image_channels)
        self.name, self.entry = name, entry or self.hint.entry
        self.image_channels = image_channels
        self.latent = latent
        self._shown: Tensor | None = None

    @property
    def computed(self) -> bool:
        """Whether the picture is made of another one, and not what the data or the user give."""
        return not isinstance(self.hint, Given)

    def signal(self, batch: Batch) -> condition.Image:
        x = batch[self.entry]
        index = batch.get("index", torch.arange(len(x)))
        return self.of(self.hint(x, self._generators("hint", index)))

    def drawn(self, batch: Batch, generator: torch.Generator) -> condition.Image:
        if not self.hint.random:
            return self.signal(batch)
        x = batch[self.entry]
        return self.of(self.hint(x, self._generators("training hint", (rand((len(x),), generator) * DRAWS).long())))

    def of(self, image: condition.Image) -> condition.Image:
        """The signal of a picture."""
        return image

    def _generators(self, what: str, numbers: Tensor) -> list[torch.Generator]:
        if not self.hint.random:
            return []
        return [generator_of(0, f"{what} {self.name}", number) for number in numbers.tolist()]

    def check(self, population: Population) -> None:
        self._check_source(population)
        batch = self._of(range(SHOWN), population)
        self._shown = batch[self.entry]
        channels = self.signal(batch).x.shape[1]
        if channels != self.image_channels:
            raise UserError(
                f"the pictures to read have {counted(channels, 'channels')} and "
                f"conditioner.image_channels is {self.image_channels}; set it to {channels}."
            )

    def _check_source(self, population: Population) -> None:
        """Raises ``UserError`` where the data have not the pictures that the condition is made of."""
        if self.entry == "x":
            samples = population.samples
            if samples is None or len(samples.shape) != 4 or samples[[0]].dtype != torch.uint8:
                kind = type(self.hint).__name__
                raise UserError(f"the hint {kind} is made of pictures and the samples are none; leave hint=... out.")
        elif self.entry not in population.hints:
            others = f"only {', '.join(population.hints)}" if population.hints else "none"
            raise UserError(
                f"{self.needing} a second picture ({self.entry}) of each image and these data have {others}; choose "
                "data with hints (data.hints=<a folder of pictures of the same names>), a hint that is computed from "
                f"the image (hint=edges), or {self.otherwise}."
            )

    def metadata(self, ids: Sequence[int], population: Population | None) -> dict[str, Any]:
        """Of a ``population`` the caption and the class of the image whose hint is taken."""
        return {} if population is None else training_metadata(ids, population)

    def sample_batch(self, ids: Sequence[int], population: Population | None) -> dict[str, Any]:
        """With the picture i mod 8 that pictures show, or of a ``population`` that of ``training_rows``."""
        if population is not None:
            return {**self.metadata(ids, population), **self._of(ids, population)}
        if self._shown is None:
            raise UserError("the model draws after a picture and was given none; set hint=<a file or folder>.")
        index = torch.tensor(list(ids))
        return {self.entry: self._shown[index % SHOWN], "index": index}

    def _of(self, ids: Sequence[int], population: Population) -> dict[str, Tensor]:
        source = population.samples if self.entry == "x" else population.hints[self.entry]
        return {self.entry: from_uint8(source[training_rows(ids, population)]), "index": torch.tensor(list(ids))}

    def around(self, x: Tensor, known: Tensor) -> condition.Image:
        """What it is of pictures x (B, C, H, W) that are ``known`` (B, 1, H, W), bool, where that is given."""
        return self.of(condition.Image(torch.where(known, with_channels(x, self.hint.channels), 0.0), known))


def with_measured(cond: condition.Condition, given: Measured, conditioner: Conditioner) -> condition.Condition:
    """``cond`` with a measurement, which guidance and samplers read. Of pixels that are known without noise a condition
    with a hole is made, too, so that models that fill holes can be compared with those that know none."""
    holes = {}
    if isinstance(given.operator, Mask) and not given.noise.any():
        holes = {
            single.name: single.around(given.y, given.operator.mask)
            for single in conditioner.singles
            if isinstance(single, Image) and single.hint.has_hole
        }
    return replace(cond, signals={**cond.signals, **holes}, sampling={**cond.sampling, NAME: given})
