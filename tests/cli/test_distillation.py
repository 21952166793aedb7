"""task=distillation as a user starts it, and what every command makes of the student."""

import math
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate

import runs
from oboro.interop.onnx import AtLevel
from oboro.restore.checkpoint import load_checkpoint
from oboro.restore.rebuild import averaged, build_task

STEPS = ("sampler=ddim_consistency", "sampler.steps=4")
LOSSES = {
    "dmd2": ["loss=dmd2", "loss.every=2"],
    "sid": ["loss=sid"],
    "add": ["loss=add", "loss/features=perceptual", "extractor=raw"],
}


def typed(teacher: Path, *overrides: str) -> list[str]:
    return ["task=distillation", f"init={teacher}", *STEPS, *overrides]


@pytest.fixture(scope="module")
def teacher(checkpoint, tmp_path_factory) -> Path:
    """A model of random weights, in a place from which it may go."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.ckpt"
    path.write_bytes(checkpoint.read_bytes())
    return path


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory) -> runs.Run:
    """Three steps of DMD2, of which the first and the third update the student; then the teacher is gone."""
    asked = typed(teacher, *LOSSES["dmd2"], "trainer.max_steps=3", runs.NO_EVALUATION, "trainer.val_check_interval=3")
    run = runs.train(tmp_path_factory.mktemp("student"), *asked)
    teacher.rename(teacher.with_suffix(".away"))
    yield run
    if teacher.with_suffix(".away").exists():
        teacher.with_suffix(".away").rename(teacher)


@pytest.mark.slow
def test_a_checkpoint_holds_student_fake_and_head_and_no_teacher(student, checkpoint):
    content = student.checkpoint()
    whole = {name.partition(".network")[0] for name in content["state_dict"] if ".network" in name}
    assert whole == {"denoiser", "loss.fake"} and any(name.startswith("loss.head.") for name in content["state_dict"])
    assert set(content["optimizer_states"][0]["networks"]) == {"student", "fake", "discriminator"}
    names = {name.removeprefix("denoiser.") for name in content["state_dict"] if name.startswith("denoiser.")}
    assert set(content["ema"]["averages"]["std005"]) <= names and "averages" not in content
    assert content["ema"]["updates"] == 2  # of three steps
    assert len(content["config"]["task"]["loss"]["teacher"]["sha256"]) == 64
    assert math.isfinite(student.logged("val/loss")[3])
    assert {"train/fake", "train/discriminator", "train/distribution_matching", "train/generator"} <= set(
        student.rows[0]
    )


@pytest.mark.slow
def test_a_student_is_drawn_from_in_as_many_steps_as_one_likes_without_its_teacher(student, tmp_path):
    pictures = [
        runs.sample(tmp_path / str(steps), student.last, f"sampler.steps={steps}", "n=4").images for steps in (1, 2, 4)
    ]
    assert all(len(images) == 4 for images in pictures)
    assert pictures[0] != pictures[1] != pictures[2]
    assert runs.sample(tmp_path / "again", student.last, "n=4").images == pictures[2]


@pytest.mark.slow
def test_a_student_is_measured_exported_and_packed_without_its_teacher(student, tmp_path):
    result = runs.evaluate(tmp_path / "measured", student.last, "n=20", "sampler.steps=2")
    assert all(math.isfinite(value) for value in result["values"].values())
    packed = tmp_path / "packed.ckpt"
    runs.succeeded(runs.call("oboro", "pack", str(student.last), str(packed), cwd=tmp_path))
    assert runs.equal(dict(load_checkpoint(packed)["state_dict"]), dict(student.checkpoint()["state_dict"]))
    plain = runs.train(tmp_path / "plain", f"init={packed}", "task=diffusion", "loss=denoising", runs.NO_EVALUATION)
    assert not any(name.startswith("loss.") for name in plain.checkpoint()["state_dict"])


@pytest.mark.slow
def test_a_student_becomes_onnx_files(student, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    runs.succeeded(runs.call("oboro", "onnx", str(student.last), str(tmp_path / "onnx"), cwd=tmp_path))
    denoiser = averaged(build_task(load_checkpoint(student.last)), student.last, None)
    x, alpha, sigma = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0)), 1e-3, 1.0
    session = onnxruntime.InferenceSession(tmp_path / "onnx/denoiser_unconditional.onnx")
    asked = {"x_t": x, "alpha": torch.full((3,), alpha), "sigma": torch.full((3,), sigma)}
    (given,) = session.run(None, {name: value.numpy() for name, value in asked.items()})
    expected = AtLevel(denoiser, {})(*asked.values(), {})
    torch.testing.assert_close(torch.from_numpy(given), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_training_goes_on_with_the_same_teacher_and_not_without(student, teacher, tmp_path):
    going_on = [f"resume={student.last}", "trainer.max_steps=4"]
    run = runs.call("train.py", *runs.outputs(tmp_path / "gone", *going_on), cwd=tmp_path)
    assert run.status == 1 and "is not there, and training goes on from what it answers" in run.stderr.replace(
        "\n", " "
    )
    elsewhere = tmp_path / "elsewhere.ckpt"
    elsewhere.write_bytes(teacher.with_suffix(".away").read_bytes())
    asked = [*going_on, f"loss.teacher.path={elsewhere}"]
    runs.succeeded(runs.call("train.py", *runs.outputs(tmp_path / "on", *asked), cwd=tmp_path))
    changed = runs.call("train.py", *runs.outputs(tmp_path / "other", *asked, "sampler.steps=2"), cwd=tmp_path)
    assert changed.status == 1 and "it changes the function that is being learned" in changed.stderr.replace("\n", " ")


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(loss, checkpoint, tmp_path):
    asked = typed(checkpoint, *LOSSES[loss], runs.NO_EVALUATION, "model.dropout=0.3")
    straight = runs.train(tmp_path / "straight", *asked, "trainer.max_steps=4").checkpoint()
    cut = runs.train(tmp_path / "cut", *asked, "trainer.max_steps=3", "optimizer.warmup_steps=2")
    resumed = [f"resume={cut.last}", "trainer.max_steps=4"]
    runs.succeeded(runs.call("train.py", *runs.outputs(tmp_path / "on", *resumed), cwd=tmp_path))
    ended = runs.Run(0, "", "", tmp_path / "on").checkpoint()
    for key in ("state_dict", "ema", "optimizer_states"):
        assert runs.equal(ended[key], straight[key]), key


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(checkpoint, tmp_path):
    """Gradients are those of one process, so the weights are, to within rounding; a network rests in some steps."""
    asked = typed(checkpoint, *LOSSES["dmd2"], "loss.adversarial=0.1", runs.NO_EVALUATION, "trainer.max_steps=3")
    asked += ["optimizer.warmup_steps=0", "model.dropout=0.2"]
    one = runs.train(tmp_path / "one", *asked).checkpoint()
    two = tmp_path / "two"
    two.mkdir()
    devices = ["trainer.devices=2", "trainer.strategy=ddp"]
    runs.succeeded(runs.shell("train.py", *runs.outputs(two, *runs.toy(*asked, *devices)), cwd=two))
    other = runs.Run(0, "", "", two).checkpoint()
    start = build_task(load_checkpoint(checkpoint)).state_dict()
    moved = [one["state_dict"][name] - start[name] for name in start if name.startswith("denoiser.network")]
    assert max(change.abs().max() for change in moved if change.is_floating_point()) > 1e-4
    for name, weight in one["state_dict"].items():
        torch.testing.assert_close(other["state_dict"][name], weight, rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.slow
def test_the_published_recipe_trains_at_toy_size(cifar10_root, tmp_path):
    """A model of experiment=edm_cifar10, and its student, with everything but the sizes as shipped."""
    sizes = [f"data.root={cifar10_root}", f"data.cache_dir={tmp_path}", "data.validation=8", "metrics=[]"]
    base = runs.train(tmp_path / "base", "experiment=edm_cifar10", *sizes, runs.NO_EVALUATION)
    asked = ["task=distillation", "experiment=dmd2_cifar10", f"init={base.last}", *sizes, "data.batch_size=8"]
    run = runs.train(tmp_path / "run", *asked, *STEPS[:1], "sampler.steps=1", "trainer.val_check_interval=2")
    assert math.isfinite(run.logged("train/loss")[2]) and math.isfinite(run.logged("val/loss")[2])
    fake = instantiate(run.checkpoint()["config"]["task"]["loss"]["fake"], _convert_="all")
    assert type(fake.network).__name__ == "SongUNet" and type(fake.parameterization).__name__ == "EDM"


@pytest.mark.slow
def test_the_experiment_of_a_first_run_trains_at_toy_size(checkpoint, tmp_path):
    often = ["trainer.val_check_interval=2", "callbacks.sample_grid.every_n_steps=2", "metrics=[]"]
    run = runs.train(tmp_path / "run", *typed(checkpoint, "experiment=dmd2_fashion"), *often)
    assert math.isfinite(run.logged("train/loss")[2])
    assert (run.folder / "samples/step-00000002.png").is_file()


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (["task=diffusion", "loss=dmd2"], "add task=distillation"),
        (["loss=denoising"], "Choose loss=add|dmd2|sid"),
        (["sampler=heun"], "choose sampler=ddim_consistency"),
        (["loss=add", "loss/features=perceptual"], "choose loss/features=classifier"),
        (["loss=sid", "+optimizer@discriminator_optimizer=adamw"], "leave discriminator_optimizer out"),
        (["loss.teacher.path=nowhere.ckpt"], "nowhere.ckpt"),
        (["loss/time=loss_aware"], "loss/time=uniform"),
    ],
)
def test_what_cannot_be_distilled_is_said_before_anything_is_trained(change, remedy, checkpoint, tmp_path):
    run = runs.call("train.py", *runs.outputs(tmp_path, *runs.toy(*typed(checkpoint, *change))), cwd=tmp_path)
    assert run.status == 1 and remedy in run.stderr.replace("\n", " "), run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_a_student_is_no_teacher(student, tmp_path):
    run = runs.call("train.py", *runs.outputs(tmp_path, *runs.toy(*typed(student.last))), cwd=tmp_path)
    assert run.status == 1 and "name the model that it was made of" in run.stderr.replace("\n", " ")


@pytest.mark.slow
def test_without_a_model_to_start_from_there_is_no_student(tmp_path):
    run = runs.call("train.py", *runs.outputs(tmp_path, *runs.toy("task=distillation", *STEPS)), cwd=tmp_path)
    assert run.status == 1 and "init=<a checkpoint>" in run.stderr.replace("\n", " "), run.stderr
