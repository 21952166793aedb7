"""Whether edges are where they should be."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from oboro.base.ranges import CountOrNone, PositiveShare
from oboro.hint.edges import sobel
from oboro.hint.hint import with_channels
from oboro.metrics.paired import Given, Paired


def edge_f1(a: Tensor, b: Tensor, tolerance: int = 1) -> Tensor:
    """2 P R / (P + R) (B,), float64, of edges ``a`` of samples and ``b`` of the truth, bool (B, 1, H, W).

    The precision P is the share of edge pixels of ``a`` with one of ``b`` at most ``tolerance`` pixels away, diagonally
    too, the recall R that of ``b`` with one of ``a``: the measure of contours (Martin et al. 2004) with a pixel allowed
    to match several. 1 where neither has an edge, and 0 where one has.
    """
    precision, recall = near(a, b, tolerance), near(b, a, tolerance)
    empty = ~(a.flatten(1).any(1) | b.flatten(1).any(1))
    f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    return torch.where(empty, 1.0, f1)


def near(a: Tensor, b: Tensor, tolerance: int) -> Tensor:
    """The share of ``a`` that is near ``b``; 0 of none."""
    widened = max_pool2d(b.double(), 2 * tolerance + 1, stride=1, padding=tolerance) > 0
    return (a & widened).flatten(1).sum(1).double() / a.flatten(1).sum(1).clamp(min=1)


class EdgeF1(Paired):
    """The mean over samples of ``edge_f1`` between its edges and those of the true picture: where the magnitude of
    ``hint=edges``, of the grey picture, is at least ``threshold``, within ``tolerance`` pixels.

    A model that ignores its hint scores above 0, the more the wider edges lie: compare with ``baselines=[shuffled]``.
    """

    def __init__(self, threshold: PositiveShare = 0.2, tolerance: CountOrNone = 1):
        self.threshold = threshold
        self.tolerance = tolerance

    @property
    def names(self) -> Sequence[str]:
        return ["edge_f1"]

    def rows(self, x: Tensor, given: Given) -> Tensor:
        assert given.truth is not None
        a, b = (sobel((with_channels(picture, 1) + 1) / 2) >= self.threshold for picture in (x, given.truth))
        return edge_f1(a, b, self.tolerance)[:, None]
