"""From a trained model to one that was tuned: train.py init=PATH, sample.py, adapters as files."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

import runs
from oboro.cli.adapter import main as adapter_command
from oboro.restore.checkpoint import load_checkpoint
from oboro.restore.rebuild import averaged, build_task

# What the runs of other tests name and these take from the checkpoint.
SHORT = [o for o in runs.toy(runs.NO_EVALUATION) if not o.startswith(("model.", "sampler", "optimizer"))]
LORA = ("adapter=lora", "adapter.rank=2", "adapter.targets=[attention,linear]")


@pytest.fixture
def tune(checkpoint, tmp_path):
    """``tune("key=value")``: two steps from ``checkpoint``."""

    def tune(*overrides):
        folder = tmp_path / "tuned"
        folder.mkdir()
        return runs.call("train.py", *runs.outputs(folder, *SHORT, f"init={checkpoint}", *overrides), cwd=folder)

    return tune


@pytest.fixture(scope="module")
def lora(checkpoint, tmp_path_factory):
    """A run of three steps with an adapter, long enough to be seen in 8-bit images."""
    folder = tmp_path_factory.mktemp("lora")
    loud = ("trainer.max_steps=3", "optimizer.lr=0.3", "optimizer.warmup_steps=1")
    arguments = [*SHORT, f"init={checkpoint}", *LORA, *loud, "callbacks=[checkpoints,summary]"]
    return runs.succeeded(runs.call("train.py", *runs.outputs(folder, *arguments), cwd=folder))


def picture(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image))).astype(int)


def start_of(path, profile=None):
    return averaged(build_task(load_checkpoint(path)), path, profile).state_dict()


@pytest.mark.parametrize("profile", ["std005", "std010"])
def test_training_starts_from_an_average_and_nothing_else(tune, checkpoint, profile):
    """With a learning rate of zero the run ends where it started; step, averages and optimizer count from zero."""
    run = runs.succeeded(tune(f"init_profile={profile}", "optimizer.lr=0"))
    ended, started = run.checkpoint(), start_of(checkpoint, profile)
    for key, w in started.items():
        assert torch.equal(ended["state_dict"][f"denoiser.{key}"], w)
    for average in ended["ema"]["averages"].values():
        assert all(torch.allclose(w, started[key], rtol=1e-6, atol=0) for key, w in average.items())
    assert ended["global_step"] == ended["ema"]["updates"] == 2
    other = start_of(checkpoint, "std010" if profile == "std005" else "std005")
    assert any(not torch.equal(w, started[key]) for key, w in other.items())


def test_the_model_is_that_of_the_checkpoint_unless_named(tune, checkpoint):
    there = load_checkpoint(checkpoint)["config"]["task"]
    run = runs.succeeded(tune("schedule=cosine", "model.dropout=0.25", "loss/time=logit_normal", "sampler.steps=3"))
    here = run.checkpoint()["config"]["task"]
    assert here["denoiser"] == {
        **there["denoiser"],
        "network": {**there["denoiser"]["network"], "dropout": 0.25},
        "schedule": {"_target_": "oboro.schedule.Cosine"},
    }
    assert here["sampler"] == {**there["sampler"], "steps": 3} and here["guidance"] == there["guidance"]
    assert here["loss"]["time"]["_target_"].endswith("LogitNormal")
    assert here["conditioner"] == there["conditioner"] and here["codec"] == there["codec"]
    assert here["optimizer"]["lr"] == 1e-4  # optimizer=adamw_finetune


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["model.channels=16"], "model.channels is 8 there and 16 here"),
        (["adapter=lora", "model.channel_mult=[1,3]"], "model.channel_mult is [1, 2] there and [1, 3] here"),
        (["init=nowhere.ckpt"], "there is no checkpoint nowhere.ckpt"),
        (["init_profile=std020"], "has no average std020; choose one of std005, std010"),
        (["task=autoencoder"], "is a checkpoint of task=diffusion"),
    ],
)
def test_what_does_not_fit_is_said(tune, change, said):
    run = tune(*change)
    assert run.status == 1 and said in run.stderr.replace("\n", " ")


def test_an_adapter_without_a_start_is_refused(tmp_path):
    run = runs.call("train.py", *runs.toy("adapter=lora", runs.NO_EVALUATION), cwd=tmp_path)
    assert run.status == 1 and "give init=<a checkpoint>" in run.stderr.replace("\n", " ")


def test_a_run_with_an_adapter_changes_nothing_else(lora, checkpoint):
    """Base and averages of it are the start's; averages and optimizer know of the adapter alone."""
    ended, started = lora.checkpoint(), start_of(checkpoint)
    names = set(ended["ema"]["averages"]["std005"])
    assert names and all(name.endswith((".A.weight", ".B.weight")) for name in names)
    assert len(ended["optimizer_states"][0]["state"]) == len(names)
    plain = {k.removeprefix("denoiser.").replace(".base.", "."): w for k, w in ended["state_dict"].items()}
    assert all(torch.equal(plain[key], w) for key, w in started.items())
    count = sum(ended["state_dict"][f"denoiser.{name}"].numel() for name in names)
    assert f"{count:,} of them trained" in " ".join(lora.stdout.replace("│", " ").split())


