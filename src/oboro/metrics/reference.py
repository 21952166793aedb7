"""The real images that generated ones are compared with."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oboro.base import distributed
from oboro.base.seeding import generator
from oboro.extractor.extractor import Extractor, Samples
from oboro.metrics.bank import Bank, look_at
from oboro.metrics.cache import Arrays, cached_arrays, read_arrays, write_arrays
from oboro.metrics.statistics import FeatureStatistics


class Reference(ABC):
    """What is known of n real images under one extractor: their features, or only the moments of these.

    Attributes:
        n: how many images.
        identity: plain values that say which images, seen through which extractor.
    """

    n: int
    identity: Mapping[str, Any]

    @property
    @abstractmethod
    def bank(self) -> Bank:
        """The features of the images; raises ``UserError`` where only their moments are known."""

    @abstractmethod
    def statistics(self, output: str) -> FeatureStatistics:
        """Mean and covariance of one output."""

    @abstractmethod
    def derived(self, what: str, compute: Callable[[], Arrays]) -> Arrays:
        """Arrays that follow from the bank in the way that ``what`` names; computed once."""


class Held(Reference):
    """A bank in memory."""

    def __init__(self, bank: Bank):
        self.n = len(bank)
        self.identity = {"reference_samples": len(bank)}
        self._bank = bank
        self._kept: dict[str, Arrays] = {}

    @property
    def bank(self) -> Bank:
        return self._bank

    def statistics(self, output: str) -> FeatureStatistics:
        return FeatureStatistics.from_features(self.bank[output])

    def derived(self, what: str, compute: Callable[[], Arrays]) -> Arrays:
        if what not in self._kept:
            self._kept[what] = compute()
        return self._kept[what]


class Extracted(Reference):
    """The features of ``images``, computed once and then read from ``cache_dir``, like all that is derived from them.

    The cache keys hold the data's ``fingerprint`` and ``split``, the number of images, and the extractor's name,
    weights digest and resize, so nothing that changes a number can be answered from another file.

    All ranks construct it together: rank 0 looks into the cache, and if the features are not there, all ranks compute
    them. Rank 0 keeps them and measures; the bank of the others is empty.
    """

    def __init__(
        self,
        extractor: Extractor,
        outputs: Sequence[str],
        images: Samples,
        labels: Tensor | None,
        fingerprint: str,
        split: str,
        cache_dir: str | Path,
        texts: Tensor | None = None,
    ):
        self.n = len(images)
        self.identity = {
            "reference_fingerprint": fingerprint,
            "reference_split": split,
            "reference_samples": len(images),
            "extractor": extractor.name,
            "extractor_digest": extractor.digest,
            "resize": extractor.resize,
            **extractor.described,
        }
        self._cache_dir = Path(cache_dir)
        self._kept: dict[str, Arrays] = {}
        features = {name: self._features(extractor, name, images) for name in outputs}
        self._bank = Bank(features, labels, texts)

    def _features(self, extractor: Extractor, output: str, images: Samples) -> Tensor:
        identity = self._identity(f"{output} of every image, 1")
        held = read_arrays(self._cache_dir, identity) if distributed.rank() == 0 else None
        if not distributed.from_first(lambda: held is not None):
            bank = look_at(images, extractor, [output])
            if distributed.rank() == 0:
                held = {"features": bank[output].numpy()}
                write_arrays(self._cache_dir, identity, held)
        return torch.from_numpy(held["features"]) if held else torch.empty(0, extractor.outputs[output])

    @property
    def bank(self) -> Bank:
        return self._bank

    def statistics(self, output: str) -> FeatureStatistics:
        def compute() -> Arrays:
            statistics = FeatureStatistics.from_features(self.bank[output])
            return {"mean": statistics.mean.numpy(), "root": statistics.root.numpy()}

        arrays = self.derived(f"mean and root of {output}, 1", compute)
        return FeatureStatistics(self.n, torch.from_numpy(arrays["mean"]), torch.from_numpy(arrays["root"]))

    def derived(self, what: str, compute: Callable[[], Arrays]) -> Arrays:
        if what not in self._kept:
            self._kept[what] = cached_arrays(self._cache_dir, self._identity(what), compute)
        return self._kept[what]

    def _identity(self, content: str) -> dict[str, Any]:
        return {"content": content, **self.identity}


def parted(bank: Bank, n: int, split: int = 0) -> tuple[Bank, Held]:
    """``n`` randomly chosen real images, at most half of them, as if they had been generated, and the others.

    Another ``split`` chooses others.
    """
    order = torch.randperm(len(bank), generator=generator(0, "real against real", *[split] * (split > 0)))
    n = min(n, len(bank) // 2)
    return bank.take(order[:n]), Held(bank.take(order[n:]))
