from typing import ClassVar

import pytest
import torch
from torch import nn

from oboro.base.errors import UserError
from oboro.base.seeding import SampleNoise
from oboro.codec import Identity
from oboro.condition import Condition, Label
from oboro.denoiser import Denoiser, GaussianDenoiser
from oboro.generate import generate, walk
from oboro.guidance import ClassifierFree, PiGDM, Unguided
from oboro.measurement import Downsample, Mask, Measured
from oboro.parameterization import EDM
from oboro.sampler import DDIM
from oboro.schedule import VP, Karras, expand_as

pytestmark = pytest.mark.usefixtures("global_generator_unread")

LABELS = torch.arange(100) % 3


class Elementwise(nn.Module):
    """A network whose samples cannot meet: arithmetic without sums gives the same bits in every batch shape.

    It predicts a variance, too, as the one sampler that asks for it needs.
    """

    reads: ClassVar = {"label": Label}

    def forward(self, x, c_noise, cond):
        answer = torch.tanh(x + expand_as(cond["label"].index.to(x.dtype), x) / 3 - expand_as(c_noise, x))
        return torch.cat([answer, -answer], 1)


@pytest.fixture
def draw(sampler, with_steps):
    def draw(ids, seed=0, network=None, watch=None):
        return generate(
            Denoiser(network or Elementwise(), Karras(), EDM()),
            Unguided(),
            with_steps(sampler, 4),
            Identity(1),
            watch=watch,
            ids=ids,
            seed=seed,
            cond=Condition.of(label=Label(LABELS[ids])),
            latent_shape=(1, 8, 8),
            device=torch.device("cpu"),
        )

    return draw


def test_image_i_is_a_function_of_seed_and_id(draw):
    images = draw([0, 1, 2, 3, 40])
    assert torch.equal(draw([40, 2]), images[[4, 2]])
    assert torch.equal(draw([0, 1, 2, 3, 40]), images)
    assert not torch.equal(draw([40, 2], seed=1), images[[4, 2]])
    assert not torch.equal(images[0], images[3])  # of one class


def test_with_a_unet_companions_do_not_matter_at_equal_shape(draw, small_unet):
    network = small_unet(num_classes=3, dtype=torch.float32, learned_variance=True)
    first, second = draw([0, 1, 2, 3], network=network), draw([3, 7, 0, 9], network=network)
    assert torch.equal(first[[0, 3]], second[[2, 0]])


def test_samples_are_single_precision_without_a_graph(draw):
    images = draw([0, 1])
    assert images.dtype == torch.float32 and images.shape == (2, 1, 8, 8)
    assert not images.requires_grad


def test_no_value_is_cut_off():
    """What a picture cannot hold is cut when it is stored; a series may be anywhere."""

    class Bright(nn.Module):
        schedule = Karras()

        def forward(self, x_t, t, cond):
            return torch.full_like(x_t, 3.0)

        def towards(self, alpha, sigma):
            return self

    keywords = {"ids": [0], "seed": 0, "cond": Condition(), "latent_shape": (1, 2, 2), "device": torch.device("cpu")}
    assert (generate(Bright(), Unguided(), DDIM(2), Identity(1), **keywords) == 3).all()


def test_guidance_changes_the_image_but_not_the_noise_it_starts_from(small_unet, sampler, with_steps):
    denoiser = Denoiser(small_unet(num_classes=3, dtype=torch.float32, learned_variance=True), Karras(), EDM())
    keywords = {
        "ids": [4, 5],
        "seed": 0,
        "cond": Condition.of(label=Label(LABELS[[4, 5]])),
        "latent_shape": (1, 8, 8),
        "device": torch.device("cpu"),
    }
    seen = []

    class Spy:
        schedule = denoiser.schedule

        def __call__(self, x_t, t, cond):
            seen.append(x_t)
            return denoiser(x_t, t, cond)

        def with_variance(self, x_t, t, cond):
            seen.append(x_t)
            return denoiser.with_variance(x_t, t, cond)

        def towards(self, alpha, sigma):
            return self

    results = [
        generate(Spy(), g, with_steps(sampler, 2), Identity(1), **keywords) for g in (Unguided(), ClassifierFree(3.0))
    ]
    assert not torch.equal(*results)
    starts = [x for x in seen if torch.equal(x, seen[0])]
    assert len(starts) == 3  # once unguided, twice guided


def test_whoever_watches_sees_every_evaluation_and_changes_nothing(draw, sampler, with_steps):
    seen = []
    images = draw([0, 1], watch=lambda x0, t: seen.append((x0, t)))
    assert torch.equal(images, draw([0, 1]))
    times = torch.stack([t for _, t in seen])
    assert (times[:, 0] == times[:, 1]).all() and times[0, 0] == times.max()
    assert len(seen) == with_steps(sampler, 4).evaluations(Karras())


