"""From a trained model to a student of few steps: the teacher's place, going on without it, what the curve needs."""

import shutil

import pytest
import torch
from PIL import Image

import runs
from oboro.cli.init import of_experiment, of_loss
from oboro.restore.checkpoint import load_checkpoint
from oboro.restore.frozen import digest
from oboro.restore.rebuild import averaged, build_task
from oboro.task.training_cost import training_evaluations

SHORT = [o for o in runs.toy(runs.NO_EVALUATION) if not o.startswith(("model.", "sampler", "optimizer"))]
DISTILLED = ("loss=consistency_distillation", "loss.curriculum.first=2", "loss.curriculum.last=4", "model.dropout=0.3")


@pytest.fixture(scope="module")
def teacher(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "teacher.ckpt"
    shutil.copy(checkpoint, path)
    return path


def trained(folder, *overrides):
    folder.mkdir(parents=True, exist_ok=True)
    return runs.call("train.py", *runs.outputs(folder, *SHORT, *overrides), cwd=folder)


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student")
    return runs.succeeded(trained(folder, f"init={teacher}", *DISTILLED, "trainer.max_steps=4"))


@pytest.mark.slow
def test_no_checkpoint_holds_the_teacher_and_samples_need_no_file_of_it(student, teacher, tmp_path):
    content, whole = student.checkpoint(), load_checkpoint(teacher)
    assert set(content["state_dict"]) == set(whole["state_dict"])
    assert set(content["ema"]["averages"]["std005"]) == set(whole["ema"]["averages"]["std005"])
    node = content["config"]["task"]["loss"]["teacher"]
    assert node["path"] == str(teacher)
    assert node["sha256"] == digest(averaged(build_task(whole), teacher, None).state_dict())
    assert content["config"]["task"]["sampler"]["eta"] == float("inf")  # in place of the teacher's own
    moved = teacher.rename(tmp_path / "elsewhere.ckpt")
    try:
        assert len(runs.sample(tmp_path / "drawn", student.last, "n=2", "sampler.steps=1").images) == 2
    finally:
        moved.rename(teacher)


@pytest.mark.slow
def test_a_student_goes_on_to_the_last_bit_from_a_teacher_that_has_moved(student, teacher, tmp_path):
    """With a curriculum that doubles in the middle of the run, and dropout on both sides of its loss."""
    half = runs.succeeded(
        trained(tmp_path / "half", f"init={teacher}", *DISTILLED, "trainer.max_steps=2", "loss.curriculum.total=4")
    )
    moved = teacher.rename(tmp_path / "elsewhere.ckpt")
    try:
        gone = trained(tmp_path / "gone", f"resume={half.last}", "trainer.max_steps=4")
        assert gone.status != 0 and "is not there" in gone.stderr and "loss.teacher.path=" in gone.stderr
        assert gone.stderr.count("\n") <= 2 and "Traceback" not in gone.stderr
        named = f"loss.teacher.path={moved}"
        whole = runs.succeeded(trained(tmp_path / "whole", f"resume={half.last}", "trainer.max_steps=4", named))
    finally:
        moved.rename(teacher)
    for key in ("state_dict", "ema", "optimizer_states"):
        assert runs.equal(whole.checkpoint()[key], student.checkpoint()[key]), key


@pytest.mark.slow
def test_another_teacher_is_refused(student, teacher, tmp_path):
    other = torch.load(teacher, weights_only=True)
    for weights in other["ema"]["averages"].values():
        next(iter(weights.values())).add_(1e-3)
    torch.save(other, tmp_path / "other.ckpt")
    run = trained(
        tmp_path / "run",
        f"resume={student.last}",
        "trainer.max_steps=5",
        f"loss.teacher.path={tmp_path / 'other.ckpt'}",
    )
    assert run.status != 0 and "is not the one that this run has learned from" in run.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("loss=consistency_distillation",), "start from its weights with init="),
        (("loss=consistency_distillation", "init={teacher}", "sampler=heun"), "choose sampler=ddim_consistency"),
        (("loss=truncated_consistency", "init={teacher}"), "goes on from a consistency model"),
        (("loss=progressive", "init={teacher}"), "sampler.steps=8"),
        (("loss=consistency", "loss.weight=gap", "init={teacher}"), "set loss.weight=angle"),
        (("loss=mean_flow", "loss.guidance_scale=3", "conditioner=unconditional"), "leave loss.guidance_scale out"),
        (("loss=mean_flow", "loss.guidance_scale=3", "conditioner.dropout=0"), "set conditioner.dropout=0.1"),
        (("loss=continuous_consistency", "loss.sigma_data=0.8"), "set loss.weighting.base.sigma_data=0.8"),
        (
            ("loss=progressive", "loss.steps=2", "sampler.steps=2", "init={teacher}", "schedule=karras"),
            "sampler/grid=uniform_to_data",
        ),
        (("loss=consistency_distillation", "init={teacher}", "guidance@loss.teacher.guidance=cfg_pp"), "single times"),
    ],
    ids=[
        *(
            "no teacher",
            "a sampler of means",
            "a denoiser where a jump is meant",
            "other steps",
            "no weight at the end",
        ),
        *("no condition", "never without", "another width", "another grid", "a guidance of steps"),
    ],
)
def test_what_cannot_be_learned_is_said_before_training(overrides, said, teacher, tmp_path):
    run = trained(tmp_path / "run", *(word.format(teacher=teacher) for word in overrides))
    assert run.status != 0 and said in run.stderr and "Traceback" not in run.stderr, run.stderr


