"""A ControlNet from a trained checkpoint to samples: train.py model=controlnet, resume, sample.py, evaluate.py."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import runs
from oboro.restore.checkpoint import load_checkpoint
from oboro.restore.rebuild import averaged, build_task

N, SIDE = 64, 8
RUN = (*runs.TOY, runs.NO_EVALUATION, "metrics=[]", "optimizer.lr=0.01", "trainer.max_steps=4")


def blocks(i: int) -> np.ndarray:
    bits = np.random.default_rng(i).integers(0, 2, (SIDE // 2, SIDE // 2), dtype=np.uint8)
    return np.kron(255 * bits, np.ones((2, 2), dtype=np.uint8))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[str]:
    """Pictures of two classes with hints, as settings of the data."""
    folder, lines = tmp_path_factory.mktemp("pictures"), []
    for i in range(N):
        Image.fromarray(blocks(i)).save(folder / f"hint{i}.png")
        Image.fromarray(255 - blocks(i)).save(folder / f"{i}.png")
        lines.append({"file_name": f"{i}.png", "label": i % 2, "conditioning_image": f"hint{i}.png"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    shape = ["data.channels=1", f"data.resolution={SIDE}", "data.num_classes=2", "data.hint_channels=1"]
    return ["data=image_folder", f"data.root={folder}", *shape, "data.validation=16", "extractor=fashion"]


@pytest.fixture(scope="module")
def base(pictures, tmp_path_factory) -> Path:
    """The checkpoint of a network of labels on another schedule than the default, with another parameterization; random
    weights, since a fresh network answers zero."""
    chosen = ["conditioner=label", "schedule=cosine", "parameterization=v", "guidance.scale=2", runs.NO_EVALUATION]
    run = runs.train(tmp_path_factory.mktemp("base"), *pictures, "metrics=[]", *chosen)
    content = run.checkpoint()
    task = build_task(load_checkpoint(run.last))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        runs.randomise(task)
    content["state_dict"] = task.state_dict()
    content["ema"] = task.ema.state_dict(task.denoiser)
    torch.save(content, run.last)
    return run.last


def train(folder, *overrides: str) -> runs.Run:
    folder.mkdir(parents=True, exist_ok=True)
    return runs.call("train.py", *runs.outputs(folder, *RUN, *overrides), cwd=folder)


@pytest.fixture(scope="module")
def control(base, pictures, tmp_path_factory) -> runs.Run:
    arguments = (*pictures, "model=controlnet", f"model.base.path={base}", "callbacks.checkpoints.separate_from=0")
    return runs.succeeded(train(tmp_path_factory.mktemp("control"), *arguments))


def test_all_that_belongs_to_the_base_comes_with_its_path(control, base):
    """Schedule, parameterization, guidance and label; its weights are the default average and stay."""
    before, now = (load_checkpoint(path)["config"]["task"] for path in (base, control.last))
    assert now["denoiser"]["network"]["base"] == before["denoiser"]["network"]
    for part in ("schedule", "parameterization"):
        assert now["denoiser"][part] == before["denoiser"][part]
    assert now["guidance"] == before["guidance"] and now["sampler"] == before["sampler"]
    assert now["conditioner"]["parts"]["label"] == before["conditioner"]
    assert now["conditioner"]["parts"]["control"]["image_channels"] == 1
    trained = averaged(build_task(load_checkpoint(base)), base, None).network.state_dict()
    wrapped = build_task(load_checkpoint(control.last)).denoiser.network
    assert runs.equal(dict(wrapped.base.state_dict()), dict(trained))
    copied = wrapped.branches[0].copy.state_dict()
    assert not any(
        torch.equal(w, trained[name]) for name, w in copied.items() if name in ("first.weight", "first.bias")
    )


def test_the_checkpoint_has_the_base_by_digest_and_no_average_or_moment_of_it(control):
    content = control.checkpoint()
    assert list(content["frozen"]) == ["denoiser.network.base"]
    assert not any(".base." in name for name in content["state_dict"])
    (file,) = (control.folder / "checkpoints" / "frozen").glob("*.safetensors")
    assert file.stem == content["frozen"]["denoiser.network.base"]
    averages = next(iter(content["ema"]["averages"].values()))
    assert averages and all(name.startswith("network.branches.") for name in averages)
    assert len(content["optimizer_states"][0]["state"]) == len(averages)


def hint_of(tmp_path: Path, i: int) -> Path:
    path = tmp_path / f"hint{i}.png"
    Image.fromarray(blocks(1000 + i)).save(path)
    return path


def drawn(folder: Path, checkpoint: Path, *overrides: str) -> list[bytes]:
    return runs.sample(folder, checkpoint, "n=2", "sampler.steps=3", *overrides).images


@pytest.mark.slow
def test_control_counts_as_often_and_when_it_is_asked_to(control, base, tmp_path):
    """Not at all is the base with its averaged weights, to the last bit of every picture."""
    hint, alone = f"hint={hint_of(tmp_path, 0)}", drawn(tmp_path / "base", base)
    controlled = drawn(tmp_path / "a", control.last, hint)
    assert controlled != alone
    for nothing in ("control_strength=0", "control_interval=[0,0]"):
        assert drawn(tmp_path / "a", control.last, hint, nothing) == alone
    for all_of_it in ("control_strength=1", "control_interval=[0,1]"):
        assert drawn(tmp_path / "a", control.last, hint, all_of_it) == controlled
    for less in ("control_strength=0.3", "control_interval=[0.5,1]"):
        assert drawn(tmp_path / "a", control.last, hint, less) not in (alone, controlled)


@pytest.mark.slow
def test_several_are_added_up(control, tmp_path):
    """One twice at half the strength is the one, and each has a picture and a strength of its own."""
    one, other = (hint_of(tmp_path, i) for i in range(2))
    again = f"controls={control.last}"

    def pixels(name: str, *overrides: str) -> np.ndarray:
        drawn(tmp_path / name, control.last, *overrides)
        files = sorted((tmp_path / name / "images").iterdir())
        return np.stack([np.asarray(Image.open(file)) for file in files]).astype(int)

    once = pixels("once", f"hint={one}", "control_strength=0.8")
    halves = pixels("halves", again, f"hint={{control: {one}, control_1: {one}}}", "control_strength=0.4")
    second = pixels("second", again, f"hint={{control: {other}, control_1: {one}}}", "control_strength=[0,0.8]")
    both = pixels("both", again, f"hint={{control: {other}, control_1: {one}}}", "control_strength=0.8")
    assert abs(halves - once).max() <= 1 and np.array_equal(second, once)
    assert abs(both - once).max() > 10


@pytest.mark.slow
def test_what_control_cannot_do_is_said(control, base, tmp_path, pictures):
    hint = f"hint={hint_of(tmp_path, 0)}"
    cases = [
        ([base, "control_strength=0.5"], "control_strength is for a ControlNet and the checkpoint has none"),
        ([base, f"controls={control.last}"], "checkpoint has no ControlNet"),
        ([control.last, f"controls={base}", hint], f"controls={base} has no ControlNet"),
        ([control.last, f"controls={control.last}", hint], "does not say which of the pictures control, control_1"),
        ([control.last, hint, "control_strength=[1,1]"], "has 2 values for 1 ControlNet"),
        ([control.last, hint, "control_interval=[0.8,0.2]"], "give the smaller one first"),
        ([control.last, hint, "control_strength=-1"], "control_strength=-1"),
        ([control.last, hint, "control_interval=0.5"], "control_interval=0.5"),
        ([control.last], "set hint="),
    ]
    for (checkpoint, *arguments), said in cases:
        run = runs.call("sample.py", f"checkpoint={checkpoint}", "accelerator=cpu", "n=2", *arguments, cwd=tmp_path)
        assert run.status == 1 and said in run.stderr.replace("\n", " ") and "Traceback" not in run.stderr, run.stderr


@pytest.mark.slow
def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(control, base, pictures, tmp_path):
    """By the same command in the same folder, which composes the base again, and by the checkpoint alone."""
    beside = "callbacks.checkpoints.separate_from=0"
    arguments = (*pictures, beside, "model=controlnet", f"model.base.path={base}")
    runs.succeeded(train(tmp_path / "a", *arguments, "trainer.max_steps=2"))
    runs.succeeded(train(tmp_path / "a", *arguments, "resume=auto", "overwrite=false"))
    runs.succeeded(train(tmp_path / "b", *pictures, beside, f"resume={tmp_path / 'a'}", "trainer.max_steps=5"))
    whole = runs.succeeded(train(tmp_path / "c", *arguments, "trainer.max_steps=5"))
    for run, other in ((runs.Run(0, "", "", tmp_path / "a"), control), (runs.Run(0, "", "", tmp_path / "b"), whole)):
        for key in ("state_dict", "ema", "optimizer_states", "frozen", "global_step"):
            assert runs.equal(run.checkpoint()[key], other.checkpoint()[key]), key


@pytest.mark.slow
def test_what_cannot_be_trained_is_said(control, base, pictures, tmp_path):
    """Before anything is trained, in one line with the remedy."""
    on_base = ["model=controlnet", f"model.base.path={base}"]
    cases = [
        (["model=controlnet"], "model.base.path has no value; set model.base.path=<"),
        (["model=controlnet", "model.base.path=nowhere.ckpt"], "there is no checkpoint nowhere.ckpt"),
        (["model=controlnet", f"model.base.path={control.last}"], "cannot control a ControlNet"),
        ([*on_base, "parameterization=eps", "schedule=vp"], "predicts V and this run takes it for Eps"),
        ([*on_base, "conditioner=label"], "learns to follow the picture control and no condition gives it"),
        ([*on_base, "model.base.profile=none"], "has no average none"),
        ([*on_base, "adapter=lora"], "leave adapter out"),
        ([*on_base, "model.hint_factor=3"], "model.hint_factor=3"),
    ]
    for arguments, said in cases:
        run = train(tmp_path / "run", *pictures, *arguments)
        assert run.status == 1 and said in run.stderr.replace("\n", " "), f"{arguments}: {run.stderr}"
        assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_it_goes_with_other_data_goes_on_as_a_start_and_is_measured(control, base, pictures, tmp_path):
    """Labels are left out where the data have others. A start is the whole of it. What counted is in the protocol."""
    unlabelled = [*pictures, "data.num_classes=0", "model=controlnet", f"model.base.path={base}", "guidance=unguided"]
    run = runs.succeeded(train(tmp_path / "a", *unlabelled, "trainer.max_steps=1"))
    parts = load_checkpoint(run.last)["config"]["task"]["conditioner"]["parts"]
    assert list(parts) == ["control"] and "knows 2 classes and the data have none" in run.stderr.replace("\n", " ")
    run = runs.succeeded(train(tmp_path / "b", *pictures, f"init={control.last}", "optimizer.lr=0"))
    started, ended = load_checkpoint(control.last), load_checkpoint(run.last)
    averages = started["ema"]["averages"][next(iter(started["ema"]["averages"]))]
    for name, w in ended["state_dict"].items():
        if name.startswith("denoiser."):
            assert torch.equal(w, averages.get(name.removeprefix("denoiser."), started["state_dict"][name]))
    asked = ["n=4", "chunk=4", "sampler.steps=2", "metrics=[precision_recall]", "metrics.precision_recall.k=1"]
    found = runs.evaluate(tmp_path / "c", control.last, *asked, "control_strength=0.5")
    assert found["protocol"]["control"] == {"control": {"strength": 0.5, "interval": [0.0, 1.0]}}


@pytest.mark.slow
def test_several_are_measured_together(base, pictures, tmp_path):
    """One of strength 0 changes no number, and the protocol says which it was."""
    edges = train(tmp_path / "a", *pictures, "model=controlnet", f"model.base.path={base}", "hint=edges")
    last = runs.succeeded(edges).last
    asked = ["n=4", "chunk=4", "sampler.steps=2", "metrics=[psnr]"]
    alone = runs.evaluate(tmp_path / "b", last, *asked, "control_strength=0.5")
    added = runs.evaluate(tmp_path / "c", last, *asked, f"controls={last}", "control_strength=[0.5,0]")
    assert added["values"] == alone["values"] and len(added["protocol"]["control"]["control_1"]["digest"]) == 64
