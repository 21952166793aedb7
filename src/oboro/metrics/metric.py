"""What a metric is, what it gives, and whether extractor and data have what it needs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

import torch

from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.settings import Settings
from oboro.extractor.extractor import Extractor
from oboro.metrics.bank import Bank
from oboro.metrics.reference import Reference


@dataclass(frozen=True)
class Value:
    """One number and what is needed to judge it.

    Attributes:
        value: the number.
        better: -1 where smaller is better, 1 where larger is, 0 where neither.
        interval: 95 % confidence interval, where the metric has one.
        real: what real images score that were held back from the reference, the mean over random splits; None where
            that is unknown.
        real_n: how many these were; where they are fewer than the generated ones their bias is larger.
        real_std: standard deviation over the splits, None of one.
        real_splits: the value of each split. Files of older versions have the first of them alone, as ``real``.
        settings: the metric and how it was set (``oboro.base.settings``).
        warning: why the number deserves little trust, if so.
        detail: plain values for whoever wants more: a value for each class, the closest pairs.
    """

    value: float
    better: int
    interval: tuple[float, float] | None = None
    real: float | None = None
    real_n: int | None = None
    real_std: float | None = None
    real_splits: Sequence[float] = ()
    settings: Settings = field(default_factory=dict)
    warning: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """For JSON, without what is empty."""
        return {k: v for k, v in asdict(self).items() if v not in (None, {}, "", ())}


class Metric(ABC):
    """Numbers about the bank of generated images against a reference; a small object of settings, without state.

    Attributes:
        outputs: what it reads from the bank, names of the extractor's outputs.
        labelled: whether it needs the class of every image.
        captioned: whether it needs the text of every image, in the space of the extractor.
        least: the fewest images, generated or real, of which the number is defined.
        moments: whether the reference's mean and covariance are all it needs.
        extractor: name of the only extractor on which it is defined, None for any.
    """

    outputs: tuple[str, ...] = ("features",)
    labelled: bool = False
    captioned: bool = False
    least: int = 2
    moments: bool = False
    extractor: str | None = None

    def least_of(self, classes: int) -> int:
        """``least`` for data of so many classes, 0 without."""
        return self.least

    @abstractmethod
    def __call__(self, generated: Bank, reference: Reference) -> dict[str, Value]:
        """``{short name: value}``. ``ValueError`` where there is no such number."""


def compute(name: str, metric: Metric, generated: Bank, reference: Reference) -> dict[str, Value]:
    """``metric(generated, reference)``: finite numbers, or ``UserError`` that begins with ``name``."""
    check_enough(name, metric, len(generated), reference.n)
    try:
        values = metric(generated, reference)
    except (ValueError, torch.linalg.LinAlgError) as error:
        raise UserError(f"{name} is undefined: {str(error).rstrip('.')}; leave it out of metrics=[...].") from error
    for short, value in values.items():
        if not all(map(isfinite, (value.value, *(value.interval or ())))):
            raise UserError(
                f"{name} is undefined: {short} came out as {value.value}, for features too large or too much alike; "
                "leave it out of metrics=[...]."
            )
    return values


def outputs_of(metrics: Mapping[str, Metric]) -> list[str]:
    """What an extractor has to give for all of them, each once."""
    return list(dict.fromkeys(output for metric in metrics.values() for output in metric.outputs))


def fits(metric: Metric, extractor: Extractor) -> bool:
    """Whether ``extractor`` gives what ``metric`` needs."""
    reads = extractor.reads_texts or not metric.captioned
    return reads and metric.extractor in (None, extractor.name) and set(metric.outputs) <= set(extractor.outputs)


def unserved(name: str, metric: Metric, extractors: Sequence[Extractor]) -> UserError:
    """What to say of a metric that fits none of ``extractors``."""
    needs = f"extractor={metric.extractor}" if metric.extractor else " and ".join(metric.outputs)
    needs = "extractor=clip or trained_clip" if metric.captioned else needs
    has = "; ".join(f"{extractor.name} with {', '.join(extractor.outputs)}" for extractor in extractors)
    return UserError(
        f"{name} needs {needs} and there is {has}; leave {name} out of metrics=[...] or choose another extractor."
    )


def check_enough(name: str, metric: Metric, n: int, real: int, classes: int = 0) -> None:
    """Raises ``UserError`` for a metric that ``n`` generated and ``real`` real images are too few for.

    ``real = 0``: only moments are known, which says nothing about their number.
    """
    least = metric.least_of(classes)
    if n < least or 0 < real < least:
        of_classes = f" of {counted(classes, 'classes')}" if least > metric.least else ""
        more = "raise n" if n < least else "use more data, or hold out fewer of them with data.validation,"
        raise UserError(
            f"{name} is undefined below {least} samples{of_classes} and there are {n} generated and {real} real ones; "
            f"{more} or leave it out of metrics=[...]."
        )


def check(metrics: Mapping[str, Metric], n: int, real: int, known: set[str], classes: int = 0) -> None:
    """Raises ``UserError`` for a metric that cannot be had from ``n`` generated and ``real`` real images.

    ``known`` names what each image has, "label" and "caption", and ``classes`` says how many there are. ``real = 0``:
    only moments are known.
    """
    for name, metric in metrics.items():
        if metric.captioned and "caption" not in known:
            raise UserError(
                f"{name} needs the text of every image; leave it out of metrics=[...] or train with conditioner=text."
            )
        if metric.labelled and "label" not in known:
            raise UserError(
                f"{name} needs the class of every image; leave it out of metrics=[...] or train with conditioner=label."
            )
        check_enough(name, metric, n, real, classes)
