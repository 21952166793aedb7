"""What is kept of a set of images once a network has looked at them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oboro.base import distributed
from oboro.extractor.extractor import Extractor, Samples

CHUNK = 250  # images looked at at once: a constant, since batch shapes change features by 1e-7


@dataclass(frozen=True, eq=False)
class Bank:
    """Features of n images; row i belongs to image i. Every metric reads from it, and none looks at an image again.

    Attributes:
        outputs: ``{name: (n, d)}``, float32 on the CPU, by the name of the extractor's output.
        labels: (n,) int64, the class that each image was drawn for or has; None without classes.
        texts: (n, d), the extractor's embedding of the text that each image was drawn for or has; None without texts.
    """

    outputs: Mapping[str, Tensor]
    labels: Tensor | None = None
    texts: Tensor | None = None

    def __len__(self) -> int:
        return len(next(iter(self.outputs.values())))

    def __getitem__(self, output: str) -> Tensor:
        return self.outputs[output]

    def take(self, rows: Tensor) -> "Bank":
        """The images ``rows`` alone, in that order; a mask selects likewise."""
        labels, texts = (None if values is None else values[rows] for values in (self.labels, self.texts))
        return Bank({name: features[rows] for name, features in self.outputs.items()}, labels, texts)


def look_at(
    samples: Samples,
    extractor: Extractor,
    outputs: Sequence[str] = ("features",),
    labels: Tensor | None = None,
    done: Callable[[int], None] | None = None,
) -> Bank:
    """The bank of stored ``samples`` (n, C, ...), which all ranks make together and rank 0 keeps; that of the others
    is empty. ``done`` gets how many are finished."""

    def features_of(ids: list[int]) -> Tensor:
        return extractor.rows(samples[torch.tensor(ids)], outputs)

    rows = distributed.map_samples(
        len(samples), min(CHUNK, len(samples)), features_of, extractor.device, done, everywhere=False
    )
    return Bank(extractor.split(rows, outputs), labels)
