"""What may be typed beside ``resume=``: applied and shown, or refused with the reason."""

import json
import shutil

import pytest
import torch
from hydra import compose, initialize_config_dir

import runs
from oboro.base.errors import UserError
from oboro.cli.prepare import resolved
from oboro.cli.resume import offer_resume
from oboro.cli.train import compared
from oboro.restore.checkpoint import load_checkpoint

SHORT = ("trainer.max_steps=4", "callbacks=[sample_metrics,checkpoints]", "optimizer=adamw_fast", "data.root=null")
MORE = "trainer.max_steps=5"
FUNCTION, DATA, ORDER = "the function that is being learned", "the data that a step sees", "the noise follow from it"
OPTIMIZER, AVERAGES = "its state is of another optimizer", "the averages that are kept cannot become others"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> runs.Run:
    """Four steps at a rate that falls to zero."""
    return runs.train(tmp_path_factory.mktemp("run"), *SHORT)


def shown(run: runs.Run, *typed: str) -> list[str]:
    """What ``train.py`` shows before it goes on for a step, without training."""
    arguments = offer_resume([f"resume={run.last}", MORE, *typed])
    with initialize_config_dir(str(runs.ROOT / "conf"), version_base="1.3"):
        config = compose("train", ["output_dir=elsewhere", *arguments])
    return compared(config, resolved(config)[2])


