"""evaluate.py: samples against what they were drawn after, and pictures against those that they belong to."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import runs

SMALL = ["n=12", "chunk=6"]


def refusal(folder, *arguments: str) -> str:
    run = runs.call("evaluate.py", *arguments, "accelerator=cpu", cwd=folder)
    assert run.status == 1 and run.stderr.count("\n") == 1, run.stderr
    return run.stderr


@pytest.mark.slow
def test_wishes_that_the_model_cannot_fulfil_end_in_one_line(checkpoint, tmp_path):
    given = f"checkpoint={checkpoint}"
    cases = {
        ("metrics=[psnr]",): "psnr needs the picture that each sample's condition was made of; measure a model with",
        ("metrics=[diversity]",): "diversity needs several samples of each condition; set draws=4",
        ("metrics=[diversity]", "draws=5"): "draws=5 of each condition do not make n=12",
        ("metrics=[frechet]", "baselines=[mean]"): "baselines=[mean] is for samples that are drawn after pictures",
        ("metrics=[frechet]", "baselines=[median]"): "baselines",
        ("metrics=[psnr]", "measurement=mask_box"): "nothing draws towards the measurement",
        ("metrics=[frechet]", "truth=pictures"): "truth=",
    }
    for arguments, message in cases.items():
        assert message in refusal(tmp_path, given, *SMALL, *arguments), arguments


@pytest.mark.slow
def test_samples_of_a_measurement_and_their_baselines_stand_in_one_table(checkpoint, tmp_path):
    asked = ["guidance=ddnm", "measurement=downsample", "draws=2", "metrics=[frechet,psnr,consistency]"]
    asked += ["baselines=[copy,bicubic,nearest]", f"checkpoint={checkpoint}", "accelerator=cpu", *SMALL]
    run = runs.succeeded(runs.call("evaluate.py", *runs.outputs(tmp_path, *asked), cwd=tmp_path))
    found = runs.evaluation(tmp_path)
    assert list(found["values"]) == ["fd_fashion_12", "psnr_12", "consistency_12"]
    assert found["baselines"]["copy"]["consistency_12"]["value"] > 55, "but for rounding to 8 bits"
    assert all(found["baselines"][name].keys() == found["metrics"].keys() for name in ("copy", "bicubic", "nearest"))
    (heading,) = [line for line in run.stdout.splitlines() if "metric" in line]
    assert all(name in heading for name in ("value", "95 %", "copy", "bicubic", "nearest", "real data"))
    assert "samples above copy: psnr_12" in run.stdout and "2 of each condition, Downsample(factor=4" in run.stdout
    assert json.loads((tmp_path / "result.json").read_text())["values"] == found["values"]
    with Image.open(tmp_path / "compared.png") as picture:  # below each other what was measured, a sample, the truth
        width, height = picture.width // 6, picture.height // 3
        tiles = [[np.asarray(picture)[r * height :, c * width :][:height, :width] for c in range(4)] for r in range(3)]
    measured, sample, truth = tiles
    assert (measured[0] == measured[1]).all() and (truth[0] == truth[1]).all(), "two draws of one picture"
    assert (truth[1] != truth[2]).any() and (sample[0] != sample[1]).any()


@pytest.mark.slow
def test_a_model_of_hints_is_measured_on_held_out_pictures(tmp_path):
    """In training and afterwards the same; of training pictures a line says so."""
    shown = ["callbacks=[sample_metrics,checkpoints]", "callbacks.sample_metrics.conditions=held_out"]
    run = runs.train(tmp_path / "run", "hint=edges", "metrics=[edge_f1]", *shown, "callbacks.sample_metrics.n=16")
    arguments = ["n=16", "chunk=8", "conditions=held_out", "metrics=[edge_f1,frechet]"]
    found = runs.evaluate(tmp_path / "held_out", run.last, *arguments, "baselines=[shuffled]")
    assert run.logged("edge_f1_16") == {2: found["values"]["edge_f1_16"]}
    assert list(found["baselines"]["shuffled"]) == ["edge_f1_16"]
    seen = ["metrics=[edge_f1]", "n=16", "chunk=8", f"checkpoint={run.last}", "accelerator=cpu"]
    other = runs.succeeded(runs.call("evaluate.py", *runs.outputs(tmp_path / "seen", *seen), cwd=tmp_path))
    assert "edge_f1: samples are compared with training images" in other.stderr


@pytest.mark.slow
def test_pictures_are_compared_with_those_of_their_names(checkpoint, tmp_path):
    """Whatever their order and their kind of file; a picture without one would make it another number."""
    runs.sample(tmp_path / "samples", checkpoint, "n=4", "chunk=4")
    images, truth = tmp_path / "samples" / "images", tmp_path / "truth"
    truth.mkdir()
    for i, path in enumerate(sorted(images.iterdir())):
        with Image.open(path) as picture:
            picture.save(truth / f"{path.stem}.{'webp' if i % 2 else 'png'}", lossless=True)
    given = [f"images={images}", f"truth={truth}", f"checkpoint={checkpoint}", "metrics=[psnr,edge_f1]"]
    runs.succeeded(runs.call("evaluate.py", *runs.outputs(tmp_path / "same", *given, "accelerator=cpu"), cwd=tmp_path))
    found = runs.evaluation(tmp_path / "same")
    assert found["values"] == {"psnr_4": pytest.approx(106.02, abs=0.01), "edge_f1_4": 1}
    assert found["protocol"]["truth"] == str(truth) and found["protocol"]["truth_fingerprint"]
    assert "psnr needs the picture" in refusal(tmp_path, *(word for word in given if "truth=" not in word))
    (truth / "000001.webp").rename(truth / "1.webp")
    assert "has no 000001.png, one of 1 file of images=" in refusal(tmp_path, *given)
    shutil.rmtree(truth)
    assert "truth" in refusal(tmp_path, *given)
