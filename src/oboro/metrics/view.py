"""One extractor's part in an evaluation: which features it needs, and the numbers that come of it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from oboro.base import distributed
from oboro.base.errors import UserError
from oboro.base.settings import settings
from oboro.data import DataModule
from oboro.extractor import Extractor
from oboro.metrics.bank import Bank
from oboro.metrics.metric import Metric, Value, check, compute, fits, outputs_of
from oboro.metrics.published import Published
from oboro.metrics.real_floor import real_floor
from oboro.metrics.reference import Extracted, Reference


class View:
    """Those of ``metrics`` that ``extractor`` serves, against the training images of ``data`` or published moments."""

    def __init__(self, extractor: Extractor, metrics: Mapping[str, Metric], data: DataModule, published: str | None):
        extractor.observe(data)
        self.extractor = extractor
        self.metrics = {name: metric for name, metric in metrics.items() if fits(metric, extractor)}
        self.outputs = outputs_of(self.metrics)
        self.data = data
        self.published = published
        self._reference: Reference | None = None

    def check(self, known: set[str], n: int) -> None:
        """Raises ``UserError`` for a metric that ``n`` samples, these data or this reference cannot give, and for data
        that the extractor cannot see."""
        self.extractor.accept(self.data.modality)
        real = 0 if self.published else len(self.data.train)
        check(self.metrics, n, real, known, self.data.num_classes)
        for name, metric in self.metrics.items():
            if self.published and not metric.moments:
                raise UserError(
                    f"{self.published} holds moments alone and {name} compares images; choose metrics=[frechet], or "
                    "leave reference=... out to compare with the data."
                )

    def load(self, device: torch.device) -> Reference:
        """The extractor on ``device`` and the real images, summarised by all ranks together the first time."""
        if self._reference is None:
            self.extractor.load(device)
            texts = None if self.published else self._embedded(self.data.train.captions)
            self._reference = (
                Published(self.published, self.extractor)
                if self.published
                else Extracted(
                    self.extractor,
                    self.outputs,
                    self.data.train.samples,
                    self.data.train.labels,
                    self.data.train.samples.fingerprint,
                    "train",
                    self.data.cache_dir,
                    texts,
                )
            )
        return self._reference

    def rows(self, samples: Tensor) -> Tensor:
        """What there is to remember of stored ``samples`` (B, C, ...): (B, ``width``)."""
        return self.extractor.rows(samples, self.outputs)

    @property
    def width(self) -> int:
        return sum(self.extractor.outputs[output] for output in self.outputs)

    def values(
        self, rows: Tensor, metadata: Mapping[str, Any], device: torch.device, lenient: bool = False
    ) -> dict[str, Value]:
        """Every metric, by rank 0, one after the other, and sent to the other ranks, which help with what is long.

        ``rows`` are of the samples on rank 0, and none on the others.
        ``metadata`` has the "label" (n,) and the "caption" of each image, where they are known. ``lenient`` leaves out
        what is undefined.
        """
        reference, texts = self.load(device), self._embedded(metadata.get("caption"))
        bank = Bank(self.extractor.split(rows, self.outputs), metadata.get("label"), texts)
        values: dict[str, Value] = {}
        for name, metric in self.metrics.items():
            one = {name: metric}
            try:
                values |= distributed.from_first(lambda one=one: measure(one, self.extractor, bank, reference), device)
            except UserError:  # on all ranks
                if not lenient:
                    raise
        return values

    def _embedded(self, captions: list[str] | None) -> Tensor | None:
        """Embeddings (n, d) of texts, each distinct one computed once; None where no metric needs them."""
        if captions is None or not any(metric.captioned for metric in self.metrics.values()):
            return None
        distinct = list(dict.fromkeys(captions))
        place = {text: i for i, text in enumerate(distinct)}
        return self.extractor.embed_text(distinct).cpu()[torch.tensor([place[text] for text in captions])]


def measure(
    metrics: Mapping[str, Metric], extractor: Extractor, generated: Bank, reference: Reference
) -> dict[str, Value]:
    """``{full name: value}``: every metric of the ``generated`` bank, and beside it what real images score.

    A full name has the extractor and the number of images, ``fid_inception_50000`` or ``fd_fashion_2000``: numbers of
    different names do not compare. The name of the literature is used where the features are those of the literature.
    Raises ``UserError`` that names the metric where a number does not exist: none is NaN or infinite.
    """
    values = {}
    for option, metric in metrics.items():
        computed = compute(option, metric, generated, reference)
        floor = real_floor(metric, reference, len(generated))
        for short, value in computed.items():
            name = f"{extractor.published.get(short, short)}_{extractor.name}_{len(generated)}"
            values[name] = replace(value, settings=settings(metric), **floor.get(short, {}))
    return values
