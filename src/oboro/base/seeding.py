"""Every random draw is a pure function of ``(seed, what, indices)``.

Nothing reads the global generator but dropout, and the Task seeds it for every batch.

So a resumed run needs no saved generator state, evaluation cannot change training, and generated sample ``i`` is the
same on one device or eight.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def derive_seed(seed: int, what: str, *indices: int) -> int:
    """63-bit seed from the SHA-256 of ``(seed, what, *indices)``; equal on every platform and Python version."""
    text = f"{int(seed)}/{what}/" + "/".join(str(int(i)) for i in indices)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, what: str, *indices: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh ``torch.Generator`` on ``device`` seeded with ``derive_seed(seed, what, *indices)``."""
    return torch.Generator(device).manual_seed(derive_seed(seed, what, *indices))


class SampleNoise:
    """Standard normal noise where row ``i`` depends on ``(seed, ids[i])`` and the number of earlier draws alone.

    One CPU generator per sample id, so the draws do not depend on the batch, the rank or the type of the device.
    """

    def __init__(self, seed: int, ids: Sequence[int]):
        self._generators = [generator(seed, "sample", i) for i in ids]
        self._brownian = [Brownian(seed, i) for i in ids]

    def __call__(self, like: Tensor) -> Tensor:
        """Noise of the shape, type and device of ``like`` (B, ...), with B = number of ids."""
        if len(like) != len(self._generators):
            raise ValueError(f"{len(self._generators)} sample ids cannot fill a batch of {len(like)}")
        rows = [torch.randn(like.shape[1:], generator=g) for g in self._generators]
        return torch.stack(rows).to(like)

    def between(self, like: Tensor, a: float, b: float) -> Tensor:
        """(W(b) - W(a)) / sqrt(b - a) of the Brownian motions of the samples, see ``Brownian``; 0 ≤ a < b ≤ 1."""
        return torch.stack([w.increment(like.shape[1:], a, b) for w in self._brownian]).to(like)


class Brownian:
    """A Brownian motion W on [0, 1], W(0) = 0, of arrays of any shape: a function of (seed, id) and time alone.

    Lévy's construction: W(1) is normal, and halfway between two known times W is their mean plus a normal number of
    variance a quarter of the interval, drawn from a generator of that interval's own. Times are rounded to 2^-20,
    which keeps increments exactly normal and independent. The virtual tree of Li et al. 2020 (arXiv:2001.01328,
    algorithm 3); the last value is kept.
    """

    LEVELS = 20

    def __init__(self, seed: int, id: int):
        self._seed = seed
        self._id = id
        self._last: tuple[int, Tensor] | None = None

    def _normal(self, shape: Sequence[int], level: int, index: int) -> Tensor:
        return torch.randn(shape, generator=generator(self._seed, "brownian", self._id, level, index))

    def at(self, shape: Sequence[int], tick: int) -> Tensor:
        """W(tick / 2^20), float32."""
        if self._last is not None and self._last[0] == tick and self._last[1].shape == shape:
            return self._last[1]
        low, high = 0, 1 << self.LEVELS
        value_low, value_high = torch.zeros(shape), self._normal(shape, 0, 0)
        level = 0
        while tick not in (low, high):
            middle, level = (low + high) // 2, level + 1
            std = 2.0 ** (-(level + 1) / 2)
            value = (value_low + value_high) / 2 + std * self._normal(shape, level, middle)
            if tick < middle:
                high, value_high = middle, value
            else:
                low, value_low = middle, value
        value = value_low if tick == low else value_high
        self._last = tick, value
        return value

    def increment(self, shape: Sequence[int], a: float, b: float) -> Tensor:
        """(W(b) - W(a)) / sqrt(b - a), standard normal; of two equal ticks the next ones."""
        ticks = 1 << self.LEVELS
        first = min(round(a * ticks), ticks - 1)
        last = max(round(b * ticks), first + 1)
        later = self.at(shape, last)  # reverse processes run towards 0: a is the next step's b
        return (later - self.at(shape, first)) * ((last - first) / ticks) ** -0.5


def low_discrepancy(ids: Tensor) -> Tensor:
    """frac((i + 1/2) / golden ratio) in [0, 1), float64 on the CPU, for int64 ``ids`` of any shape.

    The points of any run of n ids spread evenly, with discrepancy O(log n / n), and point i depends on i alone.
    """
    return (ids.cpu().double() + 0.5) * 0.6180339887498949 % 1.0