@pytest.mark.slow
def test_a_student_of_some_steps_teaches_half_as_many_and_nothing_else(teacher, tmp_path):
    pd = ["loss=progressive", "trainer.max_steps=1"]
    typed = [*pd, "loss.steps=4", "loss.teacher_steps=3", "sampler.steps=4"]
    four = runs.succeeded(trained(tmp_path / "4", f"init={teacher}", *typed))
    two = [*pd, "loss.steps=2", "sampler.steps=2"]
    runs.succeeded(trained(tmp_path / "2", f"init={four.last}", *two))
    for words in ((*two, "loss.teacher_steps=4"), (*two, "loss.solver=heun"), DISTILLED):
        run = trained(tmp_path / "no", f"init={four.last}", *words)
        assert run.status != 0 and "makes 4 steps of the uniform grid" in run.stderr and "Traceback" not in run.stderr
        assert "choose loss=progressive loss.steps=2 loss.teacher_steps=2" in run.stderr


@pytest.mark.slow
def test_what_asks_for_means_refuses_a_student_and_what_draws_does_not(student, teacher, tmp_path):
    """Of a consistency model, and of one of four steps: neither is asked at other times, or for a mean."""
    pd = ["loss=progressive", "loss.steps=4", "sampler.steps=4", "trainer.max_steps=1"]
    four = runs.succeeded(trained(tmp_path / "four", f"init={teacher}", *pd))
    Image.new("L", (28, 28), 99).save(tmp_path / "a.png")
    jumps, makes = "jumps to the end of the flow and knows no means", "makes 4 steps of the uniform grid"
    weak = ["guidance=autoguidance", "n=2", f"guidance.weak.path={teacher}"]
    edit, detect = [f"image={tmp_path / 'a.png'}", "label=1"], [f"images={tmp_path}", "normals=12"]
    jump, steps = "sampler=ddim_consistency", "sampler.steps=4"
    asked = [
        (student, jumps, "sample.py", weak),
        (student, jumps, "evaluate.py", ["n=20", "bits_per_dim.n=2"]),
        (student, jumps, "edit.py", [*edit, jump, "edit=flow_edit", "source_label=2"]),
        (student, jumps, "detect.py", [*detect, "detector=denoising_error"]),
        (student, jumps, "detect.py", [*detect, "detector=likelihood"]),
        (student, None, "edit.py", [*edit, jump, "edit=sdedit"]),
        (student, None, "detect.py", [*detect, "detector=partial_diffusion", "detector.times=[0.4]"]),
        (four, makes, "sample.py", weak),
        (four, makes, "edit.py", [*edit, steps, "edit=inversion", "source_label=2"]),
        (four, makes, "edit.py", [*edit, steps, "edit=sdedit", "edit.strength=0.6"]),
        (four, None, "edit.py", [*edit, steps, "edit=sdedit", "edit.strength=0.5"]),
        (four, makes, "detect.py", [*detect, "detector=partial_diffusion"]),
    ]
    for k, (model, reason, script, words) in enumerate(asked):
        typed = [f"checkpoint={model.last}", "accelerator=cpu", *words]
        run = runs.call(script, *runs.outputs(tmp_path / str(k), *typed), cwd=tmp_path)
        refused = run.status == 1 and "Traceback" not in run.stderr and (reason or " ") in run.stderr
        assert refused if reason else run.status == 0, (k, run.stderr)


