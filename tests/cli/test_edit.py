"""edit.py from a checkpoint: files, conditions, chunks, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import runs
from oboro.cli.edit import Originals


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures of another size, in colour, with opacity, of 16 bits, and one of the model's own kind."""
    folder, g = tmp_path_factory.mktemp("pictures") / "mine", np.random.default_rng(0)
    folder.mkdir()
    Image.fromarray(g.integers(256, size=(28, 28), dtype=np.uint8)).save(folder / "a.png")
    Image.fromarray(g.integers(256, size=(40, 61, 3), dtype=np.uint8)).save(folder / "b.jpg")
    Image.fromarray(g.integers(256, size=(9, 5, 4), dtype=np.uint8)).save(folder / "c.png")
    Image.fromarray(g.integers(65536, size=(30, 30), dtype=np.uint16)).save(folder / "d.png")
    return folder


def edit(folder, checkpoint, *arguments) -> runs.Run:
    folder.mkdir(parents=True, exist_ok=True)
    common = [f"checkpoint={checkpoint}", "accelerator=cpu", "overwrite=true", "sampler.steps=3"]
    return runs.call("edit.py", *runs.outputs(folder, *common, *arguments), cwd=folder)


def edited(folder, checkpoint, *arguments) -> dict[str, np.ndarray]:
    runs.succeeded(edit(folder, checkpoint, *arguments))
    return {path.stem: np.asarray(Image.open(path)) for path in sorted((folder / "images").glob("*.png"))}


@pytest.mark.slow
def test_every_edit_writes_its_pictures_beside_their_sources(checkpoint, pictures, tmp_path):
    source = np.asarray(Image.open(pictures / "a.png"))
    one = (f"image={pictures / 'a.png'}", "source_label=2", "label=4")
    for name in ("sdedit", "inversion", "ddpm_inversion", "flow_edit", "rf_inversion"):
        made = edited(tmp_path, checkpoint, f"edit={name}", *one)
        assert list(made) == ["a"] and made["a"].shape == (28, 28) and (made["a"] != source).any(), name
        assert (tmp_path / "grid.png").exists()
    made = edited(tmp_path, checkpoint, "edit=prompt_to_prompt", "edit.cross_steps=0", *one)
    assert (made["a"] != source).any()
    ends = (f"image={pictures}", f"to={pictures / 'd.png'}", "edit=interpolation", "edit.frames=3")
    assert len(edited(tmp_path, checkpoint, *ends)) == 12
    drawn = edited(tmp_path, checkpoint, "edit=prompt_to_prompt", "edit.cross_steps=0", "label=[1,2]", "n=2")
    assert list(drawn) == ["000000", "000001"]


@pytest.mark.slow
def test_what_is_promised_of_an_edit_that_changes_nothing(checkpoint, pictures, tmp_path):
    source = np.asarray(Image.open(pictures / "a.png"))
    same = (f"image={pictures / 'a.png'}", "label=4", "source_label=4")
    for words in (("edit=sdedit", "edit.strength=0"), ("edit=flow_edit",), ("edit=ddpm_inversion",)):
        run = edit(tmp_path, checkpoint, *same, *words)
        assert "PSNR to them 106.0 dB" in runs.succeeded(run).stdout
        assert (np.asarray(Image.open(tmp_path / "images" / "a.png")) == source).all()


@pytest.mark.slow
def test_a_picture_is_edited_alone_in_chunks_of_any_company(checkpoint, pictures, tmp_path):
    common = ("edit=flow_edit", "source_label=1", "label=[3,5]", f"image={pictures}")
    whole = edited(tmp_path / "whole", checkpoint, *common, "chunk=2")
    assert list(whole) == ["a", "b", "c", "d"]
    run = runs.succeeded(edit(tmp_path / "fewer", checkpoint, *common, "chunk=2", "n=3"))
    fewer = {name: np.asarray(Image.open(tmp_path / "fewer" / "images" / f"{name}.png")) for name in "abc"}
    assert all((fewer[name] == whole[name]).all() for name in "abc") and "first 3 of 4 files in image" in run.stderr
    more = edited(tmp_path / "more", checkpoint, *common, "chunk=2", "n=6")
    assert list(more) == ["a-000", "a-001", "b-000", "b-001", "c", "d"]
    assert (more["a-000"] == whole["a"]).all() and (more["a-001"] != whole["a"]).any()


