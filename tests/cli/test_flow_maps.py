"""From a denoiser to a flow map on the command line: train.py init=PATH loss=..., sample.py, and on from there."""

import runs

SHORT = [o for o in runs.toy(runs.NO_EVALUATION) if not o.startswith(("model.", "sampler", "optimizer"))]


def started(folder, checkpoint, *overrides):
    folder.mkdir()
    return runs.call("train.py", *runs.outputs(folder, *SHORT, f"init={checkpoint}", *overrides), cwd=folder)


def test_a_denoiser_becomes_a_flow_map(checkpoint, tmp_path):
    """By the name of the loss alone; it is drawn in one step, and what it becomes next goes on reading ends."""
    run = runs.succeeded(started(tmp_path / "map", checkpoint, "loss=mean_flow_distillation"))
    network = run.checkpoint()["config"]["task"]["denoiser"]["network"]
    assert network["reads_end"] is True
    assert run.logged("train/tangent_norm")[2] > 0
    assert any(key.startswith("denoiser.network.end.") for key in run.checkpoint()["state_dict"])
    one, two = (
        runs.sample(tmp_path / f"{steps}", run.last, "n=2", f"sampler.steps={steps}").images for steps in (1, 2)
    )
    assert one != two

    other = runs.succeeded(started(tmp_path / "denoiser", run.last, "loss=denoising", "sampler=heun"))
    assert other.checkpoint()["config"]["task"]["denoiser"]["network"]["reads_end"] is True


def test_without_an_end_the_option_is_named(checkpoint, tmp_path):
    run = started(tmp_path / "run", checkpoint, "loss=shortcut", "model.reads_end=false")
    assert run.status == 1
    assert "Shortcut teaches jumps to any end and UNet reads none; set model.reads_end=true" in run.stderr


def test_a_denoiser_becomes_a_student_of_many_scales_of_guidance(checkpoint, tmp_path):
    """By the names of loss and teacher; a scale that it has not learned is refused before anything is drawn."""
    scales = ["loss=consistency_latent_scales", "loss.teacher.guidance_scales=[2,5]"]
    run = runs.succeeded(started(tmp_path / "run", checkpoint, *scales))
    network = run.checkpoint()["config"]["task"]["denoiser"]["network"]
    assert network["reads_guidance_scale"] is True
    state = run.checkpoint()["state_dict"]
    assert state["denoiser.network.guidance_scale.mlp.2.weight"].any()
    assert len(runs.sample(tmp_path / "3", run.last, "n=2", "guidance.scale=3").images) == 2
    for wrong in ("guidance.scale=6", "guidance=unguided"):
        refused = runs.call("sample.py", f"checkpoint={run.last}", "n=2", wrong, cwd=tmp_path)
        assert refused.status == 1
        assert "the model has learned guidance of scales from 2 to 5 and is asked for" in refused.stderr
