"""Every random draw is a pure function of ``(seed, what, indices)``.

Nothing reads the global generator but dropout, and the Task seeds it for every batch.

So a resumed run needs no saved generator state, evaluation cannot change training, and generated sample ``i`` is the
same on one device or eight.
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import prod

import numpy as np
import torch
from torch import Tensor


def derive_seed(seed: int, what: str, *indices: int) -> int:
    """63-bit seed from the SHA-256 of ``(seed, what, *indices)``; equal on every platform and Python version."""
    text = f"{int(seed)}/{what}/" + "/".join(str(int(i)) for i in indices)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, what: str, *indices: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh ``torch.Generator`` on ``device`` seeded with ``derive_seed(seed, what, *indices)``."""
    return torch.Generator(device).manual_seed(derive_seed(seed, what, *indices))


LARGE = 1 << 14  # numbers a sample from which on a thread for each core is worth its start


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

        def increment(w: Brownian) -> Tensor:
            return w.increment(like.shape[1:], a, b)

        threads = torch.get_num_threads() if prod(like.shape[1:]) >= LARGE else 1
        if threads == 1:
            return torch.stack([*map(increment, self._brownian)]).to(like)
        with ThreadPoolExecutor(threads) as pool:
            return torch.stack([*pool.map(increment, self._brownian)]).to(like)


class Brownian:
    """A Brownian motion W on [0, 1], W(0) = 0, of arrays of any shape: a function of (seed, id) and time alone.

    Lévy's construction: W(1) is normal, and halfway between two known times W is their mean plus a normal number of
    variance a quarter of the interval, drawn from a generator of that interval's own. Times are rounded to 2^-20,
    which keeps increments exactly normal and independent. The virtual tree of Li et al. 2020 (arXiv:2001.01328,
    algorithm 3).

    A value costs a normal array for each level of the tree that it does not share with the value before it. Kept are
    the last two values and the top of the last path, ``KEPT`` + 3 arrays at most. Sums are NumPy's, which starts no
    threads: ``SampleNoise`` has one for each sample.
    """

    LEVELS = 20
    KEPT = 6  # the levels that times a fiftieth apart share

    def __init__(self, seed: int, id: int):
        self._seed = seed
        self._id = id
        self._shape: tuple[int, ...] = (-1,)  # none so far
        self._path: list[tuple[int, np.ndarray]] = []  # (tick, W): 1 and the middles of the last descent, from the top
        self._recent: dict[int, np.ndarray] = {}  # W at the last two ticks, the latest last

    def _normal(self, level: int, index: int) -> np.ndarray:
        g = generator(self._seed, "brownian", self._id, level, index)
        return torch.randn(self._shape, generator=g).numpy()

    def at(self, shape: Sequence[int], tick: int) -> np.ndarray:
        """W(tick / 2^20), float32; not to be written to."""
        if self._shape != tuple(shape):
            self._shape, self._path, self._recent = tuple(shape), [], {}
        value = self._recent.pop(tick) if tick in self._recent else self._descend(tick)
        self._recent[tick] = value
        if len(self._recent) > 2:
            del self._recent[next(iter(self._recent))]
        return value

    def _descend(self, tick: int) -> np.ndarray:
        low, high = 0, 1 << self.LEVELS
        value_low = np.zeros(self._shape, np.float32)
        value_high = self._node(0, high, lambda: self._normal(0, 0))
        level = 0
        while tick not in (low, high):
            middle, level = (low + high) // 2, level + 1
            value = self._node(level, middle, partial(self._middle, value_low, value_high, level, middle))
            if tick < middle:
                high, value_high = middle, value
            else:
                low, value_low = middle, value
        return value_low if tick == low else value_high

    def _node(self, level: int, tick: int, draw: Callable[[], np.ndarray]) -> np.ndarray:
        """W at a node of the tree, kept from the last descent where that came by."""
        if level < len(self._path) and self._path[level][0] == tick:
            return self._path[level][1]
        value = draw()
        if level <= self.KEPT:
            self._path[level:] = [(tick, value)]
        return value

    def _middle(self, value_low: np.ndarray, value_high: np.ndarray, level: int, index: int) -> np.ndarray:
        normal, mean = self._normal(level, index), np.asarray(value_low + value_high)
        normal *= np.float32(2.0 ** (-(level + 1) / 2))
        mean /= np.float32(2)
        mean += normal
        return mean

    def increment(self, shape: Sequence[int], a: float, b: float) -> Tensor:
        """(W(b) - W(a)) / sqrt(b - a), standard normal; of two equal ticks the next ones."""
        ticks = 1 << self.LEVELS
        first = min(round(a * ticks), ticks - 1)
        last = max(round(b * ticks), first + 1)
        later = self.at(shape, last)  # reverse processes run towards 0: a is the next step's b
        change = np.asarray(later - self.at(shape, first))
        change *= np.float32(((last - first) / ticks) ** -0.5)
        return torch.from_numpy(change)


def low_discrepancy(ids: Tensor) -> Tensor:
    """frac((i + 1/2) / golden ratio) in [0, 1), float64 on the CPU, for int64 ``ids`` of any shape.

    The points of any run of n ids spread evenly, with discrepancy O(log n / n), and point i depends on i alone.
    """
    return (ids.cpu().double() + 0.5) * 0.6180339887498949 % 1.0
