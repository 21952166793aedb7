"""What samples are drawn after: the classes, texts and pictures of images, and what is measured of these."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from oboro import condition
from oboro.base.errors import UserError
from oboro.condition import Condition
from oboro.conditioner import Conditioner
from oboro.conditioner import Image as Reader
from oboro.conditioner.conditioner import training_rows
from oboro.data import DataModule, Population
from oboro.evaluate.held_out import HeldOut
from oboro.hint import Downsample as SmallerHint
from oboro.hint.hint import with_channels
from oboro.measurement import Downsample, Measured
from oboro.metrics import Given, Groups, Observation
from oboro.metrics.paired import SAMPLE

Conditions = Literal["training", "held_out"]


class DrawnAfter:
    """Sample i is drawn after condition i // ``draws``, made of an image of the training set, or with ``conditions`` =
    held_out of those that are held out; with a ``problem`` of what was measured of the held-out image of its row."""

    def __init__(
        self, data: DataModule, conditions: Conditions = "training", draws: int = 1, problem: HeldOut | None = None
    ):
        self.data, self.draws, self.problem = data, draws, problem
        self.conditions: Conditions = conditions if problem is None else "held_out"

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

    def rows(self, numbers: Sequence[int]) -> Tensor:
        """The image of each condition, a row of ``population``."""
        if self.problem is not None:
            return torch.tensor(self.problem.rows(numbers))
        return training_rows(numbers, self.population)

    def known(self, conditioner: Conditioner) -> set[str]:
        """What is known of samples before they are drawn: "label", "caption", and of ``oboro.metrics.paired.NEEDS``.

        Raises ``UserError`` for options that mean nothing to a model without a condition.
        """
        if not conditioner.gives and self.problem is None:
            for key, given in {"conditions=held_out": self.conditions != "training", "draws": self.draws > 1}.items():
                if given:
                    raise UserError(f"{key}: the model has no condition; leave it out.")
        known = set(self.metadata(conditioner, [0])) | ({"draws"} if self.draws > 1 else set())
        if self.problem is None and not readers(conditioner):
            return known
        given = self.given(conditioner, [0])
        hole = {"hole"} if given.known is not None else set()
        seen = {"observed"} if any(one.see and one.entry == SAMPLE for one in given.observations) else set()
        return known | {"truth"} | hole | seen | ({"exact"} if self.exact(conditioner) else set())

    def exact(self, conditioner: Conditioner) -> bool:
        """Whether known pixels are those of the image."""
        if self.problem is not None:
            return self.problem.noise == 0
        channels = self.data.modality.shape[0]
        return all(reader.hint.channels == channels for reader in readers(conditioner) if hides(reader))

    def metadata(self, conditioner: Conditioner, ids: Sequence[int]) -> dict[str, Any]:
        """The "label" and the "caption" that samples are drawn after, where there are any."""
        numbers = self.numbers(ids)
        return (
            conditioner.metadata(numbers, self.population) if self.problem is None else self.problem.metadata(numbers)
        )

    def groups(self, conditioner: Conditioner, ids: Sequence[int]) -> Groups:
        """Which samples are of one condition, and which conditions of one image."""
        numbers = self.numbers(ids)
        condition = torch.tensor(numbers) if self.problem is None else self.rows(numbers)
        pictured = self.problem is not None or readers(conditioner)
        return Groups(condition, self.rows(numbers) if pictured else condition)

    def condition(self, conditioner: Conditioner, ids: Sequence[int]) -> Condition:
        """What samples ``ids`` are drawn after."""
        numbers = self.numbers(ids)
        if self.problem is None:
            return conditioner.for_samples(numbers, self.population)
        return self.problem.condition(conditioner, numbers)

    def given(self, conditioner: Conditioner, ids: Sequence[int], later: int = 0) -> Given:
        """The images that the conditions of samples ``ids`` were made of, on the CPU, and what these show of them; of
        the conditions that come ``later`` by so many."""
        numbers = [number + later for number in self.numbers(ids)]
        samples, measured = self.population.samples, None
        assert samples is not None
        pictures = readers(conditioner)
        if self.problem is not None:
            measured = self.problem.measured(numbers)
            if measured.operator.known is not None:  # its pixels are what a picture with a hole is made of
                pictures = [reader for reader in pictures if not hides(reader)]
        seen = [of_reader(reader, reader.signal(self._batch(reader, numbers))) for reader in pictures]
        if measured is not None:
            seen.append(of_measured(measured))
        known = [one.weight for one in reversed(seen) if one.weight is not None and one.entry == SAMPLE]
        truth = self.data.modality.to_model(samples[self.rows(numbers)])
        return Given(truth, known[0] if known else None, seen)

    def _batch(self, reader: Reader, numbers: Sequence[int]) -> dict[str, Any]:
        if self.problem is None:
            return reader.sample_batch(numbers, self.population)
        return self.data.on_after_batch_transfer(self.data.validation.__getitems__((self.rows(numbers), None)), 0)

    def protocol(self) -> dict[str, Any]:
        """What two numbers must share of it, in plain values; nothing where it is as ever."""
        entries: dict[str, Any] = {}
        if self.problem is not None:
            entries["problem"] = self.problem.settings
        elif self.conditions != "training":
            entries["conditions"] = self.conditions
        return entries | ({"draws": self.draws} if self.draws > 1 else {})


def readers(conditioner: Conditioner) -> list[Reader]:
    """The conditions that are pictures."""
    return [single for single in conditioner.singles if isinstance(single, Reader)]


def hides(reader: Reader) -> bool:
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