# what is typed: what is shown of it
APPLIED = {
    "optimizer.lr=1e-5": "optimizer.lr: 0.003 in the checkpoint, 1e-05 now",
    "optimizer.weight_decay=0.1": "optimizer.weight_decay: 0.0 in the checkpoint, 0.1 now",
    "optimizer.betas=[0.8,0.9]": "optimizer.betas: [0.9, 0.99] in the checkpoint, [0.8, 0.9] now",
    "optimizer.decay._target_=oboro.optimizer.Constant": "optimizer.decay: LinearDecay in the checkpoint, Constant now",
    "trainer.accumulate_grad_batches=2": "trainer.accumulate_grad_batches: 1 in the checkpoint, 2 now",
    "task.noise=per_rank": "task.noise: global in the checkpoint, per_rank now",
    "trainer.gradient_clip_val=0.5": "trainer.gradient_clip_val: 1.0 in the checkpoint, 0.5 now",
    "trainer.val_check_interval=2": "trainer.val_check_interval: 1000 in the checkpoint, 2 now",
    "trainer.precision=bf16-mixed": "trainer.precision: 32-true in the checkpoint, bf16-mixed now",
    "data.num_workers=1": "data.num_workers: 0 in the checkpoint, 1 now",
    "sampler=ddim": "sampler: Heun in the checkpoint, DDIM now",
    "sampler.steps=3": "sampler.steps: 2 in the checkpoint, 3 now",
    "sampler/grid=karras": "sampler.grid: Uniform in the checkpoint, Karras now",
    "guidance.scale=2": "guidance.scale: 1.0 in the checkpoint, 2 now",
    "metrics=[kernel]": "metrics.frechet: Frechet in the checkpoint, absent now",
    "callbacks.checkpoints.every_n_steps=1": "callbacks.checkpoints.every_n_steps: 1000 in the checkpoint, 1 now",
    "+callbacks=snapshots": "callbacks.snapshots: absent in the checkpoint, Snapshots now",
    "~callbacks.sample_metrics": "callbacks.sample_metrics: SampleMetrics in the checkpoint, absent now",
    "logger=[jsonl,tensorboard]": "logger.tensorboard: absent in the checkpoint, TensorBoardLogger now",
    "+model.checkpointing=true": "model.checkpointing: false in the checkpoint, true now",
    "+trainer.detect_anomaly=true": "trainer.detect_anomaly: false in the checkpoint, true now",
    "debug=default": "trainer.detect_anomaly: false in the checkpoint, true now",
    # as it was: nothing to show
    "optimizer.lr=3e-3": None,
    "model=unet_tiny model.channels=8 model.channel_mult=[1,2] model.blocks=1 model.attention_levels=[1]": None,
    "data=fashion_mnist_10k data.batch_size=8 data.validation=24 data.cache_dir={cache}": None,
    "optimizer=adamw_fast optimizer.warmup_steps=2": None,
    "task=diffusion seed=0 schedule=linear loss=denoising loss/time=uniform": None,
    "~callbacks.throughput": None,
    "++ema.profiles.std005.std=0.05": None,
    "+model.dropout=0.0": None,
}
REFUSED = {
    "schedule=cosine": ("schedule: Linear in the checkpoint, Cosine now", FUNCTION),
    "parameterization=v": ("parameterization: Velocity in the checkpoint, V now", FUNCTION),
    "loss=denoising_min_snr": ("loss.weighting: Uniform in the checkpoint, MinSNR now", FUNCTION),
    "loss/time=logit_normal": ("loss.time: Uniform in the checkpoint, LogitNormal now", FUNCTION),
    "loss.stratified=true": ("loss.stratified: false in the checkpoint, true now", FUNCTION),
    "model.dropout=0.1": ("model.dropout: 0.0 in the checkpoint, 0.1 now", FUNCTION),
    "model=dit_tiny": ("model: UNet in the checkpoint, DiT now", FUNCTION),
    "conditioner=unconditional": ("conditioner: Label in the checkpoint, Unconditional now", FUNCTION),
    "conditioner.dropout=0.5": ("conditioner.dropout: 0.1 in the checkpoint, 0.5 now", FUNCTION),
    "codec=autoencoder": ("codec: Identity in the checkpoint, Autoencoder now", FUNCTION),
    "adapter=lora": ("adapter: Full in the checkpoint, LoRA now", FUNCTION),
    "ema=ema_constant": ("ema.profiles.std005: PowerFunction in the checkpoint, absent now", AVERAGES),
    "ema.profiles.std005.std=0.2": ("ema.profiles.std005.std: 0.05 in the checkpoint, 0.2 now", AVERAGES),
    "optimizer=adam": ("optimizer: AdamW in the checkpoint, Adam now", OPTIMIZER),
    "seed=1": ("seed: 0 in the checkpoint, 1 now", ORDER),
    "data.seed=1": ("data.seed: 0 in the checkpoint, 1 now", ORDER),
    "data.batch_size=4": ("data.batch_size: 8 in the checkpoint, 4 now", DATA),
    "data.validation=30": ("data.validation: 24 in the checkpoint, 30 now", DATA),
    "data.flip=true": ("data.flip: false in the checkpoint, true now", DATA),
    "data=cifar10": ("data: FashionMNIST in the checkpoint, CIFAR10 now", DATA),
    "+trainer.limit_train_batches=2": ("trainer.limit_train_batches: null in the checkpoint, 2 now", DATA),
    "experiment=ddpm_cifar10": ("model.channels: 8 in the checkpoint, 128 now (and so for ", FUNCTION),
    "schedule=cosine seed=3 model.dropout=0.1": (
        "seed: 0 in the checkpoint, 3 now (and so for model.dropout, schedule)",
        ORDER,
    ),
}


def typed_words(words: str) -> list[str]:
    return words.format(cache=runs.cache_dir()).split()


@pytest.mark.parametrize("words", APPLIED)
def test_what_may_differ_is_applied_and_shown(run, words):
    lines = shown(run, *typed_words(words))
    settings = [line for line in lines if " in the checkpoint, " in line]
    assert settings.pop([line.startswith("trainer.max_steps") for line in settings].index(True))
    assert APPLIED[words] in settings if APPLIED[words] else not settings


@pytest.mark.slow
@pytest.mark.parametrize("words", REFUSED)
def test_what_may_not_differ_is_refused_with_the_reason(run, words):
    with pytest.raises(UserError) as refusal:
        shown(run, *typed_words(words))
    difference, reason = REFUSED[words]
    line = str(refusal.value)
    assert difference in line and reason in line
    assert line.endswith(f"start anew from its weights with init={run.last}.")


def go_on(folder, *typed: str) -> runs.Run:
    folder.mkdir(exist_ok=True)
    done = runs.call("train.py", *runs.outputs(folder, *typed), cwd=folder)
    return runs.Run(done.status, done.stdout, done.stderr, folder)


