"""Linear measurements against their dense matrices, in float64."""

import pytest
import torch

from oboro.base.errors import UserError
from oboro.measurement import Blur, Downsample, Grey, Mask, Measurement, conjugate_gradients

SHAPE = (3, 6, 8)
MASK = torch.tensor([True, False, True, True, False, True] * 16).view(2, 1, 6, 8)


class Own(Measurement):
    """Differences of neighbours, which know no constant: an operator that has its adjoint alone."""

    def __call__(self, x):
        return x[..., 1:] - x[..., :-1]

    def adjoint(self, y):
        return torch.nn.functional.pad(y, (1, 0)) - torch.nn.functional.pad(y, (0, 1))


KINDS = {
    "mask": Mask(MASK),
    "mean": Downsample(2),
    "bicubic": Downsample(2, "bicubic"),
    "blur": Blur(0.8),
    "circular": Blur(1.5, "circular", cutoff=0.05),  # loses some frequencies
    "grey": Grey(),
    "own": Own(),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def dense(measurement, rows: int = 2):
    """The matrix of each sample, (B, m, n)."""
    units = torch.eye(SHAPE[0] * SHAPE[1] * SHAPE[2], dtype=torch.float64).view(-1, *SHAPE)
    columns = [measurement(unit.expand(rows, *SHAPE)).flatten(1) for unit in units]
    return torch.stack(columns, -1)


def test_each_is_its_matrix(kind, normal):
    """Adjoint, pseudo-inverse and solution, with the zeros of singular values where nothing is measured."""
    x, matrix = normal(2, *SHAPE), dense(kind)
    y = kind(x)
    other = kind.measured(normal(*y.shape))
    torch.testing.assert_close(y.flatten(1), (matrix @ x.flatten(1)[..., None])[..., 0])
    torch.testing.assert_close((y * other).sum(), (x * kind.adjoint(other)).sum())
    inverse = torch.linalg.pinv(matrix, rtol=1e-8)
    found = kind.pseudo_inverse(other)
    torch.testing.assert_close(found.flatten(1), (inverse @ other.flatten(1)[..., None])[..., 0], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(kind(kind.pseudo_inverse(y)), y, rtol=1e-8, atol=1e-8)
    once = kind.pseudo_inverse(kind(x))
    torch.testing.assert_close(kind.pseudo_inverse(kind(once)), once, rtol=1e-8, atol=1e-8)
    a, b = torch.tensor([0.7, 2.0]).double(), torch.tensor([0.3, 0.0]).double()
    square = a[:, None, None] * matrix @ matrix.mT + b[:, None, None] * torch.eye(matrix.shape[1])
    expected = (torch.linalg.pinv(square, rtol=1e-8, hermitian=True) @ other.flatten(1)[..., None])[..., 0]
    solved = kind.measured(kind.solve(other, a, b)).flatten(1)
    torch.testing.assert_close(solved, kind.measured(expected.view_as(other)).flatten(1), rtol=1e-7, atol=1e-8)


def test_means_blurs_and_lightness_are_what_they_are_called(normal):
    x = normal(2, *SHAPE)
    torch.testing.assert_close(Downsample(2)(x), torch.nn.functional.avg_pool2d(x, 2))
    small = torch.nn.functional.interpolate(x, (3, 4), mode="bicubic", antialias=True)
    torch.testing.assert_close(Downsample(2, "bicubic")(x), small)
    torch.testing.assert_close(Grey()(x)[:, 0], x[:, 0] * 0.299 + x[:, 1] * 0.587 + x[:, 2] * 0.114)
    kernel = torch.exp(-0.5 * (torch.arange(-2, 3).double() / 0.6) ** 2)
    kernel = kernel / kernel.sum()
    wide = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="circular")
    expected = torch.nn.functional.conv2d(wide, (kernel[:, None] * kernel).expand(3, 1, 5, 5), groups=3)
    torch.testing.assert_close(Blur(0.6, "circular", 0.0)(x), expected)
    edge = torch.cat([x[..., :2].flip(-1), x, x[..., -2:].flip(-1)], -1)
    edge = torch.cat([edge[..., :2, :].flip(-2), edge, edge[..., -2:, :].flip(-2)], -2)
    expected = torch.nn.functional.conv2d(edge, (kernel[:, None] * kernel).expand(3, 1, 5, 5), groups=3)
    torch.testing.assert_close(Blur(0.6, "reflect", 0.0)(x), expected)


def test_conjugate_gradients_treat_each_sample_by_itself(normal):
    """A sample that is solved in one step beside one that takes all of them: the same numbers as alone."""
    spread = torch.stack([torch.ones(40), torch.logspace(0, 3, 40)]).double()
    b = normal(2, 40)
    together = conjugate_gradients(lambda x: spread * x, b)
    for i in (0, 1):
        alone = conjugate_gradients(lambda x, i=i: spread[i : i + 1] * x, b[i : i + 1])
        assert torch.equal(alone[0], together[i])
    torch.testing.assert_close(together, b / spread, rtol=1e-6, atol=1e-9)


def test_half_precision_outside_does_not_reach_the_numbers(normal):
    x = normal(2, *SHAPE).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(Blur()(x), y := Blur()(x)) and y.dtype == torch.float32
        inside = Downsample(2)(x)
    assert torch.equal(inside, Downsample(2)(x))


@pytest.mark.parametrize(
    "measurement, shape, message",
    [(Downsample(4), (3, 28, 30), "does not divide 30 pixels"), (Grey(), (1, 28, 28), "samples have 1")],
    ids=["odd size", "grey"],
)
def test_samples_that_cannot_be_measured_are_refused(measurement, shape, message):
    with pytest.raises(UserError, match=message):
        measurement.operator(shape, [])