@pytest.mark.slow
def test_full_strength_draws_what_sample_draws(checkpoint, pictures, tmp_path):
    made = edited(tmp_path / "edit", checkpoint, f"image={pictures / 'a.png'}", "edit.strength=1", "label=4", "n=2")
    runs.sample(tmp_path / "sample", checkpoint, "n=2", "label=4", "sampler.steps=3")
    for k in range(2):
        assert (made[f"a-00{k}"] == np.asarray(Image.open(tmp_path / "sample" / "images" / f"00000{k}.png"))).all()


def test_names_of_pictures_that_are_called_alike():
    originals = Originals(torch.zeros(3, 1), [Path("x/a.png"), Path("y/a.png"), Path("y/b.png")], None)
    assert originals.names(3, 1) == ["a-000", "a-001", "b"]
    assert originals.names(1, 2) == ["a-000", "a-001"]


@pytest.mark.slow
def test_what_nobody_knows_of_the_pictures_is_said(checkpoint, pictures, tmp_path):
    for words, key in ((("edit=sdedit",), "no label is given"), (("edit=flow_edit", "label=3"), "no source_label")):
        run = runs.succeeded(edit(tmp_path, checkpoint, f"image={pictures / 'a.png'}", *words))
        assert key in run.stderr and "without the condition label" in run.stderr


REFUSED = {
    "no picture": (["edit=sdedit"], ["SDEdit changes a picture", "set image="]),
    "no such picture": (["image=nowhere.png"], ["there is no image=nowhere.png"]),
    "an empty folder": (["image={place}/empty"], ["holds no images"]),
    "a text for a picture": (["image={place}/text.png"], ["cannot be read"]),
    "no such class": (["image={pictures}", "label=12"], ["label=12", "0 to 9"]),
    "no such class of the source": (["image={pictures}", "source_label=-1"], ["source_label=-1", "0 to 9"]),
    "a text to a model of labels": (["image={pictures}", "prompt=a bag"], ["reads no text"]),
    "noise on the way up": (["image={pictures}", "edit=inversion", "sampler=ddim_ancestral"], ["without noise"]),
    "no Gaussian steps": (["image={pictures}", "edit=ddpm_inversion", "sampler=heun"], ["sampler=ddim_ancestral"]),
    "higher order": (["image={pictures}", "edit=flow_edit", "sampler=heun"], ["sampler=ddim"]),
    "no end": (["image={pictures}", "edit=interpolation"], ["set to="]),
    "an end of nothing": (["image={pictures}", "to={pictures}"], ["edit=interpolation"]),
    "no attention to a text": (["edit=prompt_to_prompt", "label=3"], ["edit.cross_steps=0"]),
    "a strength beyond": (["image={pictures}", "edit.strength=1.5"], ["edit.strength=1.5"]),
    "no such edit": (["image={pictures}", "edit=sdedti"], ["sdedit"]),
    "no step between": (["image={pictures}", "edit=flow_edit", "edit.sample_below=0.9"], ["edit.sample_below=0.9"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_edited_ends_in_one_line(case, checkpoint, pictures, tmp_path):
    arguments, mentions = REFUSED[case]
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    words = [word.format(place=tmp_path, pictures=pictures) for word in arguments]
    run = edit(tmp_path / "out", checkpoint, *words)
    assert run.status == 1 and len(run.stderr.strip().splitlines()) == 1, run.stderr
    assert all(text in run.stderr for text in mentions), run.stderr


@pytest.mark.slow
def test_a_condition_that_training_never_dropped_has_to_be_named(altered, pictures, tmp_path):
    def undropped(content):
        content["config"]["task"]["conditioner"]["dropout"] = 0.0

    path = altered(undropped)
    for words, key in (((), "label"), (("label=3",), "source_label")):
        run = edit(tmp_path, path, f"image={pictures}", "edit=flow_edit", *words)
        assert run.status == 1 and f"set {key}=" in run.stderr
    runs.succeeded(edit(tmp_path, path, f"image={pictures}", "edit=sdedit", "label=3"))
