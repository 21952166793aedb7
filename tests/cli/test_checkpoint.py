"""What a checkpoint holds, and what a file that somebody sent may not do."""

import os
from pathlib import Path

import pytest
import torch

import runs
from oboro.base.errors import UserError
from oboro.cli.checkpoint import offer_checkpoint
from oboro.cli.run import FROM_CHECKPOINT, LAUNCHERS
from oboro.restore.checkpoint import load_checkpoint

PLAIN = (str, int, float, bool, type(None))


def leaves(value):
    if type(value) is dict:
        for key, child in value.items():
            assert type(key) is str
            yield from leaves(child)
    elif type(value) is list:
        for child in value:
            yield from leaves(child)
    else:
        yield value


def test_a_checkpoint_holds_tensors_and_plain_values(trained):
    checkpoint = torch.load(trained.last, weights_only=True)
    assert {"state_dict", "ema", "config", "optimizer_states", "global_step"} <= set(checkpoint)
    assert all(type(value) in PLAIN for value in leaves(checkpoint["config"]))
    assert all(type(v) is torch.Tensor for a in checkpoint["ema"]["averages"].values() for v in a.values())


def test_a_checkpoint_holds_no_interpolation_and_no_place_of_the_run(trained):
    """It is moved to other machines: what is needed there is resolved, the run's own folder is not in it."""
    values = [v for v in leaves(trained.checkpoint()["config"]["task"]) if isinstance(v, str)]
    assert values and not any("${" in value or str(trained.folder) in value for value in values)


def attack(place: str, proof: Path):
    """Ways to have ``touch proof`` run by whoever instantiates the configuration."""
    call = {"_target_": "os.system", "command": f"touch {proof}"}
    through_us = {**call, "_target_": "oboro.data.cache.os.system"}
    text = "${oc.create:'{_target_: os.system, command: touch " + f"{proof}}}'}}"
    hidden = {"value": (call,)}

    def change(content):
        task = content["config"]["task"]
        if place == "task":
            content["config"]["task"] = call
        elif place == "nested":
            task["denoiser"]["network"]["channel_mult"] = [1, {"deep": call}]
        elif place == "ema":
            task["ema"]["profiles"]["more"] = call
        elif place == "through a module of ours":
            task["sampler"] = through_us
        elif place == "interpolation":
            task["sampler"] = text
        elif place == "tuple":
            task["codec"]["more"] = hidden
        else:
            content["config"][place] = call

    return change


PLACES = ["task", "nested", "ema", "through a module of ours", "interpolation", "tuple"]
PLACES += ["data", "metrics", "extractor", "sampler", "guidance"]


@pytest.mark.parametrize("place", PLACES)
def test_a_configuration_that_calls_foreign_code_is_refused(altered, tmp_path, place):
    path = altered(attack(place, tmp_path / "proof"))
    with pytest.raises(UserError, match="do not use this file"):
        load_checkpoint(path)
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("script", ["sample.py", "evaluate.py", "train.py"])
def test_no_entry_point_runs_foreign_code(altered, tmp_path, script):
    path = altered(attack("nested", tmp_path / "proof"))
    arguments = runs.toy(f"resume={path}") if script == "train.py" else [f"checkpoint={path}", "accelerator=cpu"]
    run = runs.call(script, *runs.outputs(tmp_path / "run", *arguments), cwd=tmp_path)
    assert run.status == 1 and "os.system" in run.stderr and "do not use this file" in run.stderr
    assert not (tmp_path / "proof").exists()


class Bomb:
    def __init__(self, proof: Path):
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


def test_a_pickle_that_runs_code_is_refused(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "more": Bomb(tmp_path / "proof")}, tmp_path / "bomb.ckpt")
    for script, key in (("sample.py", "checkpoint"), ("evaluate.py", "checkpoint"), ("train.py", "resume")):
        more = runs.toy() if script == "train.py" else []
        arguments = runs.outputs(tmp_path / "run", *more, f"{key}={tmp_path / 'bomb.ckpt'}")
        run = runs.call(script, *arguments, cwd=tmp_path)
        assert run.status == 1 and run.stderr.startswith("error: ") and "damaged" in run.stderr
    assert not (tmp_path / "proof").exists()
    torch.load(tmp_path / "bomb.ckpt", weights_only=False)
    assert (tmp_path / "proof").exists()  # it would have


def test_what_is_no_checkpoint_is_refused(tmp_path):
    for name, content in {"list": [1], "foreign": {"state_dict": {}}}.items():
        torch.save(content, tmp_path / f"{name}.ckpt")
        with pytest.raises(UserError, match="not written by oboro"):
            load_checkpoint(tmp_path / f"{name}.ckpt")


def test_checkpoints_of_other_settings_go_together_where_the_setting_is_named(checkpoint, altered):
    other = altered(lambda content: content["config"]["sampler"].update(steps=7))
    both = f"checkpoint={checkpoint},{other}"
    with pytest.raises(UserError, match=r"differ in their sampler; .* or name sampler="):
        offer_checkpoint([both])
    offer_checkpoint([both, "sampler=ddim"])
    offer_checkpoint(["-m", both], launcher="processes")  # each job has its own
    for words in (["-m", both], [both], ["-m", both, "hydra/launcher=basic"]):
        with pytest.raises(UserError, match=r"differ in their sampler"):
            offer_checkpoint(words, launcher="basic" if len(words) == 2 else "processes")


def test_launchers_are_those_of_the_configuration(conf):
    for name in FROM_CHECKPOINT:
        chosen = "override hydra/launcher: processes" in (conf / f"{name}.yaml").read_text()
        assert chosen == (LAUNCHERS.get(name) == "processes")
