"""What is said of mistakes in the words of the command line, to the letter; nothing is computed for it."""

import re

import pytest
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from omegaconf import OmegaConf

import runs
from hydra_plugins.oboro import short
from oboro.base.errors import UserError
from oboro.base.output import output_file, output_folder
from oboro.cli.device import check_device
from oboro.cli.ending import ending, sentence
from oboro.cli.run import warning_line

SCHEDULES = (
    "cosine|ddpm|discrete_cosine|interpolated|karras|laplace|linear|scaled_linear|shifted|sigmoid|sub_vp|ve|vp|"
    "zero_terminal_snr"
)
DATA = "part|root|channels|resolution|num_classes|batch_size|num_workers|flip|validation|test|left_out|seed|cache_dir"
LDM_UNET = (
    "in_channels|noise|num_classes|text_dim|image_channels|reads_end|reads_guidance_scale|widths|blocks|attention|norm|dropout|scale_shift|checkpointing|"
    "learned_variance"
)
# what is typed after python train.py, what is said
LINES = {
    "model=ldm_unet model.width=[32]": (
        f"there is no key model.width; model=ldm_unet has {LDM_UNET}. Did you mean model.widths?"
    ),
    "data.batchsize=4": (
        f"there is no key data.batchsize; data=fashion_mnist_10k has {DATA}. Did you mean data.batch_size?"
    ),
    "task.denoiser.netwrk=1": (
        "there is no key task.denoiser.netwrk; task.denoiser has network|schedule|parameterization. "
        "Did you mean task.denoiser.network?"
    ),
    "trainer.benchmark=true": (
        "trainer.benchmark is not among the values of trainer, and lightning.pytorch.Trainer takes it; "
        "add it with +trainer.benchmark=..."
    ),
    "callbacks.progress.refresh_every_n_steps=1": (
        "callbacks.progress.refresh_every_n_steps is not among the values of callbacks.progress, and "
        "oboro.callbacks.Progress takes it; add it with +callbacks.progress.refresh_every_n_steps=..."
    ),
    "callbacks=[checkpoints] callbacks.sample_grid.n=3": (
        "there is no key callbacks.sample_grid.n, since callbacks has no sample_grid; add sample_grid to "
        "callbacks=[...], or leave callbacks.sample_grid.n out."
    ),
    "metrics=[] metrics.kernel.n=3": (
        "there is no key metrics.kernel.n, since metrics has no kernel; add kernel to metrics=[...], or leave "
        "metrics.kernel.n out."
    ),
    "callbacks.sample_gird.n=3": (
        "there is no key callbacks.sample_gird.n; callbacks has throughput|sample_metrics|sample_grid|checkpoints|"
        "progress|summary. Did you mean callbacks.sample_grid.n?"
    ),
    "task=clip sampler.steps=3": "there is no key sampler.steps, since the run has no sampler; leave it out.",
    "trainr.max_steps=3": (
        "there is no key trainr.max_steps; `python {script} --cfg job` lists them. Did you mean trainer.max_steps?"
    ),
    "max_steps=3": "there is no key max_steps; `python {script} --cfg job` lists them. Did you mean trainer.max_steps?",
    "scale=2": "there is no key scale; `python {script} --cfg job` lists them. Did you mean guidance.scale?",
    "lr=1": "there is no key lr; `python {script} --cfg job` lists them. Did you mean optimizer.lr?",
    "sede=1": "there is no key sede; `python {script} --cfg job` lists them. Did you mean seed?",
    "seed.x=1": "there is no key seed.x; seed is one value.",
    "hydra.run.dri=x": "there is no key hydra.run.dri; hydra.run has dir. Did you mean hydra.run.dir?",
    "+sampler.steps=3": "there is sampler.steps already; leave out the plus.",
    "metrics=[fid]": (
        "metrics=fid does not exist; choose metrics=[...] of accuracy|clip_score|cmmd|consistency|density_coverage|"
        "diversity|edge_f1|frechet|frechet_per_class|frechet_spatial|inception_score|kernel|known_kept|lpips|"
        "memorization|perceptual_fashion|precision_recall|psnr|sliced_wasserstein|ssim."
    ),
    "logger=wandb": "logger=wandb does not exist; choose logger=[...] of jsonl|tensorboard.",
    "ema=em": "ema=em does not exist; choose ema=ema|ema_constant. Did you mean ema=ema?",
    "schedule=null": f"schedule=null chooses nothing, and a run needs one; choose schedule={SCHEDULES}.",
    "ema=false": "ema=false chooses nothing, and a run needs one; choose ema=ema|ema_constant.",
    "ema=[]": "ema=[] chooses nothing, and a run needs one; choose ema=ema|ema_constant.",
    "ema=": "ema= chooses nothing, and a run needs one; choose ema=ema|ema_constant.",
    "ema=1": "ema=1 does not exist; choose ema=ema|ema_constant.",
    "logger=true": "logger=true does not exist; choose logger=jsonl|tensorboard.",
    "ema.profiles={}": (
        "ema.profiles={{}} takes nothing out, since a mapping adds to what is there (std005, std010); take one out "
        "with '~ema.profiles.NAME', or leave it out."
    ),
    "+callbacks.x.y=1": (
        "there is no key callbacks.x.y, since callbacks has no x; add x to callbacks=[...], or leave callbacks.x.y out."
    ),
    "++callbacks.sample_gird.n=1": (
        "there is no key callbacks.sample_gird.n, since callbacks has no sample_gird; add sample_gird to "
        "callbacks=[...], or leave callbacks.sample_gird.n out."
    ),
    "+hydra.job.nmae=x": (
        "there is no key hydra.job.nmae; there are chdir, config, config_name, env_copy, env_set, id, name, num, "
        "override_dirname. Did you mean name?"
    ),
    "loss=reconstruction": (
        "loss is a Reconstruction and must be a Loss (a node with _target_) or a Game (a node with _target_). "
        "Choose loss=add|consistency|consistency_distillation|consistency_easy|consistency_latent|"
        "consistency_latent_scales|"
        "continuous_consistency|continuous_consistency_distillation|denoising|denoising_edm|denoising_fixed|"
        "denoising_logit_normal|denoising_min_snr|denoising_snr|dmd2|gan|hybrid|mean_flow|mean_flow_alpha|"
        "mean_flow_distillation|mean_flow_improved|progressive|reflow|shortcut|sid|truncated_consistency|variational."
    ),
    "+trainer.num_nodes=2 hydra.run.dir={here}/outputs": (
        "trainer.num_nodes=2 waits for 1 other machine and nothing has started this run there; start it with torchrun "
        "or srun on each, or leave trainer.num_nodes out."
    ),
    "init_profile=std005": (
        "init_profile=std005 chooses an average of the checkpoint in init, and there is none; add init=<a checkpoint>, "
        "or leave init_profile out."
    ),
    "traceback=5": "traceback=5 must be true or false.",
    "traceback=no seed=abc": "seed=abc must be a whole number from 0 to 4,294,967,295.",
    "sampler=[heun,ddim]": (
        "sampler=[heun,ddim] are several, and a run has one; choose one, or add -m and write sampler=heun,ddim."
    ),
    "guidance.weight=interval": "guidance.weight is a group within a group; write guidance/weight=interval.",
    "sampler.grid=karras": "sampler.grid is a group within a group; write sampler/grid=karras.",
    "loss.time=uniform": "loss.time is a group within a group; write loss/time=uniform.",
    "loss.coupling=ot": ("loss.coupling is a group within a group; write loss/coupling=independent|optimal_transport."),
    "sampler.steps=1,2": (
        "sampler.steps=1,2 are several values; add -m to run with each, or write sampler.steps=[1,2] for a list."
    ),
    "smapler=ddim": "there is no key smapler; `python {script} --cfg job` lists them. Did you mean sampler?",
    "--config-dir nowhere": (
        "there is no folder {here}/nowhere; give --config-dir one that holds options, such as sampler/mine.yaml."
    ),
    "model.channel_mult=[1,2": (
        "model.channel_mult=[1,2 cannot be read; close its brackets and quotes, or quote a text: "
        "'model.channel_mult=\"[1,2\"'."
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("typed", LINES)
def test_a_word_that_is_wrong_is_answered_to_the_letter(typed, tmp_path):
    run = runs.call("train.py", *typed.replace("{here}", str(tmp_path)).split(), cwd=tmp_path)
    expected = LINES[typed].format(script=runs.ROOT / "train.py", here=tmp_path)
    assert (run.status, run.stdout, run.stderr) == (1, "", f"error: {expected}\n")
    assert [path for path in tmp_path.rglob("*") if path.name != "outputs"] == []


@pytest.mark.parametrize("group", ["callbacks", "logger", "metrics"])
@pytest.mark.parametrize("nothing", ["[]", "null", "false", "''"])
def test_a_group_of_several_may_have_none(group, nothing, tmp_path):
    run = runs.call("train.py", f"{group}={nothing}", "--cfg", "job", "--package", group, cwd=tmp_path)
    assert runs.succeeded(run).stdout.split("\n", 1)[1].strip() == "{}"


@pytest.mark.parametrize("group", ["experiment", "debug", "hparams_search"])
def test_a_group_of_which_a_run_may_have_none_can_be_left_empty(group, tmp_path):
    for nothing in ("null", "false", "[]", "''"):
        runs.succeeded(runs.call("train.py", f"{group}={nothing}", "--cfg", "job", "--package", "seed", cwd=tmp_path))


def test_a_run_without_callbacks_or_loggers_trains_in_silence(tmp_path):
    """Lightning's own bar would show an epoch of none."""
    words = ["callbacks=null", "logger=false", "metrics=null"]
    arguments = [o for o in runs.toy(runs.NO_EVALUATION) if not o.startswith(("callbacks", "logger"))]
    run = runs.succeeded(runs.call("train.py", *runs.outputs(tmp_path / "run", *arguments, *words), cwd=tmp_path))
    assert (run.stdout, run.stderr) == ("", NO_CHECKPOINT.format(word="callbacks=[]"))


NO_CHECKPOINT = (
    "warning: {word} replaces all other callbacks, and no checkpoint will be written; add checkpoints to "
    "callbacks=[...].\n"
)


def test_what_makes_a_run_pointless_is_remarked(tmp_path):
    run = runs.train(tmp_path, "callbacks=[throughput]", "optimizer.lr=0", f"data.root={tmp_path}")
    root = (
        "warning: data.root is not read, since the images of data.part=test come with oboro (pictures of your own: "
        "data=image_folder); leave it out.\n"
    )
    rate = "warning: optimizer.lr=0 leaves the weights as they are; set a rate above 0 to train.\n"
    assert run.stderr == NO_CHECKPOINT.format(word="callbacks=[throughput]") + root + rate


def test_a_command_that_fails_before_it_works_leaves_no_folder(tmp_path):
    run = runs.call("train.py", *runs.toy("parameterization=eps"), cwd=tmp_path)
    assert run.status == 1 and list(tmp_path.glob("outputs/*")) == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    runs.call("train.py", *runs.outputs(tmp_path / "mine", *runs.toy("parameterization=eps")), cwd=tmp_path)
    assert (tmp_path / "mine/notes.txt").exists()
    (tmp_path / "before").mkdir()
    runs.call("train.py", *runs.outputs(tmp_path / "before", *runs.toy("parameterization=eps")), cwd=tmp_path)
    assert (tmp_path / "before/.hydra").exists()


def test_a_folder_that_has_gone_hides_no_answer(tmp_path):
    fault = "+callbacks.fault={_target_: injection.Fault, does: lose_folder, step: 2}"
    run = runs.call("train.py", *runs.outputs(tmp_path / "a", *runs.toy(runs.NO_EVALUATION, fault)), cwd=tmp_path)
    assert run.status == 1 and not (tmp_path / "a").exists()
    assert run.stderr.splitlines()[-1] == "error: rank 0 cannot read its samples; remedy it."


def test_a_short_run_has_its_loss_in_metrics_jsonl(tmp_path):
    run = runs.train(tmp_path, runs.NO_EVALUATION, "trainer.max_steps=3", "trainer.log_every_n_steps=50")
    assert list(run.logged("train/loss")) == [3]


def test_nothing_held_out_is_no_reason_for_a_warning(tmp_path):
    assert runs.train(tmp_path, runs.NO_EVALUATION, "data.validation=0").stderr == ""


@pytest.mark.parametrize(
    ("accelerator", "devices", "there_are", "line"),
    [
        ("gpu", 1, 0, "accelerator=gpu needs a device that this machine has not got; set {key}accelerator=auto."),
        ("cuda", 1, 0, "accelerator=cuda needs a device that this machine has not got; set {key}accelerator=auto."),
        ("gpu", 2, 1, "devices=2 are more than the 1 of this machine; set {key}devices=1."),
        ("auto", 3, 2, "devices=3 are more than the 2 of this machine; set {key}devices=2."),
        ("gpu", 2, 2, None),
        ("gpu", "auto", 2, None),
        ("cpu", 8, 0, None),
        ("auto", 8, 0, None),
    ],
)
@pytest.mark.parametrize("key", ["", "trainer."])
def test_devices_that_a_machine_has_not_got(accelerator, devices, there_are, line, key, monkeypatch):
    """A machine with so many GPUs of CUDA and none of Apple's; no machine of CI has any."""
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: there_are > 0))
    monkeypatch.setattr(CUDAAccelerator, "auto_device_count", staticmethod(lambda: there_are))
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: False))
    if line is None:
        check_device(accelerator, devices, key)
    else:
        with pytest.raises(UserError, match=f"^{re.escape(key + line.format(key=key))}$"):
            check_device(accelerator, devices, key)


