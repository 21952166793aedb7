"""Interruptions and evaluation leave no trace in what is learned."""

import json
from pathlib import Path

import pytest

import runs

SIX = ("trainer.max_steps=6", "callbacks.checkpoints.every_n_steps=3", runs.NO_EVALUATION)
EVERY_STEP = (
    "callbacks=[sample_metrics,sample_grid,checkpoints,throughput]",
    "callbacks.sample_metrics.every_n_steps=1",
    "callbacks.sample_grid.every_n_steps=1",
    "callbacks.checkpoints.every_n_steps=1",
    "callbacks.throughput.every_n_steps=1",
    "trainer.val_check_interval=1",
)
LEARNING_LOSS = (
    "loss/weighting=learned_log_variance",
    "loss/time=loss_aware",
    "loss.time.bins=2",
    "loss.time.history=2",
    "loss.stratified=true",
    "loss/coupling=optimal_transport",
    "loss.offset_noise=0.1",
    "loss.input_perturbation=0.1",
)
EPOCHS_OF_THREE_STEPS = ("data.validation=9976", "+trainer.limit_val_batches=0")  # the checkpoint lies between two
LEARNED = ("state_dict", "ema", "optimizer_states", "lr_schedulers", "global_step")


def learned(run: runs.Run) -> dict:
    checkpoint = run.checkpoint()
    return {key: checkpoint[key] for key in LEARNED}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """``straight(*overrides)``: six steps without interruption, with the same overrides made once."""
    made = {}

    def straight(*overrides):
        if overrides not in made:
            made[overrides] = runs.train(tmp_path_factory.mktemp("straight"), *SIX, *overrides)
        return made[overrides]

    return straight


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "batches"),
    [
        ((), 0),
        (("model.dropout=0.5", "trainer.accumulate_grad_batches=2"), 1),
        pytest.param(("data.num_workers=1",), 0, marks=pytest.mark.slow),
        pytest.param(("data.num_workers=2", "trainer.accumulate_grad_batches=2"), 1, marks=pytest.mark.slow),
        pytest.param(LEARNING_LOSS, 0, marks=pytest.mark.slow),
        pytest.param(("trainer.precision=bf16-mixed", "model.dropout=0.5"), 0, marks=pytest.mark.slow),
        pytest.param(EPOCHS_OF_THREE_STEPS, 0, marks=pytest.mark.slow),
    ],
    ids=["plain", "dropout and accumulation", "a worker", "two workers", "a loss that learns", "bfloat16", "epochs"],
)
def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(straight, tmp_path, overrides, batches):
    """Cut off in step 5, after the checkpoint of step 3; weights, averages, optimizer and learning rate bit for bit."""
    cut = f"+callbacks.cut={{_target_: recorder.PowerCut, step: 4, batches: {batches}}}"
    first = [*SIX, *overrides, cut]
    interrupted = runs.call("train.py", *runs.outputs(tmp_path / "cut", *runs.toy(*first)), cwd=tmp_path)
    assert interrupted.status == 1 and "the power is gone" in interrupted.stderr
    interrupted = runs.Run(1, "", "", tmp_path / "cut")
    assert interrupted.checkpoint()["global_step"] == 3
    resumed = runs.train(tmp_path / "resumed", *SIX, *overrides, f"resume={interrupted.last}")
    assert list(resumed.logged("train/loss")) == [4, 5, 6]
    assert runs.equal(learned(resumed), learned(straight(*overrides)))
    losses = straight(*overrides).logged("train/loss")
    assert resumed.logged("train/loss") == {step: losses[step] for step in (4, 5, 6)}


