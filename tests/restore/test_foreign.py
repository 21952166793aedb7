"""Somebody else's checkpoint builds parts of a run from plain values, and takes no more memory than its weights."""

import tracemalloc
from contextlib import contextmanager, nullcontext
from copy import deepcopy

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

import runs
from oboro.base.errors import UserError
from oboro.restore.checkpoint import forget_checkpoint, load_checkpoint
from oboro.restore.memory import bounded
from oboro.restore.rebuild import build_task


def deep(levels: int):
    node = {}
    for _ in range(levels):
        node = {"a": node}
    return node


NETWORK, SAMPLER = "task.denoiser.network", "task.sampler"
PROCESS = {"_target_": "oboro.sweep.process.Process", "command": ["touch", "proof"]}
HOSTILE = {
    "defaults": (f"{SAMPLER}.defaults", [{"/sampler@_global_": "heun"}]),
    "defaults beside data": ("data.defaults", ["x"]),
    "hydra": ("guidance.hydra", {"job_logging": {}}),
    "a factory": (f"{SAMPLER}.()", "torch.hub.load"),
    "a factory in a mapping": ("task.ema.profiles.()", "torch.hub.load"),
    "defaults in a mapping": ("task.guidance.negative", {"defaults": 1}),
    "a package in a mapping": ("task.guidance.negative", {"_global_": 1}),
    "conversion": (f"{SAMPLER}._convert_", "all"),
    "partial": (f"{NETWORK}._partial_", True),
    "positional": (f"{NETWORK}._args_", [1]),
    "recursion": (f"{SAMPLER}._recursive_", False),
    "another argument": (f"{SAMPLER}.stepz", 3),
    "a process": ("sampler", PROCESS),
    "a process as network": (NETWORK, PROCESS),
    "a process in data": ("data.cache_dir", PROCESS),
    "a process among metrics": ("metrics.frechet", PROCESS),
    "a process as trainer": ("trainer", PROCESS),
    "a process in the trainer": ("trainer.strategy", PROCESS),
    "a schedule as sampler": ("sampler", {"_target_": "oboro.schedule.Linear"}),
    "a sampler as network": (NETWORK, {"_target_": "oboro.sampler.DDIM"}),
    "a function": (NETWORK, {"_target_": "oboro.restore.checkpoint.load_checkpoint", "path": "x"}),
    "a text as channels": (f"{NETWORK}.channels", "8"),
    "many channels": (f"{NETWORK}.channels", 10**6),
    "many levels": (f"{NETWORK}.channel_mult", [1] * 10**4),
    "more levels": (f"{NETWORK}.channel_mult", [1] * 10**5),
    "many blocks": (f"{NETWORK}.blocks", 10**5),
    "many steps": (f"{SAMPLER}.steps", 10**9),
    "a number of 400 digits": ("seed", 10**400),
    "a fraction as seed": ("seed", 0.5),
    "a long text": ("data.root", "x" * 10**7),
    "a long list": (f"{SAMPLER}.grid", [0] * 10**6),
    "deep": (f"{SAMPLER}.grid", deep(300)),
    "no text as a key": ("task.guidance.negative", {1: 1}),
    "a value that is missing": (f"{SAMPLER}.steps", "???"),
    "a list as class": ("task._target_", ["os.system"]),
    "a number as class": (f"{SAMPLER}._target_", 3),
    "an interpolation": ("seed", "${oc.env:HOME}"),
    "a precision": ("trainer.precision", "none"),
}


def with_value(content, key: str, value):
    changed = {**content, "config": deepcopy(content["config"])}
    *path, last = key.split(".")
    node = changed["config"]
    for name in path:
        node = node[name]
    node[last] = value
    return changed


def test_as_it_is_it_loads(content, tmp_path):
    torch.save(content, tmp_path / "last.ckpt")
    build_task(load_checkpoint(tmp_path / "last.ckpt"))


LONG = {"a long list", "more levels"}  # seconds, most of them of the measuring of memory


LARGE = LONG | {"many channels", "many levels", "many blocks", "a number of 400 digits", "a long text", "deep"}


@contextmanager
def peak(measured: bool):
    """The bytes that Python takes in the block, where they are ``measured``, which makes it several times slower."""
    taken = []
    if measured:
        tracemalloc.start()
    yield taken
    if measured:
        taken.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()