@pytest.mark.slow
def test_an_adapter_run_resumes_exactly(lora, checkpoint, tmp_path):
    loud = ("trainer.max_steps=2", "optimizer.lr=0.3", "optimizer.warmup_steps=1")
    arguments = [*SHORT, f"init={checkpoint}", *LORA, *loud]
    (tmp_path / "a").mkdir()
    first = runs.succeeded(runs.call("train.py", *runs.outputs(tmp_path / "a", *arguments), cwd=tmp_path))
    first = runs.Run(0, "", "", tmp_path / "a")
    (tmp_path / "b").mkdir()
    rest = [*(a for a in arguments if not a.startswith("init=")), "trainer.max_steps=3", f"resume={first.last}"]
    runs.succeeded(runs.call("train.py", *runs.outputs(tmp_path / "b", *rest), cwd=tmp_path))
    resumed = runs.Run(0, "", "", tmp_path / "b")
    for key in ("state_dict", "ema", "optimizer_states", "global_step"):
        assert runs.equal(resumed.checkpoint()[key], lora.checkpoint()[key])


@pytest.mark.slow
def test_the_adapter_can_be_a_file_or_part_of_the_weights(lora, checkpoint, tmp_path, capsys):
    """The run's checkpoint, a merged one, and the base with the file draw the same images; scale 0 draws the base's."""
    file, merged = tmp_path / "new/adapter.safetensors", tmp_path / "other/merged.ckpt"
    adapter_command(["export", str(lora.last), str(file)])
    adapter_command(["merge", str(lora.last), str(merged)])
    assert file.stat().st_size < 0.5 * merged.stat().st_size
    drawn = {
        "adapted": runs.sample(tmp_path / "a", lora.last, "n=4"),
        "merged": runs.sample(tmp_path / "b", merged, "n=4"),
        "file": runs.sample(tmp_path / "c", checkpoint, "n=4", f"adapter_file={file}"),
    }
    base = runs.sample(tmp_path / "d", checkpoint, "n=4").images
    assert drawn["merged"].images == drawn["file"].images
    pixels = {name: np.stack([picture(image) for image in run.images]) for name, run in drawn.items()}
    assert abs(pixels["adapted"] - pixels["merged"]).max() <= 1
    assert abs(pixels["adapted"] - np.stack([picture(image) for image in base])).max() > 10
    assert runs.sample(tmp_path / "e", lora.last, "n=4", "adapter_scale=0").images == base
    assert runs.sample(tmp_path / "f", checkpoint, "n=4", f"adapter_file={file}", "adapter_scale=0").images == base


