"""What samples are drawn after: the classes, texts and pictures of images, and what is measured of these."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from oboro import condition
from oboro.base.errors import UserError
from oboro.base.settings import settings
from oboro.condition import Condition
from oboro.conditioner import Conditioner
from oboro.conditioner import Image as Reader
from oboro.conditioner.conditioner import training_rows
from oboro.data import DataModule, Population
from oboro.hint import Downsample as SmallerHint
from oboro.hint.hint import with_channels
from oboro.measurement import NAME, Downsample, MaskShape, Measured, Measurement, measure
from oboro.metrics import Given, Groups, Observation
from oboro.metrics.paired import SAMPLE
from oboro.modality import Image

Conditions = Literal["training", "held_out"]


class DrawnAfter:
    """Sample i is drawn after condition i // ``draws``, made of an image of the training set, or with ``conditions`` =
    held_out of those that are held out; and, with a ``measurement``, after that image measured with ``noise``.

    What is random of a measurement is a function of the number of the condition alone: the same for any seed of
    samples.
    """

    def __init__(
        self,
        data: DataModule,
        conditions: Conditions = "training",
        draws: int = 1,
        measurement: Measurement | MaskShape | None = None,
        noise: float = 0.0,
    ):
        self.data, self.conditions, self.draws = data, conditions, draws
        self.measurement, self.noise = measurement, noise

    @property
    def population(self) -> Population:
        """The images. Raises ``UserError`` where none is held out."""
        if self.conditions == "training":
            return self.data.population
        if not len(self.data.validation):
            raise UserError("conditions=held_out and data.validation=0 holds nothing out; leave conditions=training.")
        return self.data.population_of(self.data.validation)

    def numbers(self, ids: Sequence[int]) -> list[int]:
        """The condition of each sample."""
        return [i // self.draws for i in ids]

    def known(self, conditioner: Conditioner) -> set[str]:
        """What is known of samples before they are drawn: "label", "caption", and of ``oboro.metrics.paired.NEEDS``.

        Raises ``UserError`` for options that mean nothing to a model without a condition.
        """
        if not conditioner.gives and self.measurement is None:
            for key, given in {"conditions=held_out": self.conditions != "training", "draws": self.draws > 1}.items():
                if given:
                    raise UserError(f"{key}: the model has no condition; leave it out.")
        known = conditioner.known(self.population)
        if self.draws > 1:
            known |= {"draws"}
        if self.measurement is not None and not isinstance(self.data.modality, Image):
            noun = self.data.modality.noun
            raise UserError(f"measurements are of images and the model makes {noun}; leave measurement out.")
        if self.measurement is not None or readers(conditioner):
            known |= {"truth"}
            given = self.given(conditioner, [0])
            known |= {"hole"} if given.known is not None else set()
            known |= {"observed"} if any(one.see and one.entry == SAMPLE for one in given.observations) else set()
            known |= {"exact"} if self.exact(conditioner) else set()
        return known

    def exact(self, conditioner: Conditioner) -> bool:
        """Whether known pixels are those of the image."""
        if self.measurement is not None:
            return self.noise == 0
        channels = self.data.modality.shape[0]
        return all(reader.hint.channels == channels for reader in readers(conditioner) if hole(reader))

    def metadata(self, conditioner: Conditioner, ids: Sequence[int]) -> dict[str, Any]:
        """The "label" and the "caption" that samples are drawn after, where there are any."""
        return conditioner.metadata(self.numbers(ids), self.population)

    def groups(self, conditioner: Conditioner, ids: Sequence[int]) -> Groups:
        """Which samples are of one condition, and which conditions of one picture."""
        numbers = self.numbers(ids)
        pictured = self.measurement is not None or readers(conditioner)
        picture = training_rows(numbers, self.population) if pictured else torch.tensor(numbers)
        return Groups(torch.tensor(numbers), picture)

    def condition(self, conditioner: Conditioner, ids: Sequence[int]) -> Condition:
        """What samples ``ids`` are drawn after."""
        numbers = self.numbers(ids)
        cond = conditioner.for_samples(numbers, self.population)
        if self.measurement is None:
            return cond
        return replace(cond, sampling={**cond.sampling, NAME: self._measured(self._truth(numbers), numbers)})

    def given(self, conditioner: Conditioner, ids: Sequence[int], later: int = 0) -> Given:
        """The images that the conditions of samples ``ids`` were made of, on the CPU, and what these show of them; of
        the conditions that come ``later`` by so many."""
        numbers = [number + later for number in self.numbers(ids)]
        truth = self._truth(numbers)
        seen = [of_reader(r, r.signal(r.sample_batch(numbers, self.population))) for r in readers(conditioner)]
        holes = [one.weight for one in seen if one.weight is not None and one.entry == SAMPLE]
        if self.measurement is not None:
            measured = self._measured(truth, numbers)
            seen.append(of_measured(measured))
            if measured.operator.known is not None:
                holes.insert(0, measured.operator.known)
        return Given(truth, holes[0] if holes else None, seen)

    def _truth(self, numbers: Sequence[int]) -> Tensor:
        samples = self.population.samples
        assert samples is not None
        return self.data.modality.to_model(samples[training_rows(numbers, self.population)])

    def _measured(self, truth: Tensor, numbers: Sequence[int]) -> Measured:
        assert self.measurement is not None
        return measure(truth, self.measurement, numbers, noise=self.noise)

    def protocol(self) -> dict[str, Any]:
        """What two numbers must share of it, in plain values; nothing where it is as ever."""
        entries: dict[str, Any] = {} if self.conditions == "training" else {"conditions": self.conditions}
        if self.draws > 1:
            entries["draws"] = self.draws
        if self.measurement is not None:
            entries["measurement"] = {**settings(self.measurement), "noise": self.noise}
        return entries


def readers(conditioner: Conditioner) -> list[Reader]:
    """The conditions that are pictures."""
    return [single for single in conditioner.singles if isinstance(single, Reader)]


def hole(reader: Reader) -> bool:
    """Whether it hides a part of the sample itself."""
    return reader.hint.has_hole and reader.entry == SAMPLE


def of_reader(reader: Reader, image: condition.Image) -> Observation:
    """What a picture shows that a network reads."""
    hint, factor = reader.hint, 0
    if hint.has_hole:
        return Observation(image.x, lambda x: with_channels(x, hint.channels), image.x, reader.entry, image.known)
    if isinstance(hint, SmallerHint) and isinstance(hint.measurement, Downsample):
        factor = hint.measurement.factor
    return Observation(
        image.x,
        None if hint.random else lambda x: hint(x).x,
        image.x,
        reader.entry,
        smaller=image.x[..., ::factor, ::factor] if factor else None,  # every number is shown as a block
    )


def of_measured(measured: Measured) -> Observation:
    """What a measurement shows."""
    a, known = measured.operator, measured.operator.known
    if known is not None:
        return Observation(measured.y, lambda x: x, a.picture(measured.y), weight=known)
    return Observation(
        measured.y,
        None if a.tensors else a,
        a.picture(measured.y),
        smaller=measured.y if isinstance(a, Downsample) else None,
    )