def test_accumulation_prints_a_step_once(tmp_path):
    run = runs.train(tmp_path, "callbacks=[progress]", "trainer.accumulate_grad_batches=4", "trainer.max_steps=3")
    assert [line.split()[1] for line in run.stdout.splitlines() if line.startswith("step ")] == ["1/3", "2/3", "3/3"]


def test_one_callback_in_the_place_of_all_is_remarked(tmp_path):
    run = runs.train(tmp_path, "callbacks=throughput")
    assert run.stderr == (
        "warning: callbacks=throughput replaces all other callbacks, and no checkpoint will be written; to add one "
        "write +callbacks=throughput.\n"
    )


def test_a_sentence_has_one_full_stop():
    assert [sentence(text) for text in ("a", "a.", "a?", "a\n b...")] == ["a.", "a.", "a?", "a b..."]
    assert warning_line(UserWarning("deprecated\nthing"), UserWarning, "file.py", 3) == "warning: deprecated thing.\n"


def test_a_full_disk_or_a_name_too_long_is_a_mistake_of_the_user(tmp_path):
    with pytest.raises(SystemExit, match=r"cannot write .*File name too long"), ending():
        (tmp_path / ("x" * 300)).mkdir()


OUTPUTS = {
    (output_file, ""): "{here} is a folder; give the name of a file in it.",
    (output_file, "/file/a.ckpt"): "cannot write below {here}/file, which is a file; choose another file.",
    (output_file, "/file/b/a.ckpt"): "cannot write below {here}/file, which is a file; choose another file.",
    (output_file, "/" + "x" * 256): (
        f"cannot write {{here}}/{'x' * 256}, a name of more than 255 bytes; choose another file."
    ),
    (output_folder, "/file"): "{here}/file is a file; give the name of a folder.",
    (output_folder, "/file/b"): "cannot write below {here}/file, which is a file; choose another folder.",
    (output_file, "/new/a.ckpt"): None,
    (output_file, "/file"): None,
    (output_folder, "/new/b"): None,
    (output_folder, ""): None,
}


