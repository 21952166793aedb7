"""sample.py with a measurement: inpainting, super-resolution, outpainting from pictures in files."""

import numpy as np
import pytest
from PIL import Image

import runs
from oboro.base.seeding import generator
from oboro.measurement import MaskBox

SHORT = ("n=5", "chunk=5", "sampler.steps=3")
WAYS = {
    "pigdm": ("guidance=pigdm", "sampler=heun"),
    "ddnm": ("guidance=ddnm", "sampler=ddim"),
    "dps": ("guidance=dps", "sampler=ddim_ancestral"),
    "repaint": ("sampler=repaint", "sampler.jump=1", "sampler.repeats=2", "guidance=unguided"),
    "with classifier-free guidance": (
        "guidance=pigdm",
        "guidance@guidance.inside=classifier_free",
        "guidance.inside.scale=2",
        "label=[1,2]",
    ),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    g = np.random.default_rng(0)
    for k in range(2):
        Image.fromarray(g.integers(256, size=(28, 28), dtype=np.uint8)).save(folder / f"{k}.png")
    return folder


def images(folder):
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])


@pytest.fixture
def draw(checkpoint, pictures, tmp_path):
    def draw(*overrides, measured=pictures):
        return runs.sample(tmp_path / "out", checkpoint, *SHORT, f"measured={measured}", *overrides)

    return draw


def masks(ids):
    return MaskBox().operator((1, 28, 28), [generator(0, "measurement", k) for k in ids]).mask[:, 0].numpy()


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_known_pixels_are_kept_to_the_last_bit(way, draw, pictures):
    """Sample i is of picture i mod k, with the mask of that picture; the rest is drawn, and drawn anew each time."""
    run = draw("measurement=mask_box", *WAYS[way])
    made, truth, mask = images(run.folder / "images"), images(pictures)[[0, 1, 0, 1, 0]], masks([0, 1, 0, 1, 0])
    assert (made[mask] == truth[mask]).all() and (made[~mask] != truth[~mask]).mean() > 0.9
    assert (made[0][~mask[0]] != made[2][~mask[0]]).any()
    assert (images(run.folder / "truth") == images(pictures)).all()
    with Image.open(run.folder / "grid.png") as grid:  # two groups of truth, measurement and three samples
        assert grid.width > 9 * grid.height // 2


@pytest.mark.slow
def test_a_picture_that_was_measured_before_is_the_same_as_one_that_is_measured(draw, pictures, tmp_path):
    """What lies in the hole does not matter; and without noise a smaller picture is met up to its rounding."""
    holed = tmp_path / "holed"
    holed.mkdir()
    for k, (picture, mask) in enumerate(zip(images(pictures), masks([0, 1]), strict=True)):
        Image.fromarray(np.where(mask, picture, 77).astype(np.uint8)).save(holed / f"{k}.png")
    box = ("measurement=mask_box", *WAYS["ddnm"])
    first = draw(*box).images
    assert draw(*box, "degraded=true", measured=holed).images == first
    small = tmp_path / "small.png"
    Image.fromarray(np.random.default_rng(1).integers(64, 192, (7, 7), dtype=np.uint8)).save(small)
    run = draw("measurement=downsample", *WAYS["ddnm"], "degraded=true", "npz=true", measured=small)
    assert (images(run.folder / "measured")[0] == np.asarray(Image.open(small))).all()


def test_outpainting_keeps_the_picture_in_a_larger_sample(draw, pictures):
    run = draw(
        "measurement=mask_outside", "measurement.height=28", "measurement.width=28", "size=[28,56]", *WAYS["ddnm"]
    )
    made = images(run.folder / "images")
    assert made.shape == (5, 28, 56) and (made[:2, :, 14:42] == images(pictures)).all()


@pytest.mark.slow
def test_noise_and_masks_belong_to_the_picture_and_not_to_how_many_there_are(draw):
    noisy = ("measurement=mask_random", "measurement_noise=0.1", *WAYS["pigdm"])
    five = draw(*noisy).images
    assert draw(*noisy, "n=5", "chunk=5", "seed=1").images != five
    assert draw(*noisy, "n=3", "chunk=5").images == five[:3]


REFUSED = {
    "no measurement": (("guidance=pigdm",), "name it with measurement=mask_box measured=PICTURE"),
    "nothing reads it": (("measurement=mask_box", "guidance=unguided"), "nothing draws towards the measurement"),
    "several evaluations": (("measurement=mask_box", "guidance=dps", "sampler=heun"), "sampler=ddim_ancestral"),
    "no mask": (("measurement=blur", "sampler=repaint", "guidance=unguided"), "Blur has none"),
    "noise": (("measurement=mask_box", "sampler=repaint", "guidance=unguided", "measurement_noise=.1"), "are noisy"),
    "no divisor": (("measurement=downsample", "measurement.factor=5", "guidance=ddnm"), "does not divide 28"),
    "grey": (("measurement=grey", "guidance=ddnm"), "samples have 1"),
    "size": (("measurement=downsample", "degraded=true", "guidance=ddnm"), "is 28×28 and is to be 7×7"),
    "mask": (("measurement=mask_file", "measurement.path=none.png", "guidance=ddnm"), "there is no mask"),
    "larger": (
        ("measurement=mask_outside", "measurement.height=40", "measurement.width=28", "guidance=ddnm"),
        "does not fit there",
    ),
    "empty folder": (("measurement=mask_box", "guidance=ddnm", "measured=."), "measured=. holds no pictures"),
    "no size": (("measurement=mask_outside", "guidance=ddnm"), "set measurement.height="),
    "no pictures": (("measurement=mask_box", "guidance=ddnm", "measured=null"), "set measured=PICTURE"),
    "a size of no network": (("measurement=mask_box", "guidance=ddnm", "size=[1,28]"), "takes no samples of size"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_one_line(case, checkpoint, pictures, tmp_path):
    overrides, message = REFUSED[case]
    arguments = [f"checkpoint={checkpoint}", "accelerator=cpu", f"measured={pictures}", *SHORT, *overrides]
    run = runs.call("sample.py", *runs.outputs(tmp_path / "out", *arguments), cwd=tmp_path)
    assert run.status == 1 and "Traceback" not in run.stderr
    assert message in " ".join(run.stderr.split())
    assert not (tmp_path / "out" / "images").exists()


@pytest.mark.slow
def test_a_model_that_was_trained_to_fill_holes_reads_the_measurement(pictures, tmp_path):
    """As if the picture and its hole had been named as its condition: the same samples."""
    trained = runs.train(tmp_path / "run", "conditioner=image", "hint=mask_box", runs.NO_EVALUATION, "metrics=[]")
    mask = np.zeros((28, 28), np.uint8)
    mask[5:20, 9:25] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    usual = ("n=2", "chunk=2", "sampler.steps=2")
    named = runs.sample(tmp_path / "named", trained.last, *usual, f"hint={pictures}", f"mask={tmp_path / 'mask.png'}")
    path = ("measurement=mask_file", f"measurement.path={tmp_path / 'mask.png'}", "guidance=unguided")
    measured = runs.sample(tmp_path / "measured", trained.last, *usual, f"measured={pictures}", *path)
    assert measured.images == named.images
    assert "without the condition" not in measured.stderr