OTHER = {
    "cosine, v, adam, labels, another data seed": (
        *("schedule=cosine", "parameterization=v", "loss/weighting=min_snr", "loss/time=logit_normal"),
        *("optimizer=adam", "optimizer.lr=1e-3", "ema=ema_constant", "data.seed=5", "conditioner.dropout=0.3"),
    ),
    "karras, edm, no labels, accumulation, mirrored": (
        *("schedule=karras", "parameterization=edm", "loss=denoising_edm", "conditioner=unconditional", "seed=4"),
        *("trainer.accumulate_grad_batches=2", "data.flip=true", "trainer.gradient_clip_val=0.1"),
    ),
    "two optimizers": (runs.AUTOENCODER, "loss.warmup=2", "trainer.gradient_clip_val=0.1"),
    "a tangent that is warmed up": (
        *("loss=continuous_consistency", "loss.warmup_steps=5", "sampler=ddim_consistency", "model.dropout=0.5"),
    ),
    "alpha-Flow": ("loss=mean_flow_alpha", "loss.alpha.last=6", "loss.alpha.gamma=3", "sampler=ddim_flow_map"),
    "a variance": ("loss=hybrid", "model.learned_variance=true", "sampler=learned_variance", "schedule=vp"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHER)
def test_a_checkpoint_is_enough_to_go_on(tmp_path, kind):
    """Eight steps against four, and four more of which nothing is typed but where they end: to the last bit."""
    settings = (*OTHER[kind], runs.NO_EVALUATION)
    whole = runs.train(tmp_path / "whole", *settings, "trainer.max_steps=8")
    half = runs.train(tmp_path / "half", *settings, "trainer.max_steps=4")
    resumed = alone(tmp_path / "resumed", f"resume={half.last}", "trainer.max_steps=8")
    assert runs.equal(learned(resumed), learned(whole))
    assert resumed.logged("train/loss") == {k: v for k, v in whole.logged("train/loss").items() if k > 4}
    before, after = (run.checkpoint()["config"] for run in (whole, resumed))
    assert {**after, **written(before)} == before


def alone(folder: Path, *typed: str) -> runs.Run:
    """A run to which the toy settings are not given: they come from its checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    run = runs.succeeded(runs.call("train.py", *runs.outputs(folder, *typed), cwd=folder))
    return runs.Run(run.status, run.stdout, run.stderr, folder)


def written(config: dict) -> dict:
    """Of a stored configuration, what names the folder of its run."""
    return {key: config[key] for key in ("output_dir", "trainer", "callbacks", "logger")}


@pytest.mark.slow
def test_a_run_in_latent_space_goes_on_without_the_file_of_its_codec(tmp_path):
    codec = runs.train(tmp_path / "codec", runs.AUTOENCODER, "callbacks=[latent_statistics,checkpoints]")
    latent = ("codec=trained", f"codec.path={codec.last}", runs.NO_EVALUATION)
    whole = runs.train(tmp_path / "whole", *latent, "trainer.max_steps=4")
    half = runs.train(tmp_path / "half", *latent)
    codec.last.unlink()
    resumed = alone(tmp_path / "resumed", f"resume={half.folder}", "trainer.max_steps=4")
    assert runs.equal(learned(resumed), learned(whole))


MEASURED = (
    *("callbacks=[sample_metrics,checkpoints]", "metrics=[frechet]", "trainer.max_steps=6"),
    *("callbacks.sample_metrics.every_n_steps=1", "callbacks.checkpoints.every_n_steps=3"),
)


@pytest.mark.slow
@pytest.mark.parametrize(("accumulate", "batches", "every"), [pytest.param(1, 0, 3, marks=pytest.mark.slow), (2, 1, 2)])
def test_the_log_of_a_run_that_was_cut_off_is_that_of_one_that_was_not(tmp_path, accumulate, batches, every):
    """The same rows in the same order in one file: no evaluation is repeated, none is left out."""
    settings = (*MEASURED, f"trainer.accumulate_grad_batches={accumulate}", f"trainer.val_check_interval={every}")
    whole = runs.train(tmp_path / "whole", *settings)
    cut = f"+callbacks.cut={{_target_: recorder.PowerCut, step: 4, batches: {batches}}}"
    folder = tmp_path / "cut"
    folder.mkdir()
    assert runs.call("train.py", *runs.outputs(folder, *runs.toy(*settings, cut)), cwd=folder).status == 1
    assert 4 in runs.Run(1, "", "", folder).logged("train/loss")
    resumed = alone(folder, f"resume={folder}")
    assert numbers(resumed) == numbers(whole)
    superseded = (folder / "metrics.superseded.jsonl").read_text().splitlines()
    assert {json.loads(row)["step"] for row in superseded} == {4}


def numbers(run: runs.Run) -> list[dict]:
    """The rows of the log without what the clock says."""
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in run.rows]


def test_workers_do_not_change_what_is_learned(straight):
    assert runs.equal(learned(straight("data.num_workers=1")), learned(straight()))


@pytest.mark.slow
def test_evaluation_does_not_change_what_is_learned(straight, tmp_path):
    """Samples, metrics, pictures, checkpoints and validation after every step against none of them."""
    watched = runs.train(tmp_path, *SIX, *EVERY_STEP)
    assert len(watched.logged("fd_fashion_20")) == len(watched.logged("val/loss")) == 6
    assert len(list((tmp_path / "samples").iterdir())) == 6
    assert runs.equal(learned(watched), learned(straight()))
    assert watched.logged("train/loss") == straight().logged("train/loss")


@pytest.mark.slow
def test_dropout_does_not_read_what_evaluation_or_data_left_behind(straight, tmp_path):
    dropout = ("model.dropout=0.5", "trainer.accumulate_grad_batches=2")
    watched = runs.train(tmp_path, *SIX, *EVERY_STEP, *dropout)
    assert runs.equal(learned(watched), learned(straight(*dropout)))
    assert not runs.equal(learned(watched), learned(straight()))


def test_what_a_loss_learns_is_trained_and_kept(straight):
    """Else the resume of such a loss would say little; and its parameters are the optimizer's too."""
    checkpoint = straight(*LEARNING_LOSS).checkpoint()
    state, plain = checkpoint["state_dict"], straight().checkpoint()
    assert state["loss.weighting.head"].abs().max() > 0
    assert int(state["loss.time.counts"].sum()) == 6 * 8 and state["loss.time.losses"].unique().numel() == 4
    sizes = [len(c["optimizer_states"][0]["state"]) for c in (checkpoint, plain)]
    assert sizes[0] == sizes[1] + 1
    assert not any(name.startswith("loss.") for name in plain["state_dict"])


def test_validation_does_not_change_what_a_loss_learns(straight, tmp_path):
    watched = runs.train(tmp_path, *SIX, *LEARNING_LOSS, "trainer.val_check_interval=1")
    assert len(watched.logged("val/loss")) == 6
    assert runs.equal(learned(watched), learned(straight(*LEARNING_LOSS)))


def test_the_averages_are_not_the_weights(straight):
    """Else the laws above would say little about them."""
    checkpoint = straight().checkpoint()
    raw = {k.removeprefix("denoiser."): v for k, v in checkpoint["state_dict"].items()}
    averages = checkpoint["ema"]["averages"]
    assert len(averages) == 2 and checkpoint["ema"]["updates"] == 6
    for a in averages.values():
        assert a.keys() == raw.keys() and not runs.equal(a, raw)
    assert not runs.equal(*averages.values())