def test_what_is_seen_is_what_guidance_makes_and_ends_in_the_image(small_unet):
    denoiser = Denoiser(small_unet(num_classes=3, dtype=torch.float32), Karras(), EDM())
    keywords = {"ids": [0], "seed": 0, "cond": Condition.of(label=Label(torch.tensor([1]))), "latent_shape": (1, 8, 8)}

    def draw(guidance, watch=None):
        cpu = torch.device("cpu")
        return generate(denoiser, guidance, DDIM(3), Identity(1), device=cpu, watch=watch, **keywords)

    seen = []
    image = draw(ClassifierFree(3.0), lambda x0, t: seen.append(x0))
    assert len(seen) == 3 and torch.equal(seen[-1].clamp(-1, 1), image)
    assert torch.equal(image, draw(ClassifierFree(3.0))) and not torch.equal(image, draw(Unguided()))


# --- from given latents


@pytest.fixture
def walking(sampler, with_steps):
    """``walk`` of two samples, and what it needs."""
    keywords = {
        "ids": [3, 8],
        "seed": 2,
        "cond": Condition.of(label=Label(LABELS[[3, 8]])),
        "latent_shape": (1, 8, 8),
    }
    parts = Denoiser(Elementwise(), Karras(), EDM()), Unguided(), with_steps(sampler, 6)
    return lambda **more: walk(*parts, device=torch.device("cpu"), **keywords, **more)


def test_data_get_the_noise_of_their_ids_and_go_down_from_there(walking, sampler, with_steps):
    """SDEdit: x_start = alpha x + sigma eps with the first draw of each sample, and the later draws after it."""
    x, t, noise = torch.linspace(-1, 1, 128).view(2, 1, 8, 8), torch.full((2,), 0.4), SampleNoise(2, [3, 8])
    x_t = Karras().add_noise(x, noise(x), t)
    denoiser, cond = Denoiser(Elementwise(), Karras(), EDM()), Condition.of(label=Label(LABELS[[3, 8]]))
    with torch.no_grad():
        expected = with_steps(sampler, 6)(denoiser, x_t, cond, noise, 0.4, 0.0)
    assert torch.equal(walking(x=x, start=0.4), expected)
    assert torch.equal(walking(x_t=x_t, start=0.4), expected)
    assert torch.equal(walking(x=x, start=0.0, stop=0.0), x)
    assert not torch.equal(walking(x=x, start=0.7), expected)


def test_a_walk_in_two_calls_passes_its_latents_on(walking, sampler):
    """An inversion is a walk from data, without noise of its own."""
    if not sampler.invertible:
        return
    x = torch.linspace(-1, 1, 128).view(2, 1, 8, 8)
    up = walking(x=x, start=0.0, stop=0.6)
    assert torch.equal(up, walking(x_t=x, start=0.0, stop=0.6)) and not torch.equal(up, x)


def test_walks_say_what_they_begin_with(walking):
    x = torch.zeros(2, 1, 8, 8)
    for wrong in ({"start": 0.5}, {"start": 0.5, "x": x, "x_t": x}):
        with pytest.raises(UserError, match="begins in data, x, or in noisy data, x_t; give"):
            walking(**wrong)
    with pytest.raises(UserError, match=r"x of shape \(2, 1, 4, 4\) is not one latent for each id"):
        walking(x=torch.zeros(2, 1, 4, 4), start=0.5)


class Blocks(nn.Module):
    """A codec whose latent is every block of 2 × 2 pixels, at half of its brightness."""

    channels = 1

    def decode(self, z):
        return 2 * z.repeat_interleave(2, -1).repeat_interleave(2, -2)


def test_a_measurement_of_pixels_guides_latents_and_stays_in_the_pixels():
    """Through the decoder; without noise pixels of a mask are those that were measured, whatever guidance there is."""
    y = torch.linspace(-1, 1, 12).view(3, 1, 2, 2)
    given = Measured(y, torch.zeros(3), Downsample(4))
    arguments = {"ids": [0, 1, 2], "seed": 0, "latent_shape": (1, 4, 4), "device": torch.device("cpu")}

    def drawn(guidance, given):
        cond = Condition(sampling={"measured": given})
        exact = GaussianDenoiser(0.0, 0.5, VP())
        return generate(exact, guidance, DDIM(50), Blocks(), cond=cond, **arguments)

    off = [(Downsample(4)(drawn(guidance, given)) - y).abs().mean() for guidance in (Unguided(), PiGDM(0.5))]
    assert off[1] < 0.02 * off[0]
    pixels, known = torch.linspace(-1, 1, 192).view(3, 1, 8, 8), (torch.arange(192) % 3 == 0).view(3, 1, 8, 8)
    samples = drawn(Unguided(), Measured(pixels, torch.tensor([0.0, 0.0, 0.2]), Mask(known)))
    same = samples == pixels
    assert same[:2][known[:2]].all() and not same[:2][~known[:2]].any() and not same[2].any()
