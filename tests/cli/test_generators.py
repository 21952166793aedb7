"""A GAN, a VAE and a denoising autoencoder as a user starts them, and what every command makes of them."""

import math

import pytest
import torch

import runs
from oboro.condition import Condition
from oboro.denoiser.latent import reconstruct
from oboro.restore.checkpoint import load_checkpoint
from oboro.restore.rebuild import averaged, build_task

KINDS = {
    "gan": (runs.GAN, "loss.every=2"),
    "vae": (runs.VAE,),
    "denoising_autoencoder": (runs.DENOISING_AUTOENCODER,),
}
STEPS = ("trainer.max_steps=3", runs.NO_EVALUATION, "trainer.val_check_interval=3", "optimizer.warmup_steps=0")


def train(folder, kind, *overrides):
    return runs.train(folder, *KINDS[kind], *STEPS, *overrides)


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def run(kind, tmp_path_factory):
    return train(tmp_path_factory.mktemp(kind), kind)


@pytest.mark.slow
def test_it_is_validated_drawn_from_and_measured(kind, run, tmp_path):
    assert math.isfinite(run.logged("val/loss")[3])
    assert not any(name.startswith("val/loss_noise") for row in run.rows for name in row)  # of one level
    first = runs.sample(tmp_path / "first", run.last, "n=4").images
    assert len(set(first)) == 4
    assert runs.sample(tmp_path / "again", run.last, "n=4").images == first
    assert runs.sample(tmp_path / "chunks", run.last, "n=4", "chunk=3").images == first
    result = runs.evaluate(tmp_path / "measured", run.last, "n=20")
    assert all(math.isfinite(value) for value in result["values"].values())


@pytest.mark.slow
def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(kind, run, tmp_path):
    cut = train(tmp_path / "cut", kind, "trainer.max_steps=2")
    resumed = [f"resume={cut.last}", "trainer.max_steps=3"]
    runs.succeeded(runs.call("train.py", *runs.outputs(tmp_path / "on", *resumed), cwd=tmp_path))
    ended, straight = runs.Run(0, "", "", tmp_path / "on").checkpoint(), run.checkpoint()
    for key in ("state_dict", "ema", "optimizer_states"):
        assert runs.equal(ended[key], straight[key]), key


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(kind, run, tmp_path):
    """Also where the gradient of a penalty is one of gradients, and in steps in which the generator rests."""
    two = tmp_path / "two"
    two.mkdir()
    asked = [*KINDS[kind], *STEPS, "trainer.devices=2", "trainer.strategy=ddp"]
    runs.succeeded(runs.shell("train.py", *runs.outputs(two, *runs.toy(*asked)), cwd=two))
    other = runs.Run(0, "", "", two).checkpoint()
    for name, weight in run.checkpoint()["state_dict"].items():
        torch.testing.assert_close(other["state_dict"][name], weight, rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.slow
def test_a_generator_is_averaged_and_its_discriminator_is_kept_to_go_on(tmp_path):
    content = train(tmp_path, "gan").checkpoint()
    assert set(content["optimizer_states"][0]["networks"]) == {"generator", "discriminator"}
    assert any(name.startswith("loss.discriminator.") for name in content["state_dict"])
    names = {name.removeprefix("denoiser.") for name in content["state_dict"] if name.startswith("denoiser.")}
    assert set(content["ema"]["averages"]["std005"]) <= names and "averages" not in content
    assert content["ema"]["updates"] == 2  # of three steps


@pytest.mark.slow
def test_a_vae_gives_back_what_it_sees_better_than_another_picture(tmp_path):
    asked = [runs.VAE, "conditioner=unconditional"]
    long = ["trainer.max_steps=150", "data.batch_size=32", "optimizer.lr=3e-3", runs.NO_EVALUATION]
    run = runs.train(tmp_path, *asked, *long)
    denoiser = averaged(build_task(load_checkpoint(run.last)), run.last, None)
    _, _, data = runs.built(*asked)
    data.setup()
    x = data.modality.to_model(data.validation.samples[torch.arange(8)])
    made = reconstruct(denoiser, x, Condition())
    distance = torch.cdist(made.flatten(1), x.flatten(1))
    assert distance.diagonal().mean() < 0.8 * distance.mean()


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [
        (["loss=gan", *runs.DISCRIMINATOR], "add task=gan"),
        (["task=gan", "sampler.steps=4"], "sampler.steps=1"),
        (["task=gan", "parameterization=velocity"], "choose parameterization=x0"),
        (["task=gan", "model.latent=2000"], "lower model.latent"),
        (["task=gan", "loss.discriminator.size=32"], "leave loss.discriminator.size out"),
        (["task=denoising_autoencoder", "loss/time=uniform", "sampler.level=0.5"], "loss=denoising_fixed"),
        (["task=denoising_autoencoder", "sampler=ddim"], "sampler=walk_back"),
        (["task=denoising_autoencoder", "loss/weighting=elbo"], "loss/weighting=uniform"),
    ],
)
def test_what_cannot_be_learned_is_said_before_anything_is_trained(typed, remedy, tmp_path):
    run = runs.call("train.py", *runs.outputs(tmp_path, *runs.toy(*typed)), cwd=tmp_path)
    assert run.status == 1 and remedy in run.stderr.replace("\n", " "), run.stderr
    assert "Traceback" not in run.stderr