@pytest.mark.parametrize(("kind", "name"), OUTPUTS)
def test_what_cannot_be_written_is_said_before_work(kind, name, tmp_path):
    (tmp_path / "file").touch()
    expected = OUTPUTS[kind, name]
    if expected is None:
        assert kind(f"{tmp_path}{name}") == f"{tmp_path}{name}"
    else:
        with pytest.raises(SystemExit) as end, ending():
            kind(f"{tmp_path}{name}")
        assert end.value.code == f"error: {expected.format(here=tmp_path)}"


# the arguments of every plain command that writes, without its target
WRITING = {
    ("pack", "a.ckpt"): "is a folder",
    ("adapter", "export", "a.ckpt"): "is a folder",
    ("adapter", "merge", "a.ckpt"): "is a folder",
    ("import", "pipeline"): "is a folder",
    ("import-ldm", "a.safetensors", "a.yaml", "tokenizer"): "is a folder",
    ("export", "a.ckpt"): "is a file",
    ("onnx", "a.ckpt"): "is a file",
}


@pytest.mark.parametrize("typed", WRITING)
def test_every_command_that_writes_checks_its_target_first(typed, tmp_path):
    target = tmp_path / "target"
    target.mkdir() if WRITING[typed] == "is a folder" else target.touch()
    run = runs.call("oboro", *typed, str(target), cwd=tmp_path)
    assert run.status == 1 and f"error: {target} {WRITING[typed]}" in run.stderr and run.stderr.count("\n") == 1


