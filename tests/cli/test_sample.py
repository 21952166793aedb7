"""Sampling from nothing but the path of a checkpoint."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import runs

SIZE = ("n=11", "chunk=4")


@pytest.fixture(scope="module")
def drawn(checkpoint, tmp_path_factory) -> runs.Run:
    return runs.sample(tmp_path_factory.mktemp("drawn"), checkpoint, *SIZE, "npz=true")


@pytest.fixture
def draw(checkpoint, tmp_path):
    """``draw("seed=1")``: the image files, by default of the settings of ``drawn``."""
    return lambda *overrides, path=checkpoint: runs.sample(tmp_path / "draw", path, *SIZE, *overrides).images


def differ(images: list[bytes], others: list[bytes]) -> bool:
    """Whether images differ one by one; of random weights one or two may be saturated, and so the same."""
    return sum(a != b for a, b in zip(images, others, strict=True)) >= 8


def test_a_path_is_enough(drawn, checkpoint):
    assert len(drawn.images) == 11
    assert len(set(drawn.images)) == 11
    names = {path.name for path in drawn.folder.iterdir()}
    assert {"images", "grid.png", "samples.npz"} <= names
    assert str(drawn.folder / "images") in drawn.stdout.replace("\n", "")


def test_files_hold_the_same_pixels(drawn):
    archive = np.load(drawn.folder / "samples.npz")
    assert archive["images"].shape == (11, 28, 28, 1) and archive["images"].dtype == np.uint8
    assert archive["labels"].tolist() == [*range(10), 0]
    for i, pixels in enumerate(archive["images"]):
        with Image.open(drawn.folder / f"images/{i:06d}.png") as image:
            assert np.array_equal(np.asarray(image), pixels[..., 0])
    with Image.open(drawn.folder / "grid.png") as grid:
        assert grid.size[0] > grid.size[1]  # ten classes in a row, and the eleventh image below


def test_equal_seeds_draw_equal_images(drawn, draw):
    assert draw() == drawn.images
    assert differ(draw("seed=1"), drawn.images)


@pytest.mark.parametrize("n", [4, 6, 9])
def test_an_image_does_not_depend_on_how_many_are_drawn(drawn, draw, n):
    """From a whole chunk on, bit for bit."""
    assert draw(f"n={n}") == drawn.images[:n]


def test_less_than_a_chunk_changes_the_last_bits_at_most(drawn, draw):
    few, many = (np.asarray(Image.open(io.BytesIO(images[0]))).astype(int) for images in (draw("n=1"), drawn.images))
    assert np.abs(few - many).max() <= 1


@pytest.mark.slow
def test_sampler_and_guidance_are_those_of_the_checkpoint_unless_named(drawn, draw):
    assert draw("sampler=heun", "sampler.steps=2", "guidance=unguided") == drawn.images
    for other in (["sampler.steps=3"], ["sampler=ddim_ancestral", "sampler.steps=2"], ["guidance.scale=2"]):
        assert differ(draw(*other), drawn.images)


def test_labels_are_drawn_in_turn(drawn, draw):
    """Sample i of class i mod 10 unless told otherwise, so that label=3 leaves sample 3 alone."""
    threes = draw("label=3")
    assert [a == b for a, b in zip(threes, drawn.images, strict=True)] == [i == 3 for i in range(11)]
    pairs = draw("label=[0,1,7]")
    assert [a == b for a, b in zip(pairs, drawn.images, strict=True)] == [i in (0, 1) for i in range(11)]


def test_the_averaged_weights_draw_and_the_raw_ones_do_not(drawn, draw, altered):
    def without_raw_weights(content):
        for value in content["state_dict"].values():
            value.zero_()

    def another_average(content):
        for value in next(iter(content["ema"]["averages"].values())).values():
            value.mul_(1.1)

    assert draw(path=altered(without_raw_weights)) == drawn.images
    assert differ(draw(path=altered(another_average)), drawn.images)


def test_another_average_draws_other_images(drawn, draw, checkpoint):
    first, second = torch.load(checkpoint, weights_only=True)["ema"]["averages"]
    assert draw(f"profile={first}") == drawn.images
    assert differ(draw(f"profile={second}"), drawn.images)


@pytest.mark.slow
def test_autoguidance_takes_the_weak_model_from_a_checkpoint(drawn, draw, checkpoint, trained):
    """At scale 1 it is not heard, at scale 0 it alone is: its own average, chosen by name."""
    last = trained.folder / "checkpoints/last.ckpt"
    weak = ("guidance=autoguidance", f"guidance.weak.path={checkpoint}")
    assert draw(*weak, "guidance.scale=1") == drawn.images
    assert differ(draw(*weak, "guidance.scale=0", path=last), draw(path=last))
    assert draw(*weak, "guidance.scale=0", path=last) == drawn.images
    assert draw(*weak, "guidance.scale=0", "guidance.weak.profile=std010", path=last) == draw("profile=std010")


def test_previews_show_the_first_samples_from_noise_to_image(drawn, checkpoint, tmp_path):
    """Four columns of x̂0 and four rows: chunks of four. The last column is the image, where no noise is left."""
    run = runs.sample(tmp_path, checkpoint, *SIZE, "previews=4", "sampler=ddim", "sampler.steps=8")
    pixels = np.asarray(Image.open(tmp_path / "previews.png"))
    tiles = [[pixels[2 + 86 * r :, 2 + 86 * c :][:84:3, :84:3] for c in range(4)] for r in range(4)]
    assert pixels.shape == (2 + 86 * 4, 2 + 86 * 4)
    ends = runs.sample(tmp_path / "six", checkpoint, *SIZE, "sampler=ddim", "sampler.steps=8").images
    assert ends == run.images
    for row, image in zip(tiles, ends[:4], strict=True):
        last = np.asarray(Image.open(io.BytesIO(image))).astype(int)
        errors = [np.abs(tile.astype(int) - last).mean() for tile in row]
        assert errors == sorted(errors, reverse=True) and errors[0] > 2 * errors[-1]


@pytest.mark.slow
def test_another_schedule_draws_with_other_times(drawn, draw):
    """The straight path of training, sampled at the noise levels of EDM: the same as to name these as its grid."""
    assert draw("schedule=linear") == drawn.images
    levels = [20.0, ((20 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7, 0.002]  # karras at t = 1, 1/2 and 0
    elsewhere = draw("schedule=karras", "schedule.sigma_max=20", "sampler=ddim", "sampler.steps=3")
    assert differ(elsewhere, draw("sampler=ddim", "sampler.steps=3"))
    same = draw("sampler=ddim", "sampler/grid=sigmas", f"sampler.grid.sigmas={levels}", "sampler.steps=3")
    for ours, theirs in zip(elsewhere, same, strict=True):
        one, other = (np.asarray(Image.open(io.BytesIO(image))).astype(int) for image in (ours, theirs))
        assert np.abs(one - other).mean() < 1.5  # single precision, through random weights
