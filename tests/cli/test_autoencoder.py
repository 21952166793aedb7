"""An autoencoder as a user trains it: what a run leaves, what it says, how it resumes, and two processes."""

import pytest
import torch
from PIL import Image

import runs
from oboro.base.spread import spread
from oboro.evaluate.reconstruction import latent_statistics
from oboro.restore.evaluated import read_outcomes
from oboro.restore.rebuild import build_task

LEARNED = ("state_dict", "ema", "optimizer_states", "lr_schedulers", "global_step")
SIX = (runs.AUTOENCODER, "trainer.max_steps=6", "callbacks.checkpoints.every_n_steps=3", runs.NO_EVALUATION)
TWO = (runs.AUTOENCODER, "trainer.max_steps=4", "trainer.devices=2", "trainer.strategy=ddp", "loss.warmup=2")
USUAL = {".hydra", ".running", "checkpoints", "metrics.jsonl", "train.log", "reconstructions", "result.json"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> runs.Run:
    """Forty steps with the callbacks of the task; the discriminator joins at step 20."""
    folder = tmp_path_factory.mktemp("autoencoder")
    enough = ("trainer.max_steps=40", "trainer.val_check_interval=40", "optimizer.lr=0.003", "loss.warmup=20")
    return runs.train(folder, runs.AUTOENCODER, "loss.adversarial=0.1", "data.batch_size=16", *enough)


def test_a_run_tells_what_it_trains_and_how_faithful_it_is(trained):
    assert {path.name for path in trained.folder.iterdir()} == USUAL
    row = next(row for row in trained.rows if "val/psnr" in row)
    assert 5 < row["val/psnr"] < 30 and 0 < row["val/ssim"] < 1 and row["val/kl"] > 0 < row["val/perceptual"]
    pixel = list(trained.logged("train/pixel").values())
    assert sum(pixel[-5:]) < 0.7 * sum(pixel[:5])
    for name in ("generator", "discriminator", "adaptive_weight"):
        assert list(trained.logged(f"train/{name}")) == list(range(21, 41))
    measured = trained.logged("reconstruction/fd_fashion_24")
    assert list(measured) == [40] and "reconstructions of held-out images" in trained.stdout
    assert "4 channels at 1/2 of the size" in " ".join(trained.stdout.replace("│", " ").split())
    picture = Image.open(trained.folder / "reconstructions" / "step-00000040.png")
    assert picture.height < picture.width  # two rows of sixteen


def test_the_checkpoint_holds_averages_and_the_statistics_of_their_latents(trained):
    checkpoint = trained.checkpoint()
    task = build_task(checkpoint)
    assert not any(name.startswith("loss.perceptual") for name in checkpoint["state_dict"])
    assert {len(a) for a in checkpoint["ema"]["averages"].values()} == {len(list(task.learned.parameters()))}
    _, _, data = runs.built(runs.AUTOENCODER)
    data.setup()
    images = data.train.samples
    with task.averaged():
        mean, std = latent_statistics(task.learned, images, spread(100, len(images)), torch.device("cpu"))
    torch.testing.assert_close(task.learned.latent_mean, mean.float())
    torch.testing.assert_close(task.learned.latent_std, std.float())


def test_the_best_checkpoint_is_that_of_the_best_reconstructions(trained):
    outcomes = read_outcomes(trained.last.parent)
    step = trained.checkpoint("best")["global_step"]
    assert outcomes[step]["best"] == trained.logged("reconstruction/fd_fashion_24")[step] and step == 40


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["autoencoder_fashion", "vq_autoencoder_fashion"])
def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(codec, tmp_path):
    """Cut off in step 5, after the checkpoint of step 3 which is the first with the discriminator."""
    quiet = (*SIX, f"codec={codec}", "loss.warmup=4")
    straight = runs.train(tmp_path / "straight", *quiet)
    cut = runs.toy(*quiet, "+callbacks.cut={_target_: recorder.PowerCut, step: 4, batches: 0}")
    interrupted = runs.call("train.py", *runs.outputs(tmp_path / "cut", *cut), cwd=tmp_path)
    assert interrupted.status == 1 and "the power is gone" in interrupted.stderr
    last = runs.Run(1, "", "", tmp_path / "cut").last
    resumed = runs.train(tmp_path / "resumed", *quiet, f"resume={last}")
    assert list(resumed.logged("train/loss")) == [4, 5, 6]
    first, second = (run.checkpoint() for run in (straight, resumed))
    assert all(runs.equal(first[key], second[key]) for key in LEARNED)