def test_names_of_jobs_fit_a_file_system():
    assert short("a/b=1,c=2") == "a/b=1,c=2" and short("é" * 127) == "é" * 127
    long, other = "ü" * 200 + "/1", "ü" * 199 + "o/1"
    assert short(long) != short(other) and all(len(part.encode()) <= 255 for part in short(long).split("/"))
    assert short(long).endswith("/1") and short(long).startswith("ü" * 120 + "-")


@pytest.mark.parametrize("name", ["train", "sample", "edit", "evaluate", "detect"])
def test_help_says_what_each_value_at_the_root_means(name, tmp_path):
    run = runs.succeeded(runs.call("oboro", name, "--help", cwd=tmp_path))
    values, groups = run.stdout.split("groups and their options")
    file = OmegaConf.load(runs.ROOT / "conf" / f"{name}.yaml")
    several = {"metrics", "callbacks", "logger", "distance"}
    named = re.findall(r"^  (\w+)=", values, re.M)
    assert named == [key for key in file if key not in {"defaults", "hydra", *several}]
    meanings = re.split(r"^  \w+=\S+(?: needed\))?", values, flags=re.M)[1:]
    assert all(len(meaning.split()) > 2 for meaning in meanings), meanings
    assert re.search(r"^  sampler +adaptive ddim ", groups, re.M) and "sampler/grid " in groups
    assert ("\n  optimizer " in groups) is (name == "train") and list(tmp_path.iterdir()) == []


