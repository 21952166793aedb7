"""Pictures that are computed, from the command line to samples: training, going on, holes that are filled."""

import numpy as np
import pytest
import torch
from PIL import Image

import runs
from oboro.modality import Image as ImageModality

pytestmark = pytest.mark.slow  # whole runs

INPAINTING = ("hint=mask_any", "loss.region=hole", "conditioner=joint_label_image", runs.NO_EVALUATION)


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory):
    return runs.train(tmp_path_factory.mktemp("inpainting"), *INPAINTING, "trainer.max_steps=4")


@pytest.fixture
def here(tmp_path):
    """Two photos and a mask, larger than the samples."""
    g = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(2):
        Image.fromarray(g.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    mask = np.zeros((80, 80), np.uint8)
    mask[:40] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(mask[:, :40]).save(tmp_path / "narrow.png")
    return tmp_path


def called(here, run, *arguments):
    common = (f"checkpoint={run.last}", "accelerator=cpu", "n=2", "sampler.steps=2", "overwrite=true")
    return runs.call("sample.py", *runs.outputs(here / "samples", *common, *arguments), cwd=here)


def drawn(here, run, *arguments):
    done = runs.succeeded(called(here, run, *arguments))
    folder = here / "samples"
    assert done.status == 0 and (folder / "grid.png").stat().st_size
    return torch.from_numpy(np.stack([np.asarray(Image.open(p)) for p in sorted((folder / "images").iterdir())]))


def test_a_run_with_random_holes_goes_on_as_if_it_had_not_stopped(inpainting, tmp_path):
    half = runs.train(tmp_path / "half", *INPAINTING, "trainer.max_steps=2")
    runs.train(tmp_path / "rest", *INPAINTING, f"resume={half.last}", "trainer.max_steps=4")
    rest = torch.load(tmp_path / "rest/checkpoints/last.ckpt", weights_only=True)
    assert runs.equal(rest["state_dict"], inpainting.checkpoint()["state_dict"])


def test_a_hole_is_filled_and_the_rest_kept_to_the_last_bit(inpainting, here):
    photos = [ImageModality(1, 28, 28).read_fitted(here / f"photos/{i}.png")[0] for i in range(2)]
    for i, image in enumerate(drawn(here, inpainting, "hint=photos", "mask=mask.png", "label=[3,5]")):
        assert torch.equal(image[14:], photos[i][14:]) and (image[:14] != photos[i][:14]).float().mean() > 0.9
    assert (drawn(here, inpainting, "hint=photos/0.png", "label=3") == photos[0]).float().mean() > 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hint=photos", "mask=narrow.png"], "0.png is 40×40 and the picture that belongs to it 80×40"),
        (["hint=photos", "mask=none.png"], "there is no mask=none.png; set mask to a file"),
        (["hint=photos", "hint_ready=true"], "give the picture with hint and the hole with mask="),
        (["mask=mask.png"], "mask=mask.png is about a picture and none is given; set hint="),
        (["hint=photos", "measured=photos", "measurement=mask_box", "guidance=ddnm"], "leave hint out, or measurement"),
        (["hint={edges: photos/0.png}"], "hint names edges and the model reads image; write hint={image: <file>}"),
        ([], "set hint=<a file or folder>"),
    ],
    ids=["narrow", "none", "ready", "alone", "two holes", "name", "nothing"],
)
def test_what_cannot_be_drawn_is_said_in_one_line(inpainting, here, arguments, message):
    failed = called(here, inpainting, *arguments)
    assert failed.status == 1 and message in failed.stderr and "Traceback" not in failed.stderr


def test_edges_are_computed_of_a_photo_or_given_ready_made(here):
    run = runs.train(here / "run", "hint=edges", "guidance=unguided", "trainer.max_steps=2", runs.NO_EVALUATION)
    computed = drawn(here, run, "hint=photos/0.png")
    from_name = drawn(here, run, "hint={image: photos/0.png}")
    ready = drawn(here, run, "hint=photos/0.png", "hint_ready=true")
    assert torch.equal(computed, from_name) and computed.shape == ready.shape == (2, 28, 28)
    failed = runs.call("train.py", *runs.toy("hint=edges", "conditioner=label"), cwd=here)
    assert failed.status == 1 and "hint=edges makes a picture that no condition reads" in failed.stderr


def test_held_out_conditions_are_another_protocol(inpainting, tmp_path):
    words = ("n=8", "chunk=4", "metrics=[precision_recall]", "sampler.steps=2")
    training = runs.evaluate(tmp_path / "a", inpainting.last, *words)
    held_out = runs.evaluate(tmp_path / "b", inpainting.last, *words, "conditions=held_out")
    protocols = [found["protocol"] for found in (training, held_out)]
    assert "conditions" not in protocols[0] and protocols[1]["conditions"] == "held_out"
    assert protocols[0]["digest"] != protocols[1]["digest"] and np.isfinite(list(held_out["values"].values())).all()


def test_latents_of_pictures_beside_cached_latents_of_samples(tmp_path):
    """What is computed of the sample is so with the cache, too: the same run to the last bit."""
    codec = runs.train(tmp_path / "codec", runs.AUTOENCODER, "callbacks=[latent_statistics,checkpoints]")
    words = ("codec=trained", f"codec.path={codec.last}", "hint=mask_stroke", "conditioner.latent=true")
    losses = []
    for name, callbacks in (("plain", "[checkpoints]"), ("cached", "[latent_cache,checkpoints]")):
        run = runs.train(tmp_path / name, *words, f"callbacks={callbacks}")
        losses.append(run.logged("train/loss"))
    assert list(losses[0]) == [1, 2] and losses[0] == pytest.approx(losses[1], rel=1e-4)
    failed = runs.call("train.py", *runs.toy(*words[:3]), cwd=tmp_path)
    assert failed.status == 1 and "set conditioner.latent=true" in failed.stderr