def test_the_discriminator_can_have_an_optimizer_of_its_own(tmp_path):
    """And gradients may be clipped: the law of two optimizers by hand is in tests/task/test_learners.py."""
    other = ("+optimizer@discriminator_optimizer=adam", "discriminator_optimizer.lr=1e-4")
    run = runs.train(tmp_path, *SIX, *other, "trainer.max_steps=2", "trainer.gradient_clip_val=0.1")
    networks = run.checkpoint()["optimizer_states"][0]["networks"]
    rates = {name: state["param_groups"][0]["initial_lr"] for name, state in networks.items()}
    assert list(networks) == ["autoencoder", "discriminator"]
    assert rates["discriminator"] == 1e-4 and rates["autoencoder"] == 1.5e-3
    assert networks["discriminator"]["param_groups"][0]["betas"] == (0.9, 0.999)


@pytest.mark.parametrize(
    ("typed", "mentions"),
    [
        (["codec.channel_mult=[1,1,1,1]"], ["divides sides by 8", "set data.resolution=[24,24]"]),
        (["codec.in_channels=3"], ["set data.channels"]),
        (["loss.discriminator.layers=4"], ["needs sides of 48", "loss.discriminator.layers"]),
        (["loss/perceptual=lpips"], ["LPIPS needs weights", "set loss.perceptual.backbone="]),
        (["data.validation=0", "trainer.val_check_interval=null"], ["no images are held out", "data.validation="]),
        (["callbacks=[text_cache]"], ["Autoencoder has no conditions", "leave callbacks.text_cache out"]),
        (["callbacks.reconstructions.n=0"], ["callbacks.reconstructions.n=0", "1 or more"]),
        (["callbacks=[sample_grid]"], ["SampleGrid", "leave it out of callbacks="]),
        (["callbacks.checkpoints.every_n_steps=3"], ["older weights", "callbacks.latent_statistics.every_n_steps=3"]),
    ],
)
def test_what_cannot_be_trained_ends_in_one_line(typed, mentions, tmp_path):
    run = runs.call("train.py", *runs.outputs(tmp_path, *runs.toy(runs.AUTOENCODER, *typed)), cwd=tmp_path)
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert run.status == 1 and len(errors) == 1 and "Traceback" not in run.stderr, run.stderr
    assert all(mention in errors[0] for mention in mentions), run.stderr


@pytest.mark.slow
def test_metrics_that_need_classes_see_those_of_the_held_out_images(tmp_path):
    chosen = "callbacks=[latent_statistics,reconstruction_metrics,checkpoints]"
    run = runs.train(tmp_path, runs.AUTOENCODER, chosen, "metrics=[accuracy]")
    (row,) = [row for row in run.rows if "reconstruction/accuracy_fashion_24" in row]
    assert 0 <= row["reconstruction/accuracy_fashion_24"] <= 1


# --- two processes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """What each of two processes holds after four steps, two of them with the discriminator."""
    folder = tmp_path_factory.mktemp("pair")
    record = f"+callbacks.latents={{_target_: recorder.Latents, folder: {folder / 'record'}}}"
    statistics = "callbacks.latent_statistics.n=500"
    callbacks = "callbacks=[latent_statistics,checkpoints]"
    runs.succeeded(runs.shell("train.py", *runs.toy(*TWO, callbacks, statistics, record), cwd=folder))
    return [torch.load(folder / "record" / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.slow
def test_both_players_and_the_statistics_are_equal_on_both_ranks(ranks):
    """Bit for bit; the players would drift apart where one of them were not reduced."""
    assert runs.equal(ranks[0]["weights"], ranks[1]["weights"])
    assert runs.equal(ranks[0]["averages"], ranks[1]["averages"])
    names = set(ranks[0]["weights"])
    assert {"autoencoder.latent_mean", "autoencoder.latent_std", "loss.discriminator.first.weight"} <= names
    assert ranks[0]["weights"]["autoencoder.latent_mean"].count_nonzero() == 4


@pytest.mark.slow
def test_latents_are_standardised_on_both_ranks(ranks):
    for rank in ranks:
        std, mean = torch.std_mean(rank["z"], (0, 2, 3))
        assert mean.abs().max() < 0.05 and (std - 1).abs().max() < 0.05


@pytest.mark.slow
def test_the_adaptive_weight_is_one_number_though_losses_differ(ranks):
    first, second = (rank["logged"] for rank in ranks)
    assert first["train/adaptive_weight"] == second["train/adaptive_weight"] > 0
    assert first["train/pixel"] != second["train/pixel"]