BEFORE_WORK = {
    "resume=": "resume= is empty; give a path after it, or leave resume out.",
    "output_dir=": "output_dir= must be text, and not empty.",
    "trainer.devices=[0]": "trainer.devices=[0] chooses among GPUs and this runs on CPUs; set",
    "trainer.val_check_interval=0": "trainer.val_check_interval=0 must be a whole number, 1 or more, or a number",
    "+trainer.limit_train_batches=0": "trainer.limit_train_batches=0 must be a whole number, 1 or more, or a number",
    "conditioner=text": "conditioner.encoder.path has no value; set conditioner.encoder.path=...",
    "data=image_folder": "data.root has no value; set data.root=...",
    "callbacks.checkpoints.folder={file}": "Checkpoints cannot write to {file} (File exists); give it another folder",
}


@pytest.mark.slow
def test_what_would_end_a_run_late_ends_it_early(tmp_path):
    file, wrong = tmp_path / "file", []
    file.touch()
    for typed, words in BEFORE_WORK.items():
        run = runs.call("train.py", *runs.toy(runs.NO_EVALUATION, "metrics=[]", typed.format(file=file)), cwd=tmp_path)
        if run.status != 1 or f"error: {words.format(file=file)}" not in run.stderr or "Traceback" in run.stderr:
            wrong.append((typed, run.stderr[-300:]))
    assert wrong == []
