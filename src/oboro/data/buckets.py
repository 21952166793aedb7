"""Sizes of equal area for pictures of several proportions, and the order in which each batch has one size."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from oboro.base.seeding import generator
from oboro.data.stream import Order, drawn

LONGEST = 4  # times the short side
Size = tuple[int, int]


def bucket_sizes(resolution: Size, step: int) -> list[Size]:
    """Sizes (height, width) of at most the area of ``resolution``, each of other proportions: ``resolution`` itself,
    then each side that is a multiple of ``step`` with the largest such other side, lying and standing, none longer than
    four times the other.

    Podell et al. 2023 (SDXL, arXiv:2307.01952, sec. 2.3 and app. I), there 1024² in steps of 64.
    """
    area = resolution[0] * resolution[1]
    found = {resolution[0] / resolution[1]: resolution}
    for height in range(step, area // step + 1, step):
        width = area // height // step * step
        if width and max(height, width) <= LONGEST * min(height, width):
            for size in ((height, width), (width, height)):
                known = found.setdefault(size[0] / size[1], size)
                if known != resolution and size > known:
                    found[size[0] / size[1]] = size
    return list(found.values())


def buckets_of(shapes: np.ndarray, sizes: list[Size], least: int) -> np.ndarray:
    """The number in ``sizes`` (n,) of each picture of ``shapes`` (n, 2), height and width: that of the nearest
    proportions, |log h/w - log H/W|, of equally near ones the lower, among the sizes that at least ``least`` pictures
    have.

    A size that fewer have is left out and its pictures go to the nearest other one, beginning with the size that is
    farthest from the first, which is left out last and if others have enough. All have the first where none has.
    """
    proportions = np.log([height / width for height, width in sizes])
    wanted = np.log(shapes[:, 0] / shapes[:, 1])
    chosen = nearest(wanted, proportions, np.arange(len(sizes)))
    counts = np.bincount(chosen, minlength=len(sizes))
    allowed = counts > 0
    allowed[0] = True
    while len(short := np.flatnonzero(allowed & (counts < least))) and allowed.sum() > 1:
        drop = max(short.tolist(), key=lambda k: abs(proportions[k] - proportions[0]))
        allowed[drop] = False
        moved = chosen == drop
        chosen[moved] = nearest(wanted[moved], proportions, np.flatnonzero(allowed))
        counts = np.bincount(chosen, minlength=len(sizes))
    return chosen


def nearest(wanted: np.ndarray, proportions: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """For each of ``wanted`` (n,) the element of ``allowed`` whose proportions are nearest."""
    ordered = allowed[np.argsort(proportions[allowed], kind="stable")]
    values = proportions[ordered]
    right = np.clip(np.searchsorted(values, wanted), 0, len(values) - 1)
    left = np.maximum(right - 1, 0)
    return ordered[np.where(wanted - values[left] <= values[right] - wanted, left, right)]


class Bucketed(Order):
    """The samples in batches of ``batch_size``, each of one bucket: a permutation of each bucket, cut into batches, and
    the batches shuffled, drawn for ``(seed, epoch)``.

    ``buckets`` (n,) are those of the samples. What is left of a bucket is not in that epoch: fewer than ``batch_size``
    samples of each, others in every epoch. ``begins`` is called before an epoch is read.
    """

    def __init__(self, buckets: np.ndarray, batch_size: int, seed: int, begins: Callable[[], None] = lambda: None):
        self._members = [np.flatnonzero(buckets == k) for k in np.unique(buckets)]
        self._batch_size, self._seed, self._begins = batch_size, seed, begins
        super().__init__(sum(len(members) // batch_size * batch_size for members in self._members))
        self._drawn = lru_cache(1)(self._draw)

    def part(self, epoch: int, offset: int) -> tuple[Tensor, Tensor]:
        samples, flips = self._drawn(epoch)
        return samples[offset:], flips[offset:]

    def _draw(self, epoch: int) -> tuple[Tensor, Tensor]:
        self._begins()
        batches, flips = [], []
        for k, members in enumerate(self._members):
            order, bits = drawn(len(members), self._seed, epoch, k)
            whole = len(members) // self._batch_size * self._batch_size
            batches.append(torch.from_numpy(members)[order[:whole]].view(-1, self._batch_size))
            flips.append(bits[:whole].view(-1, self._batch_size))
        samples, bits = torch.cat(batches), torch.cat(flips)
        shuffled = torch.randperm(len(samples), generator=generator(self._seed, "batches", epoch))
        return samples[shuffled].flatten(), bits[shuffled].flatten()
