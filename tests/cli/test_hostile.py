"""A checkpoint of somebody else is plain values to Hydra: nothing that it stores is a word to it."""

import copy

import pytest
import torch

import runs
from oboro.base.errors import UserError
from oboro.restore.plain import plain


def handler(proof) -> dict:
    """A logging configuration that makes a file when Hydra sets logging up."""
    make = {"()": "pathlib.Path.touch", "self": {"()": "pathlib.Path", "proof": str(proof)}}
    open_file = {"class": "logging.FileHandler", "filename": str(proof)}
    return {"version": 1, "handlers": {"a": open_file, "b": make}, "root": {"handlers": ["a"]}}


def place(*keys):
    """A change of a stored configuration: ``what(proof)`` goes to ``keys``."""

    def change(config, what):
        node = config
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = what

    return change


def payloads(proof) -> dict:
    """What is hidden, and where."""
    logging, here = handler(proof), {"hydra": {"job_logging": handler(proof)}}
    moved = [{"/sampler/grid@_global_.hydra.job_logging": "from_checkpoint"}, "_self_"]
    call = {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": [str(proof)]}}
    return {
        "a defaults list": [(("sampler", "defaults"), moved), (("sampler", "grid"), logging)],
        "a defaults list of the task's sampler": [
            (("task", "sampler", "defaults"), moved),
            (("task", "sampler", "grid"), logging),
        ],
        "a defaults list within": [(("task", "loss", "time", "defaults"), moved)],
        "a defaults list of the network": [(("task", "denoiser", "network", "defaults"), moved)],
        "hydra within": [(("task", "denoiser", "schedule", "hydra"), here["hydra"])],
        "a package": [(("task", "ema", "profiles", "x@_global_.hydra"), logging)],
        "a path of keys": [(("data", "a.b/../hydra"), logging)],
        "a factory": [(("guidance", "()"), "os.system"), (("task", "guidance", "()"), "os.system")],
        "arguments of instantiate": [(("task", "codec", "_args_"), [1])],
        "a partial": [(("task", "codec", "_partial_"), True)],
        "a number as a key": [(("metrics", 3), 1)],
        "an interpolation in the trainer": [(("trainer", "max_steps"), "${oc.env:HOME}")],
        "an interpolation in a callback": [(("callbacks", "checkpoints", "folder"), "${hydra:runtime.cwd}")],
        "a defaults list of the callbacks": [(("callbacks", "defaults"), moved)],
        "a callback of a run that goes on": [(("callbacks", "checkpoints"), call)],
        "a callback within one of a run that goes on": [(("callbacks", "checkpoints", "more"), call)],
        "a process of a run that goes on": [
            (("callbacks", "x"), {"_target_": "oboro.sweep.process.Process", "command": ["touch", str(proof)]})
        ],
        "a folder elsewhere of a run that goes on": [(("callbacks", "checkpoints", "folder"), str(proof))],
        "a way out of the folder of a run that goes on": [(("callbacks", "checkpoints", "folder"), "../../elsewhere")],
        "a logger of a run that goes on": [(("logger", "x"), call)],
        "a part of the trainer": [(("trainer", "defaults"), moved)],
        "deep": [(("task", "codec", "deep"), nested(100))],
    }


def nested(levels: int) -> dict:
    node: dict = {}
    for _ in range(levels):
        node = {"a": node}
    return node


TYPED = {
    "sample.py": ("checkpoint", ["n=1", "accelerator=cpu"]),
    "evaluate.py": ("checkpoint", ["n=8", "accelerator=cpu"]),
    "init": ("init", ["trainer.max_steps=1", "trainer.accelerator=cpu", runs.NO_EVALUATION]),
    "resume": ("resume", ["trainer.max_steps=3"]),
}


QUICK = ("a defaults list", "a factory", "a logger of a run that goes on", "a folder elsewhere of a run that goes on")
KINDS = [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in payloads("proof")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_stored_key_is_a_word_to_hydra(trained, tmp_path, kind):
    proof, path = tmp_path / "proof", tmp_path / "hostile.ckpt"
    content = copy.deepcopy(torch.load(trained.last, weights_only=True))
    for keys, what in payloads(proof)[kind]:
        place(*keys)(content["config"], what)
    torch.save(content, path)
    for script, (key, more) in TYPED.items():
        program = script if script.endswith(".py") else "train.py"
        folder = tmp_path / script
        folder.mkdir()
        run = runs.call(program, *runs.outputs(folder, f"{key}={path}", *more), cwd=folder)
        assert not proof.exists(), script
        assert "Traceback" not in run.stderr, run.stderr
        if script == "resume" or not kind.endswith("of a run that goes on"):  # the others build none of these
            words = ("do not use this file", "outside of its run", "damaged or no checkpoint at all")
            assert run.status == 1 and any(word in run.stderr for word in words), run.stderr


@pytest.mark.parametrize(
    "node",
    [
        {"defaults": []},
        {"a": [{"hydra": 1}]},
        {"a": {"b@c": 1}},
        {"a": {1: 2}},
        {"_convert_": "all"},
        {"a": "${b}"},
        {"a": "\\${b}"},
        {"a": (1, 2)},
        {"a": b"x"},
        nested(100),
    ],
)
def test_what_is_more_than_a_plain_value_is_refused(node):
    with pytest.raises(UserError, match="do not use this file"):
        plain(node, "x.ckpt")


def test_plain_values_stay_as_they_are():
    node = {"_target_": "a.B", "x-y_1": [1, 2.5, None, True, "a, b: {c}"], "inner": {"k": {}}}
    assert plain(node, "x.ckpt") == node and plain(node, "x.ckpt") is not node


def test_one_value_and_one_part_of_a_checkpoint_can_be_replaced_everywhere(trained, tmp_path):
    """With ``init=``, ``resume=`` and ``checkpoint=`` alike."""
    short = ["trainer.accelerator=cpu", "trainer.max_steps=1", runs.NO_EVALUATION, f"data.cache_dir={runs.cache_dir()}"]
    typed = ["model.dropout=0.5", "schedule=cosine", "sampler.steps=5", "loss/time=logit_normal", "sampler/grid=karras"]
    run = runs.call("train.py", *runs.outputs(tmp_path / "init", f"init={trained.last}", *short, *typed), cwd=tmp_path)
    assert run.status == 0, run.stderr
    task = runs.Run(0, "", "", tmp_path / "init").checkpoint()["config"]["task"]
    assert task["denoiser"]["network"]["dropout"] == 0.5 and task["denoiser"]["network"]["channels"] == 8
    assert task["denoiser"]["schedule"]["_target_"] == "oboro.schedule.Cosine"
    assert task["loss"]["time"]["_target_"] == "oboro.loss.time.LogitNormal"
    assert task["sampler"] == {
        "_target_": "oboro.sampler.Heun",
        **{
            k: v for k, v in trained.checkpoint()["config"]["sampler"].items() if k not in ("_target_", "steps", "grid")
        },
        "steps": 5,
        "grid": task["sampler"]["grid"],
    }
    assert task["sampler"]["grid"]["_target_"] == "oboro.sampler.grid.Karras"
    drawn = runs.sample(
        tmp_path / "drawn", trained.last, "n=2", "sampler.steps=1", "schedule=cosine", "sampler/grid=karras"
    )
    assert len(drawn.images) == 2