@pytest.mark.slow
def test_what_differs_is_what_is_trained_with_and_recorded(run, tmp_path):
    """The rate of the next step is the new one's, lr (1 - 4/8) of a decay over 8 steps; stderr and train.log say so."""
    typed = (f"resume={run.folder}", "trainer.max_steps=8", "optimizer.lr=1e-4", "optimizer.betas=[0.5,0.6]")
    watch = "+callbacks.rates={_target_: recorder.Rates, folder: " + str(tmp_path) + "}"
    resumed = go_on(tmp_path / "on", *typed, watch)
    assert resumed.status == 0, resumed.stderr
    lines = [
        "optimizer.lr: 0.003 in the checkpoint, 0.0001 now",
        "optimizer.betas: [0.9, 0.99] in the checkpoint, [0.5, 0.6] now",
        "trainer.max_steps: 4 in the checkpoint, 8 now",
        "the decay of optimizer has its end at step 8 in place of step 4: after step 4 the rate was 0 and is 5e-05 now",
    ]
    log = (resumed.folder / "train.log").read_text()
    assert all(line in resumed.stderr.splitlines() and line in log for line in lines)
    assert json.loads((tmp_path / "rates.json").read_text()) == [1e-4 * (1 - k / 8) for k in range(4, 8)]
    checkpoint = resumed.checkpoint()
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["betas"] == (0.5, 0.6)
    assert checkpoint["config"]["task"]["optimizer"]["lr"] == 1e-4
    assert checkpoint["config"]["callbacks"]["checkpoints"]["folder"] == str(resumed.folder / "checkpoints")
    assert load_checkpoint(run.last)["config"]["task"]["optimizer"]["lr"] == 3e-3


# what is typed, what the line is
LINES = {
    "nothing more": (["resume={last}"], "{last} is already at step 4; raise trainer.max_steps, which is 4."),
    "fewer": (
        ["resume={last}", "trainer.max_steps=3"],
        "{last} is already at step 4; raise trainer.max_steps, which is 3.",
    ),
    "init beside it": (
        ["resume={last}", "init={last}"],
        "resume goes on from a checkpoint and init starts anew from one; leave one of the two out (a run that began "
        "with init goes on with resume alone).",
    ),
    "quoted": (["resume='{last}'"], "{last} is already at step 4; raise trainer.max_steps, which is 4."),
    "a folder": (["resume={folder}"], "{last} is already at step 4; raise trainer.max_steps, which is 4."),
    "home": (
        ["resume=~/run"],
        "{home}/run/checkpoints/last.ckpt is already at step 4; raise trainer.max_steps, which is 4.",
    ),
    "a name with spaces": (
        ["resume={home}/a run, 1=2/last.ckpt"],
        "{home}/a run, 1=2/last.ckpt is already at step 4; raise trainer.max_steps, which is 4.",
    ),
    "missing": (
        ["resume=no.ckpt"],
        "there is no checkpoint no.ckpt; give the path of a .ckpt file that train.py wrote.",
    ),
    "an empty variable": (["resume="], "resume= is empty; give a path after it, or leave resume out."),
    "an empty variable for init": (["init="], "init= is empty; give a path after it, or leave init out."),
    "lists of nothing": (
        ["resume={last}", "callbacks=null", "logger=[]", "metrics=null"],
        "{last} is already at step 4; raise trainer.max_steps, which is 4.",
    ),
    "no run": (
        ["resume={home}"],
        "{home} is a folder without checkpoints/last.ckpt; give a run's folder, or a .ckpt file.",
    ),
    "another task": (
        ["task=clip", "resume={last}"],
        "{last} is a checkpoint of task=diffusion; give one that train.py wrote with task=clip.",
    ),
    "another task by experiment": (
        ["experiment=autoencoder_fashion", "resume={last}"],
        "{last} is a checkpoint of task=diffusion; give one that train.py wrote with task=autoencoder.",
    ),
}


@pytest.mark.parametrize("case", LINES)
def test_what_stops_a_resume_is_said_in_one_line(run, tmp_path, monkeypatch, case):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(run.folder / "checkpoints", tmp_path / "run" / "checkpoints")
    shutil.copytree(run.folder / "checkpoints", tmp_path / "a run, 1=2")
    names = {"last": run.last, "folder": run.folder, "home": tmp_path}
    typed, line = LINES[case]
    stopped = go_on(tmp_path / "on", *(word.format(**names) for word in typed))
    errors = [text for text in stopped.stderr.splitlines() if text.startswith("error: ")]
    assert stopped.status == 1 and "Traceback" not in stopped.stderr
    assert errors == [f"error: {line.format(**names)}"]