@pytest.mark.slow
def test_a_student_is_asked_at_times_that_it_has_learned(student, teacher, tmp_path):
    """Of DMD2 at those of its own steps, of TCM at noise above its transition, by whatever asks; and no others are
    looked for."""
    Image.new("L", (28, 28), 99).save(tmp_path / "a.png")
    game = ["task=distillation", "loss=dmd2", f"init={teacher}", "sampler.steps=2", "trainer.max_steps=2"]
    two = runs.succeeded(trained(tmp_path / "dmd2", *game))
    tcm = runs.succeeded(trained(tmp_path / "tcm", "loss=truncated_consistency", f"init={student.last}"))
    pd = ["loss=progressive", "loss.steps=2", "sampler.steps=2", "trainer.max_steps=1", f"init={teacher}"]
    few = runs.succeeded(trained(tmp_path / "pd", *pd))
    measured = ["n=20", "chunk=10", "metrics=[frechet]"]
    edit = [f"image={tmp_path / 'a.png'}", "label=1", "edit=sdedit"]
    detect = [f"images={tmp_path}", "normals=12", "detector=partial_diffusion"]
    for k, (model, script, words, reason) in enumerate(
        [
            (two, "sample.py", ["n=2", "sampler.steps=4"], "learned to draw at t=1, 0.5 alone"),
            (two, "sample.py", ["n=2", "sampler.steps=1"], None),
            (two, "evaluate.py", [*measured, "tune_times=1"], "leave tune_times out"),
            (few, "evaluate.py", [*measured, "tune_times=1"], "leave tune_times out"),
            (tcm, "sample.py", ["n=2", "sampler.steps=4"], "teaches noise of sigma / alpha = 1 and more"),
            (tcm, "sample.py", ["n=2"], None),
            (two, "edit.py", [*edit, "edit.strength=0.3"], "choose edit=sdedit edit.strength=0.5"),
            (two, "edit.py", [*edit, "edit.strength=0.5"], None),
            (two, "detect.py", [*detect, "detector.times=[0.4]"], "learned to draw at t=1, 0.5 alone"),
            (two, "detect.py", [*detect, "detector.times=[0.5]"], None),
            (tcm, "edit.py", [*edit, "edit.strength=0.3"], "from t=0.5 and above"),
        ]
    ):
        arguments = runs.outputs(tmp_path / str(k), f"checkpoint={model.last}", "accelerator=cpu", *words)
        run = runs.call(script, *arguments, cwd=tmp_path)
        refused = run.status == 1 and "Traceback" not in run.stderr and (reason or " ") in run.stderr
        assert refused if reason else run.status == 0, (k, run.stderr)


@pytest.mark.slow
def test_a_teacher_and_its_student_are_one_sweep_each_with_its_own_sampler(student, teacher, tmp_path):
    both = [f"checkpoint={teacher},{student.last}", "sampler.steps=1,2", "n=20", "chunk=10", "metrics=[frechet]"]
    run = runs.call("evaluate.py", "-m", *both, "accelerator=cpu", f"hydra.sweep.dir={tmp_path}", cwd=tmp_path)
    runs.succeeded(run)
    assert (tmp_path / "curve.png").exists()
    samplers = [runs.evaluation(tmp_path / str(k))["protocol"]["sampler"] for k in range(4)]
    assert [sampler.get("eta") for sampler in samplers] == [None, None, "inf", "inf"]
    assert [sampler["steps"] for sampler in samplers] == [1, 2, 1, 2]


def test_a_named_loss_brings_its_sampler_and_its_guidance():
    assert of_loss(["loss=consistency_latent", "init=x"]) == {"sampler", "guidance"}
    assert of_loss(["loss=denoising_edm", "init=x"]) == of_loss(["init=x"]) == set()
    assert of_experiment(["experiment=ect_cifar10", "init=x"]) == {"loss", "sampler", "guidance"}


@pytest.mark.slow
def test_training_evaluations_add_up_over_runs(student, teacher, tmp_path):
    """Two steps of eight images for the teacher; four for the student, of two evaluations and two of the teacher."""
    assert training_evaluations(load_checkpoint(teacher)) == 2 * 8
    assert training_evaluations(load_checkpoint(student.last)) == 2 * 8 + 4 * 8 * 4
    found = runs.evaluate(tmp_path / "one", student.last, "n=20", "chunk=10", "sampler.steps=1", "metrics=[frechet]")
    assert found["training_evaluations"] == 2 * 8 + 4 * 8 * 4


@pytest.mark.slow
def test_times_are_tuned_on_samples_of_another_seed(student, tmp_path):
    words = ["n=20", "chunk=10", "sampler.steps=2", "metrics=[frechet]", "tune_times=1"]
    arguments = runs.outputs(tmp_path, f"checkpoint={student.last}", "accelerator=cpu", *words)
    run = runs.succeeded(runs.call("evaluate.py", *arguments, cwd=tmp_path))
    found = runs.evaluation(tmp_path)
    listed = run.stdout.split("sampler.grid.times=[")[1].split("]")[0]
    times = [float(t) for t in listed.split(",")]
    assert found["protocol"]["seed"] == 0 and "of samples of the seed 1" in run.stdout
    again = runs.evaluate(
        tmp_path / "again", student.last, *words[:-1], "sampler/grid=times", f"sampler.grid.times=[{listed}]"
    )
    assert again["values"] == pytest.approx(found["values"], rel=1e-3) and times[-1] == 0 and len(times) == 3
