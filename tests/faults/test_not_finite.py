"""Samples, averages and settings that are no numbers never become pictures or results."""

from math import inf, nan
from pathlib import Path

import pytest
import torch
import yaml

import runs
from oboro.base.annotation import bare, fitted, members
from oboro.base.errors import UserError
from oboro.base.ranges import Infinite
from oboro.base.signature import located, signature
from oboro.modality import Series, to_uint8

CONF = Path(__file__).parents[2] / "conf"


def targets(node):
    """Every class that a configuration names."""
    if isinstance(node, dict):
        yield from [node["_target_"]] if "_target_" in node else []
        node = list(node.values())
    for child in node if isinstance(node, list) else []:
        yield from targets(child)


def takes(annotation, value) -> bool:
    try:
        fitted(annotation, value)
    except ValueError:
        return False
    return True


def test_no_option_takes_a_number_that_is_none():
    """NaN nowhere; infinity, which YAML also reads in 1e400, where it says so."""
    files = [path for path in CONF.rglob("*.yaml") if "hydra" not in path.parts]
    classes = {target for path in files for target in targets(yaml.safe_load(path.read_text()))}
    numbers = 0
    for target in sorted(name for name in classes if not name.startswith("hydra.")):
        for name, annotation in signature(located(target)).arguments.items():
            if takes(annotation, object):  # anything at all: no number is meant
                continue
            numbers += takes(annotation, 0.5)
            endless = any(isinstance(m, Infinite) for member in members(annotation) for m in bare(member)[1])
            for wrong in (nan, *(() if endless else (inf,)), -inf, [nan], [0.5, inf], {"a": nan}, {"a": -inf}):
                assert not takes(annotation, wrong), (target, name, wrong)
    assert numbers > 50


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> runs.Run:
    return runs.train(tmp_path_factory.mktemp("trained"), runs.NO_EVALUATION)


@pytest.mark.parametrize("value", ["nan", ".inf", "1e400", "-inf"])
def test_a_scale_that_is_no_number_is_refused(value, trained, tmp_path):
    run = runs.call("sample.py", f"checkpoint={trained.last}", f"guidance.scale={value}", *here(tmp_path), cwd=tmp_path)
    assert run.status == 1 and run.stderr.startswith("error: guidance.scale=") and "must be a number" in run.stderr


def here(folder) -> list[str]:
    return [f"hydra.run.dir={folder / 'out'}", "accelerator=cpu", "n=4"]


def spoiled(trained, folder, factor: float) -> Path:
    """The checkpoint with one weight of its averages, and of no other, times ``factor``."""
    checkpoint = trained.checkpoint()
    for weights in checkpoint["ema"]["averages"].values():
        weights["network.skip_in.weight" if "network.skip_in.weight" in weights else next(iter(weights))] *= factor
    path = folder / "spoiled.ckpt"
    torch.save(checkpoint, path)
    return path


@pytest.mark.parametrize("script", ["sample.py", "evaluate.py"])
def test_samples_that_are_no_numbers_are_not_written_or_measured(script, trained, tmp_path):
    """Averages that are finite, and far too large."""
    path = spoiled(trained, tmp_path, 1e38)
    run = runs.call(script, f"checkpoint={path}", "guidance.scale=3", *here(tmp_path), cwd=tmp_path)
    assert run.status == 1, run.stdout
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert "4 of 4 samples hold NaN or infinity" in line and "guidance.scale" in line and "sampler.steps" in line
    assert not list((tmp_path / "out").glob("**/*.png")) and not (tmp_path / "out" / "evaluation.json").exists()


def test_samples_far_from_all_data_are_remarked_once(trained, tmp_path):
    run = runs.call(
        "sample.py", f"checkpoint={trained.last}", "guidance.scale=1e9", "chunk=2", *here(tmp_path), cwd=tmp_path
    )
    assert run.status == 0 and run.stderr.count("warning: samples reach ") == 1
    assert "lower guidance.scale, which is 1e+09" in run.stderr


def test_numbers_that_are_none_are_no_samples():
    images = torch.zeros(5, 1, 2, 2)
    images[1, 0, 1, 1], images[3] = nan, inf
    with pytest.raises(UserError, match="2 of 5 images"):
        to_uint8(images)
    series = Series(4, [0.0], [1e30])
    with pytest.raises(UserError, match="1 of 2 series"):
        series.to_stored(torch.tensor([[[1.0, 0, 0, 0]], [[1e20, 0, 0, 0]]]))


def fault(does: str, **settings) -> str:
    values = "".join(f", {name}: {value}" for name, value in settings.items())
    return f"+callbacks.fault={{_target_: injection.Fault, does: {does}{values}}}"


GRIDS = ("callbacks=[sample_grid,sample_metrics,checkpoints]", "callbacks.sample_grid.every_n_steps=1")
METRICS = ("callbacks.sample_metrics.every_n_steps=1", "metrics=[frechet]", "trainer.max_steps=3")


@pytest.mark.slow
@pytest.mark.parametrize("failing", ["grid", "evaluation"])
def test_training_goes_on_without_an_evaluation_that_fails_or_ends(failing, tmp_path):
    """In either case on the raw weights: those of a run in which nothing failed."""
    name = {"grid": "sample_grid", "evaluation": "sample_metrics"}[failing]
    common = (*GRIDS, *METRICS, fault("raise", when=failing, step=2))
    ended = runs.call("train.py", *runs.outputs(tmp_path / "a", *runs.toy(*common)), cwd=tmp_path)
    assert ended.status == 1 and "met the injected error" in ended.stderr
    on = runs.train(tmp_path / "b", *common, f"callbacks.{name}.stop_on_error=false")
    assert "failed after step 2 and training goes on without it: Injected" in on.stderr
    whole = runs.train(tmp_path / "c", *GRIDS, *METRICS)
    for part in ("state_dict", "ema", "optimizer_states"):
        assert runs.equal(on.checkpoint()[part], whole.checkpoint()[part])
    measured = [{row["step"] for row in run.rows if "metrics" in row} for run in (on, whole)]
    assert measured == [{1, 3} if failing == "evaluation" else {1, 2, 3}, {1, 2, 3}]


def test_a_run_whose_last_evaluation_failed_has_no_result(tmp_path):
    """An older number would be taken for that of the last weights."""
    last = fault("raise", when="evaluation", step=3)
    run = runs.train(tmp_path, *GRIDS, *METRICS, "callbacks.sample_metrics.stop_on_error=false", last)
    assert not (tmp_path / "result.json").exists() and run.status == 0


def test_averages_that_are_no_numbers_end_an_evaluation(tmp_path):
    task = runs.built()[1]
    first = task.ema.averages[task.ema.default][0]
    first.view(-1)[0] = nan
    raw = {name: p.detach().clone() for name, p in task.named_parameters()}
    with pytest.raises(UserError, match="averaged weights of the denoiser hold NaN"), task.averaged():
        pass
    assert runs.equal(raw, dict(task.named_parameters()))


def test_a_validation_that_is_no_number_is_loud(tmp_path):
    arguments = ("callbacks=[]", "trainer.val_check_interval=1", "+callbacks.spoil={_target_: injection.NoLoss}")
    run = runs.train(tmp_path, *arguments, "trainer.max_steps=1")
    assert "after step 1 validation gives no finite val/loss" in run.stderr and "from 1 of 24 samples" in run.stderr