def test_other_data_of_the_same_shape_are_refused(run, tmp_path):
    content = run.checkpoint()
    content["fingerprint"] = "0" * 64
    torch.save(content, tmp_path / "other.ckpt")
    resumed = go_on(tmp_path / "on", f"resume={tmp_path / 'other.ckpt'}", MORE)
    (line,) = [line for line in resumed.stderr.splitlines() if line.startswith("error: ")]
    assert resumed.status == 1 and line.startswith(f"error: these are other data than {tmp_path / 'other.ckpt'} was")
    assert "fingerprint 000000000000 there" in line and line.endswith(f"with init={tmp_path / 'other.ckpt'}.")


def test_a_checkpoint_that_names_no_data_is_not_compared_and_this_is_said(run, tmp_path):
    """Those of earlier versions; they keep no callbacks, no loggers and nothing of what is due either."""
    content = run.checkpoint()
    for key in ("fingerprint", "due"):
        content.pop(key, None)
    for key in ("callbacks", "logger", "output_dir", "left_out"):
        content["config"].pop(key)
    del content["config"]["task"]["adapter"]
    torch.save(content, tmp_path / "old.ckpt")
    typed = ("callbacks=[checkpoints]", "logger=[jsonl]")
    resumed = go_on(tmp_path / "on", f"resume={tmp_path / 'old.ckpt'}", MORE, *typed)
    assert resumed.status == 0, resumed.stderr
    assert f"{tmp_path / 'old.ckpt'} has no fingerprint of its data; they could not be compared" in resumed.stderr
    assert list(resumed.logged("train/loss")) == [5]


@pytest.mark.slow
def test_the_command_line_of_an_experiment_goes_on(tmp_path):
    """Its groups, its values, what was typed over them, added and left out; nothing is shown but the end."""
    typed = runs.toy(
        *("experiment=edm_cifar10", "data=fashion_mnist_10k", "data.batch_size=8", "model=unet", "optimizer.lr=0.02"),
        *("~conditioner.dropout", "+conditioner.dropout=0.2", "~callbacks.sample_grid", "+trainer.benchmark=false"),
        *("loss/time=loss_aware", "loss/time@loss.time.base=logit_normal", "callbacks=[checkpoints,sample_grid]"),
    )
    first = go_on(tmp_path / "first", *typed)
    assert first.status == 0, first.stderr
    again = go_on(tmp_path / "again", *typed, "trainer.max_steps=3", f"resume={first.folder}")
    assert again.status == 0, again.stderr
    shown = [line for line in again.stderr.splitlines() if " in the checkpoint, " in line]
    assert shown == ["trainer.max_steps: 2 in the checkpoint, 3 now"]
    short = go_on(tmp_path / "short", "trainer.max_steps=3", f"resume={first.folder}")
    assert runs.equal(short.checkpoint()["state_dict"], again.checkpoint()["state_dict"])


@pytest.mark.slow
def test_a_folder_elsewhere_that_a_callback_writes_to_is_named_again(tmp_path):
    """A file from somebody else may not choose where this machine is written to."""
    typed = f"callbacks.checkpoints.folder={tmp_path / 'elsewhere'}"
    run = runs.train(tmp_path / "run", runs.NO_EVALUATION, typed)
    file = tmp_path / "elsewhere" / "last.ckpt"
    go_on = [f"resume={file}", "trainer.max_steps=3", f"hydra.run.dir={tmp_path / 'again'}"]
    refused = runs.call("train.py", *go_on, cwd=tmp_path)
    where = f"callbacks.checkpoints.folder={tmp_path / 'elsewhere'}"
    assert refused.status == 1 and f"has {where}, outside of its run; name " in refused.stderr
    before = torch.load(file, weights_only=True)["global_step"]
    runs.succeeded(runs.call("train.py", *go_on, typed, cwd=tmp_path))
    assert (before, torch.load(file, weights_only=True)["global_step"]) == (2, 3) and not run.last.exists()