@pytest.mark.parametrize("attack", [pytest.param(a, marks=pytest.mark.slow) if a in LONG else a for a in HOSTILE])
def test_a_hostile_configuration_is_refused_in_one_line(content, tmp_path, monkeypatch, attack):
    monkeypatch.chdir(tmp_path)
    torch.save(with_value(content, *HOSTILE[attack]), "last.ckpt")
    with peak(attack in LARGE) as taken, pytest.raises(UserError) as error:
        load_checkpoint("last.ckpt")
    assert str(error.value).startswith("last.ckpt ") and str(error.value).endswith(("file.", "copy it anew."))
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000
    assert max(taken, default=0) < 200e6 and not (tmp_path / "proof").exists()


# what the part of a file is, and what the line is about
FORMS = {
    "config": [None, [1], "x", {}, {"task": "x"}, {1: 2}],
    "state_dict": [7, None, [], {"a": 1}, {1: torch.ones(1)}],
    "ema": ["x", {}, {"updates": "1", "averages": {}}, {"updates": 1, "averages": {"a": {"b": 1}}}],
    "averages": ["x", {"a": 1}],
    "modality": ["x", []],
    "frozen": [3, ["a"]],
    "global_step": ["4", -1, True, 10**30, 1.5, None],
    "fingerprint": [3],
    "loops": ["x"],
    "callbacks": [[]],
    "optimizer_states": ["x", [1], {}],
    "lr_schedulers": ["x", [None]],
}


@pytest.mark.parametrize("key", FORMS)
def test_a_part_of_another_form_is_refused_in_one_line(content, tmp_path, key):
    file = tmp_path / "last.ckpt"
    for value in FORMS[key]:
        torch.save({**content, key: value}, file)
        with pytest.raises(UserError) as error:
            load_checkpoint(file)
        line = f"{file} is not what train.py writes: its {key} is of another form; use another .ckpt file."
        assert str(error.value) == line, value
        forget_checkpoint()


def test_a_file_without_a_step_is_refused(content, tmp_path):
    torch.save({k: v for k, v in content.items() if k != "global_step"}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"it has no global_step; give a \.ckpt file"):
        load_checkpoint(tmp_path / "last.ckpt")


def test_averages_of_another_shape_are_not_broadcast(content, tmp_path):
    ema = deepcopy(content["ema"])
    for average in ema["averages"].values():
        average.update({name: weight[..., :1] for name, weight in average.items()})
    torch.save({**content, "ema": ema}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="averages of another model"):
        build_task(load_checkpoint(tmp_path / "last.ckpt"))


@pytest.mark.parametrize("averaged", [False, True])
def test_a_run_that_has_diverged_is_not_drawn_with(content, tmp_path, averaged):
    """NaN becomes a black picture in uint8, and a metric of those is a number like any other."""
    changed = deepcopy(content)
    weights = changed["ema"]["averages"]["std005"] if averaged else changed["state_dict"]
    name = next(name for name in weights if name.endswith("first.weight"))
    weights[name] = weights[name] * float("nan")
    torch.save(changed, tmp_path / "last.ckpt")
    words = " averaged as std005" if averaged else ""
    with pytest.raises(UserError, match=rf"has diverged: .*{name}{words} is not finite; use an earlier one"):
        build_task(load_checkpoint(tmp_path / "last.ckpt"))


def test_a_model_much_larger_than_its_weights_is_not_built(content, tmp_path):
    """4 × 10⁹ values would be asked for: widths that are each allowed."""
    changed = with_value(content, f"{NETWORK}.channels", 4096)
    torch.save(with_value(changed, f"{NETWORK}.channel_mult", [1, 64]), tmp_path / "last.ckpt")
    with pytest.raises(InstantiationException, match="many times larger than its weights; do not use this file"):
        build_task(load_checkpoint(tmp_path / "last.ckpt"))


def test_counting_memory_changes_no_weight(content):
    """What is drawn at the start is the same, bit for bit."""
    states = []
    for counted in (nullcontext(), bounded({}, "the checkpoint")):
        torch.manual_seed(0)
        with counted:
            states.append(dict(instantiate(content["config"]["task"], _convert_="all").state_dict()))
    assert runs.equal(*states)
