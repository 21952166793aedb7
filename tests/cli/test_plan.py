"""python train.py plan=true: what it prints and leaves behind."""

import json

import pytest

import runs

ALL = "callbacks=[sample_metrics,sample_grid,checkpoints,throughput,progress,summary]"


def planned(folder, *overrides, callbacks="callbacks=[checkpoints]"):
    folder.mkdir()
    settings = [*runs.toy(callbacks, *overrides), "trainer.max_steps=40", "trainer.val_check_interval=20"]
    return runs.call("train.py", *runs.outputs(folder, *settings, "plan=true"), cwd=folder)


def test_a_plan_trains_nothing_and_says_what_training_takes(tmp_path, trained):
    run = runs.succeeded(planned(tmp_path / "plan", "plan_price=2", callbacks=ALL))
    folder = tmp_path / "plan"
    assert not [path for path in folder.rglob("*") if path.suffix in (".ckpt", ".png")]
    made = json.loads((folder / "plan.json").read_text())
    weights = sum(w.numel() for name, w in trained.checkpoint()["state_dict"].items() if name.startswith("denoiser"))
    assert (made["steps"], made["devices"], made["parameters"]) == (40, 1, weights)
    assert made["bytes"]["gradients"] == 4 * weights
    assert made["bytes"]["optimizer"] == pytest.approx(8 * weights, rel=0.05)
    assert {item["name"]: item["times"] for item in made["items"]} == {
        "validation": 2,
        "Checkpoints": 1,
        "SampleMetrics": 1,
        "SampleGrid": 1,
    }
    assert made["seconds"] > 40 * made["step_seconds"] > 0
    assert made["cost"] == pytest.approx(made["seconds"] / 1800)
    for words in ("SampleMetrics", "activations", f"{weights:,} weights are trained", "1 device for"):
        assert words in run.stdout


@pytest.mark.slow
def test_of_several_devices_each_has_its_part_of_the_batch(tmp_path):
    """What a device keeps of a sample of the batch is what one keeps, weights and their optimizer are on each."""
    run = runs.succeeded(planned(tmp_path / "two", "trainer.devices=2"))
    two = json.loads((tmp_path / "two" / "plan.json").read_text())
    runs.succeeded(planned(tmp_path / "one"))
    one = json.loads((tmp_path / "one" / "plan.json").read_text())
    assert two["devices"] == 2 and "on 2 devices" in run.stdout
    assert two["bytes"]["optimizer"] == one["bytes"]["optimizer"]
    assert two["bytes"]["activations"] == pytest.approx(one["bytes"]["activations"] / 2, rel=0.05)
    assert two["operations_per_sample"] == one["operations_per_sample"]
    wrong = planned(tmp_path / "three", "trainer.devices=3")
    assert wrong.status == 1 and "data.batch_size=8 cannot be shared by 3 devices" in wrong.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", [runs.GAN, runs.AUTOENCODER])
def test_runs_of_all_kinds_can_be_planned(kind, tmp_path):
    """Those whose losses ask for gradients inside, too."""
    run = runs.succeeded(planned(tmp_path / "run", kind))
    assert "weights are trained, with 0." in run.stdout


def test_a_run_that_goes_on_is_not_planned(tmp_path, checkpoint):
    run = planned(tmp_path / "run", f"resume={checkpoint}")
    assert run.status == 1 and "leave resume out" in run.stderr
