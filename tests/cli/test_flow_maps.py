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
