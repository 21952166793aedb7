"""Pictures as conditions of a diffusion model: holes that are filled, and what a codec makes of pictures."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import runs
from oboro.base.errors import UserError
from oboro.condition import Condition, Image
from oboro.modality import Image as ImageModality


class Halving(nn.Module):
    """A codec: 3 times the means of 2 × 2 pixels, on 4 channels."""

    channels = 4

    def encode(self, x):
        return 3 * nn.functional.avg_pool2d(x, 2).repeat(1, 4 // x.shape[1] + 1, 1, 1)[:, :4] + 0.5

    def decode(self, z):
        return nn.functional.interpolate((z[:, :1] - 0.5) / 3, scale_factor=2)

    def latent_shape(self, shape):
        return (4, shape[1] // 2, shape[2] // 2)


def hole(x, known):
    return Image(torch.where(known, x, 0.0), known)


@pytest.fixture
def half():
    known = torch.ones(3, 1, 28, 28, dtype=torch.bool)
    known[:, :, 3:17, 5:20] = False
    return known


@pytest.mark.parametrize("sampler", ["heun", "ddim_ancestral"])
def test_samples_have_the_known_pixels_to_the_last_bit(sampler, half, normal):
    """From random weights, under guidance; what is in the hole is the model's, and a picture of another hole is
    another sample."""
    words = ("hint=mask_box", "loss.region=hole", f"sampler={sampler}", "sampler.steps=3", "guidance.scale=2")
    _, task, _ = runs.built("conditioner=joint_label_image", *words)
    task.eval()
    label = task.conditioner.parts["label"].signal({"label": torch.tensor([1, 2, 3])})
    x = ImageModality(1, 28, 28).to_model((255 * torch.rand(3, 1, 28, 28)).to(torch.uint8))
    cond = Condition({"image": hole(x, half), "label": label})
    samples = task.generate([0, 1, 2], 0, cond, (1, 28, 28))
    known = half.expand_as(x)
    assert torch.equal(samples[known], x[known]) and (samples[~known] - x[~known]).abs().min() > 0
    other = task.generate([0, 1, 2], 0, replace(cond, signals={**cond.signals, "image": hole(-x, half)}), (1, 28, 28))
    assert (samples[~known] - other[~known]).abs().mean() > 1e-4


def test_every_guess_of_the_sampler_has_the_known_pixels(half):
    _, task, _ = runs.built("hint=mask_box", "loss.region=hole", "sampler.steps=2")
    task.eval()
    x, seen = torch.rand(3, 1, 28, 28) * 2 - 1, []
    task.generate([0, 1, 2], 0, Condition({"image": hole(x, half)}), (1, 28, 28), lambda x0, t: seen.append(x0))
    known = half.expand_as(x)
    assert len(seen) > 1 and all((x0[known] - x[known]).abs().max() < 1e-5 for x0 in seen)
    _, task, _ = runs.built("hint=mask_box", "hint.keep_known=false", "sampler.steps=2")
    free = task.eval().generate([0, 1, 2], 0, Condition({"image": hole(x, half)}), (1, 28, 28))
    assert not torch.equal(free[half.expand_as(x)], x[half.expand_as(x)])


def test_a_picture_goes_through_the_codec_and_is_known_where_all_of_its_pixels_are(half):
    _, task, _ = runs.built("hint=mask_box", "conditioner.latent=true")
    task.codec, task.modality = Halving(), ImageModality(1, 28, 28)
    x = torch.rand(3, 1, 28, 28) * 2 - 1
    image = hole(x, half)
    latent = task.seen(Condition({"image": image})).signals["image"]
    torch.testing.assert_close(latent.x, task.codec.encode(image.x))
    expected = half.unflatten(3, (14, 2)).unflatten(2, (14, 2)).all(5).all(3)
    assert torch.equal(latent.known, expected) and expected.any() and not expected.all()
    dropped = task.seen(Condition({"image": image.drop(torch.tensor([True, False, False]))})).signals["image"]
    assert not dropped.x[0].any() and not dropped.known[0].any() and torch.equal(dropped.x[1:], latent.x[1:])
    plain = task.seen(Condition({"image": Image(x, torch.tensor([True, False, True]))})).signals["image"]
    assert plain.known.tolist() == [True, False, True] and not plain.x[1].any() and plain.x[0].any()
    samples = Halving().encode(torch.zeros(3, 1, 28, 28))
    assert latent.x.shape == samples.shape


def test_a_picture_that_the_network_cannot_read_is_refused():
    _, task, data = runs.built("hint=edges")
    task.codec = Halving()
    task.denoiser.network.image_channels = 1
    with pytest.raises(UserError, match=r"set conditioner\.latent=true"):
        task.check_signals(data)
    task.conditioner.latent = True
    with pytest.raises(UserError, match=r"reads 1 channel of the picture image, which has 4"):
        task.check_signals(data)
