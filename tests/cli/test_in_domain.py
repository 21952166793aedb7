"""``extractor=in_domain`` from the command line: trained once, the same in both programs, no part of the training."""

import numpy as np
import pytest

import oboro.extractor.in_domain as in_domain
from oboro.extractor.extractor import file_digest
from runs import call, equal, evaluate, evaluation, outputs, train

SMALL = ("extractor=in_domain", "extractor.views=512", "metrics=[frechet,accuracy]")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def measured(tmp_path_factory, cache):
    return train(tmp_path_factory.mktemp("measured"), *SMALL, f"data.cache_dir={cache}")


def weights(cache):
    (path,) = (cache / "extractors").glob("*.safetensors")
    return path


def test_the_run_says_what_it_does_and_the_protocol_has_the_digest(measured, cache):
    (line,) = [line for line in measured.stdout.splitlines() if "training a feature extractor" in line]
    assert line == (
        "training a feature extractor on the 10 classes of 9,976 images, once for these data: about a minute"
    )
    (protocol,) = [row["protocol"] for row in measured.rows if "protocol" in row]
    assert protocol["extractor"] == "in_domain" and protocol["extractor_digest"] == file_digest(weights(cache))
    assert protocol["extractor_task"] == "10 classes" and 0 <= protocol["extractor_accuracy"] <= 1
    assert set(measured.logged("fd_in_domain_20")) == {2} and set(measured.logged("accuracy_in_domain_20")) == {2}


@pytest.mark.slow
def test_evaluate_and_a_second_run_use_the_same_weights(measured, cache, tmp_path):
    """In evaluate.py the number of the run comes out again, to the last bit."""
    path, written = weights(cache), weights(cache).stat().st_mtime_ns
    found = evaluate(tmp_path, measured.last, "n=20", "chunk=8")
    again = train(tmp_path / "again", *SMALL, f"data.cache_dir={cache}")
    assert "training a feature extractor" not in again.stdout and path.stat().st_mtime_ns == written
    assert found["protocol"]["extractor_digest"] == file_digest(path)
    for name in ("fd_in_domain_20", "accuracy_in_domain_20"):
        assert found["values"][name] == measured.logged(name)[2] == again.logged(name)[2]


def test_training_is_the_same_bits_without_it(measured, tmp_path):
    plain = train(tmp_path, "metrics=[]").checkpoint()
    trained = measured.checkpoint()
    for part in ("state_dict", "ema", "optimizer_states"):
        assert equal(trained[part], plain[part]), part


def test_pictures_of_another_program_are_measured_by_what_was_learned(measured, cache, tmp_path):
    images = tmp_path / "images.npz"
    np.savez(images, images=np.random.default_rng(0).integers(0, 256, (30, 28, 28, 1), np.uint8))
    arguments = [f"images={images}", "data=fashion_mnist_10k", *SMALL[:2], "metrics=[frechet]", "accelerator=cpu"]
    arguments += ["data.validation=24", f"data.cache_dir={cache}"]
    run = call("evaluate.py", *outputs(tmp_path, *arguments), cwd=tmp_path)
    assert run.status == 0, run.stderr
    protocol = evaluation(tmp_path)["protocol"]
    assert protocol["extractor_digest"] == file_digest(weights(cache))
    assert "in_domain@" in run.stdout and "10 classes" in run.stdout
    assert in_domain.duration(200) == "about 3 minutes"
