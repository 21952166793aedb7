"""Laws of hints: pure functions of each picture and its generator, with the formulas that their docstrings have."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from oboro.base.errors import UserError
from oboro.base.seeding import generator
from oboro.hint import Blur, Downsample, Edges, Given, Grey, MaskAny, MaskBox, MaskHalf, MaskRandom, MaskStroke
from oboro.hint.edges import sobel
from oboro.hint.hint import with_channels

HINTS = {
    "given": Given(3),
    "edges": Edges(),
    "binary": Edges(3, 0.2),
    "blur": Blur(3, 1.0),
    "downsample": Downsample(1, 4),
    "grey": Grey(),
    "box": MaskBox(3),
    "half": MaskHalf(1),
    "stroke": MaskStroke(3),
    "random": MaskRandom(3),
    "any": MaskAny(3),
}
each_hint = pytest.mark.parametrize("name", HINTS)


def generators(*numbers):
    return [generator(0, "test", i) for i in numbers]


@pytest.fixture
def pictures(normal):
    return normal(4, 3, 12, 8).clamp(-1, 1).float()


@each_hint
def test_a_hint_is_a_function_of_its_picture_and_generator_alone(name, pictures):
    """Whatever the company, and the same each time; in the range and of the channels that it declares."""
    hint = HINTS[name]
    together = hint(pictures, generators(0, 1, 2, 3))
    for i in (3, 1):
        alone = hint(pictures[[i]], generators(i))
        torch.testing.assert_close(alone.x[0], together.x[i], rtol=0, atol=1e-6)
        assert torch.equal(alone.known[0], together.known[i])
    assert together.x.shape == (4, hint.channels, 12, 8) and together.x.abs().max() <= 1 + 1e-5
    assert together.has_hole == hint.has_hole


@pytest.mark.parametrize("name", [name for name, hint in HINTS.items() if not hint.random])
def test_the_hint_of_a_mirrored_picture_is_the_mirrored_hint(name, pictures):
    hint = HINTS[name]
    torch.testing.assert_close(hint(pictures.flip(-1)).x, hint(pictures).x.flip(-1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, hint in HINTS.items() if hint.has_hole])
def test_a_hole_hides_its_pixels_and_nothing_else(name, pictures):
    hint = HINTS[name]
    image = hint(pictures, generators(0, 1, 2, 3))
    assert image.known.shape == (4, 1, 12, 8) and image.known.any() and not image.known.all()
    assert torch.equal(image.x, with_channels(pictures, hint.channels) * image.known)
    other = hint(pictures, generators(10, 11, 12, 13))
    assert not torch.equal(other.known, image.known)


def test_sobels_magnitude_is_that_of_scipy(pictures):
    x = (pictures + 1) / 2
    expected = [
        np.hypot(*(ndimage.sobel(plane, axis, mode="nearest") for axis in (0, 1))).clip(max=4) / 4
        for plane in x.flatten(0, 1).numpy()
    ]
    torch.testing.assert_close(sobel(x).flatten(0, 1), torch.from_numpy(np.stack(expected)), rtol=1e-5, atol=1e-5)


def test_a_line_between_black_and_white_is_an_edge_of_1_on_both_sides():
    x = torch.full((1, 1, 5, 6), -1.0)
    x[..., 3:] = 1
    edges = Edges()(x).x[0, 0]
    assert torch.equal(edges, torch.tensor([-1.0, -1, 1, 1, -1, -1]).expand(5, 6))
    faint = 0.2 * x
    assert set(Edges(1, 0.3)(faint).x.unique().tolist()) == {-1.0}
    assert torch.equal(Edges(1, 0.1)(faint).x[0, 0], edges)


def test_a_smaller_picture_is_shown_in_blocks_of_its_means(pictures):
    shown = Downsample(3, 4)(pictures).x
    means = pictures.unflatten(3, (2, 4)).unflatten(2, (3, 4)).mean((3, 5))
    torch.testing.assert_close(shown, means.repeat_interleave(4, 2).repeat_interleave(4, 3), rtol=0, atol=1e-5)


def test_pictures_of_other_channels(pictures):
    grey = with_channels(pictures, 1)
    torch.testing.assert_close(grey[:, 0], (pictures * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1))
    assert torch.equal(with_channels(grey, 3), grey.expand(-1, 3, -1, -1))
    opaque = with_channels(pictures, 4)
    assert torch.equal(with_channels(opaque, 3), pictures)
    assert (with_channels(torch.cat([pictures, -torch.ones_like(grey)], 1), 3) == 1).all()  # nothing on white


def test_what_does_not_fit_is_said_with_the_key_of_the_hint(pictures):
    for hint, message in (
        (Downsample(3, 5), r"hint\.factor=5 does not divide (12|8) pixels"),
        (MaskBox(3, 20), r"hint\.height=20"),
    ):
        with pytest.raises(UserError, match=message):
            hint(pictures, generators(0, 1, 2, 3))
    with pytest.raises(UserError, match=r"hint=grey takes the colour of three channels and the samples have 1"):
        Grey()(pictures[:, :1])
