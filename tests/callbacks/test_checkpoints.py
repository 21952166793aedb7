"""A run whose codec is frozen, with the codec in every checkpoint and with it once beside them."""

import shutil

import pytest

import runs
from oboro.cli import pack
from oboro.restore.checkpoint import forget_checkpoint, load_checkpoint

LEARNED = ("state_dict", "ema", "optimizer_states", "lr_schedulers", "global_step")
APART = "callbacks.checkpoints.separate_from=0"


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> tuple[str, ...]:
    codec = runs.train(tmp_path_factory.mktemp("codec"), runs.AUTOENCODER, "callbacks=[checkpoints]")
    every = "callbacks.checkpoints.every_n_steps=2"
    return ("codec=trained", f"codec.path={codec.last}", "trainer.max_steps=4", every, runs.NO_EVALUATION)


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory) -> runs.Run:
    return runs.train(tmp_path_factory.mktemp("whole"), *settings)


@pytest.fixture(scope="module")
def apart(settings, tmp_path_factory) -> runs.Run:
    return runs.train(tmp_path_factory.mktemp("apart"), *settings, APART)


def test_a_small_frozen_part_is_in_the_checkpoint(whole):
    checkpoint = whole.checkpoint()
    assert "frozen" not in checkpoint and not (whole.last.parent / "frozen").exists()
    assert any(name.startswith("codec.") for name in checkpoint["state_dict"])


def test_a_large_one_is_written_once_and_named_by_its_digest(whole, apart):
    checkpoint = apart.checkpoint()
    assert list(checkpoint["frozen"]) == ["codec"]
    assert not any(name.startswith("codec.") for name in checkpoint["state_dict"])
    (file,) = (apart.last.parent / "frozen").iterdir()
    assert file.name == f"{checkpoint['frozen']['codec']}.safetensors"
    assert file.stat().st_mtime_ns < apart.last.stat().st_mtime_ns
    joined, other = load_checkpoint(apart.last), whole.checkpoint()
    assert "frozen" not in joined
    assert all(runs.equal(dict(joined[key]), dict(other[key])) for key in ("state_dict", "ema"))


def test_with_self_contained_every_checkpoint_is_one_file(settings, tmp_path):
    run = runs.train(tmp_path, *settings, APART, "callbacks.checkpoints.self_contained=true", "trainer.max_steps=2")
    assert "frozen" not in run.checkpoint() and not (run.last.parent / "frozen").exists()


def test_samples_do_not_depend_on_where_the_codec_lies(whole, apart, tmp_path):
    arguments = ("n=2", "sampler=heun", "sampler.steps=2")
    first, second = (runs.sample(tmp_path / name, run.last, *arguments) for name, run in (("a", whole), ("b", apart)))
    assert first.images == second.images and len(first.images) == 2


@pytest.mark.slow
def test_training_goes_on_from_both_as_if_it_had_not_stopped(settings, whole, apart, tmp_path):
    """Also where the codec's own checkpoint has changed meanwhile: the run's is what counts."""
    more = ("trainer.max_steps=6", "optimizer.decay._target_=oboro.optimizer.Constant")
    first, second = (
        runs.train(tmp_path / name, *settings, *more, *choice, f"resume={run.last}")
        for name, run, choice in (("a", whole, ()), ("b", apart, (APART,)))
    )
    assert list((second.last.parent / "frozen").iterdir()) and not (first.last.parent / "frozen").exists()
    ours, expected = load_checkpoint(second.last), first.checkpoint()
    assert all(runs.equal(ours[key], dict(expected[key]) if key == "state_dict" else expected[key]) for key in LEARNED)


def test_a_missing_part_ends_sampling_and_resuming_in_one_line_and_a_packed_file_needs_none(
    settings, apart, tmp_path, capsys
):
    alone = tmp_path / "moved" / "last.ckpt"
    alone.parent.mkdir()
    shutil.copy(apart.last, alone)
    forget_checkpoint()
    for run in (
        runs.call("sample.py", *runs.outputs(tmp_path / "s", f"checkpoint={alone}", "accelerator=cpu"), cwd=tmp_path),
        runs.call("train.py", *runs.outputs(tmp_path / "t", *runs.toy(*settings, f"resume={alone}")), cwd=tmp_path),
    ):
        (error,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
        assert run.status == 1 and "keeps its codec in frozen/" in error and "Traceback" not in run.stderr
    packed = tmp_path / "moved" / "packed.ckpt"
    pack.main([str(apart.last), str(packed)])
    assert "packed.ckpt" in capsys.readouterr().out
    assert runs.sample(tmp_path / "p", packed, "n=1", "sampler=heun", "sampler.steps=2").images
    assert runs.equal(load_checkpoint(packed), load_checkpoint(apart.last))
    with pytest.raises(SystemExit, match="exists"):
        pack.main([str(apart.last), str(packed)])