@pytest.mark.slow
def test_a_run_can_start_from_one_with_an_adapter(lora, tmp_path):
    """Its adapter is merged: the next run starts at what was drawn."""
    merged = tmp_path / "merged.ckpt"
    adapter_command(["merge", str(lora.last), str(merged)])
    arguments = [*SHORT, f"init={lora.last}", "optimizer.lr=0"]
    run = runs.succeeded(runs.call("train.py", *runs.outputs(tmp_path, *arguments), cwd=tmp_path))
    ended = run.checkpoint()["state_dict"]
    assert all(torch.equal(ended[f"denoiser.{key}"], w) for key, w in start_of(merged).items())


def test_what_an_adapter_cannot_do_is_said(checkpoint, lora, tmp_path):
    adapter_command(["merge", str(lora.last), str(tmp_path / "merged.ckpt")])
    run = runs.call("train.py", *SHORT, f"resume={tmp_path / 'merged.ckpt'}", cwd=tmp_path)
    assert run.status == 1 and "no state of training to go on with; start from it with init=" in " ".join(
        run.stderr.split()
    )
    with pytest.raises(SystemExit, match="has no adapter to export"):
        adapter_command(["export", str(checkpoint), str(tmp_path / "a")])
    with pytest.raises(SystemExit, match="name the file of one with --adapter"):
        adapter_command(["merge", str(checkpoint), str(tmp_path / "a")])
    for arguments, said in (
        ([f"checkpoint={checkpoint}", "adapter_scale=2"], "name one with adapter_file="),
        ([f"checkpoint={lora.last}", "adapter_scale=2", "ema_std=0.1"], "knows no merged adapters"),
    ):
        run = runs.call("sample.py", *arguments, "n=2", cwd=tmp_path)
        assert run.status == 1 and said in run.stderr.replace("\n", " ")


@pytest.mark.slow
def test_two_processes_train_one_adapter(checkpoint, tmp_path):
    """Weights and averages are equal on both ranks, the adapter has moved and the base has not."""
    record = f"+callbacks.recorder={{_target_: recorder.Recorder, folder: {tmp_path / 'record'}}}"
    two = ("trainer.devices=2", "trainer.strategy=ddp", "optimizer.lr=0.1", "optimizer.warmup_steps=1")
    runs.succeeded(runs.shell("train.py", *SHORT, f"init={checkpoint}", *LORA, *two, record, cwd=tmp_path))
    first, second = (torch.load(tmp_path / f"record/rank{k}.pt", weights_only=True) for k in (0, 1))
    assert runs.equal(first["weights"], second["weights"]) and runs.equal(first["averages"], second["averages"])
    plain = {k.removeprefix("denoiser.").replace(".base.", "."): w for k, w in first["weights"].items()}
    assert all(torch.equal(plain[key], w) for key, w in start_of(checkpoint).items())
    assert all(w.abs().max() > 0 for key, w in plain.items() if key.endswith(".B.weight"))


@pytest.mark.parametrize("kind", ["autoencoder", "classification", "clip"])
def test_every_task_starts_from_its_checkpoint(kind, tmp_path):
    data = ("data=fashion_captions_10k",) if kind == "clip" else ()
    base = runs.train(tmp_path / "base", f"task={kind}", *data, runs.NO_EVALUATION)
    short = [o for o in runs.toy(f"task={kind}", *data, runs.NO_EVALUATION) if o not in runs.NETWORK + runs.SMALL_CLIP]
    short = [o for o in short if not o.startswith(("codec", "task"))]
    arguments = [*short, f"init={base.last}", "optimizer.lr=0", "trainer.max_steps=1"]
    (tmp_path / "tuned").mkdir()
    run = runs.call("train.py", *runs.outputs(tmp_path / "tuned", *arguments), cwd=tmp_path / "tuned")
    assert run.status == 0, run.stderr
    task = build_task(load_checkpoint(base.last))
    started, ended = averaged(task, base.last, None), build_task(load_checkpoint(run.last)).learned
    parameters = dict(ended.named_parameters())
    assert all(torch.equal(w, parameters[name]) for name, w in started.named_parameters())
    assert run.checkpoint()["global_step"] == 1
