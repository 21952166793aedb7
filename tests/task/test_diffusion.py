"""The validation loss is a frozen number about the averaged weights."""

import pytest
import torch
from lightning import Callback

import runs
from oboro.base.seeding import low_discrepancy
from oboro.ema import EMA
from oboro.task.noise_levels import LEVELS


@pytest.fixture(scope="module")
def parts():
    return runs.built()


@pytest.fixture
def validated(parts):
    """``validated()``: the logged values; ``validated("data.batch_size=5")``: on other data of the same images."""
    trainer, task, data = parts

    def validated(*overrides):
        other = runs.built(*overrides)[2] if overrides else data
        return trainer.validate(task, datamodule=other, verbose=False)[0]

    return validated


def test_validation_is_frozen(validated):
    first = validated()
    assert first == validated() and first["val/loss"] > 0


@pytest.mark.parametrize("batch", [1, 5, 24])
def test_validation_does_not_depend_on_the_batch(validated, batch):
    """Each image has a time and a noise of its own; shapes of batches change the last bits alone."""
    assert validated(f"data.batch_size={batch}") == pytest.approx(validated(), rel=1e-5)


def test_levels_of_noise_average_to_the_loss(validated):
    values = validated("data.validation=50")
    levels = (low_discrepancy(torch.arange(50)) * LEVELS).long()
    counts = torch.bincount(levels, minlength=LEVELS).tolist()
    assert min(counts) >= 10  # low discrepancy: every level gets its share
    mean = sum(n * values[f"val/loss_noise{k}"] for k, n in enumerate(counts)) / 50
    assert values["val/loss"] == pytest.approx(mean, rel=1e-6)


def test_validation_is_about_the_averaged_weights(parts, validated):
    _, task, _ = parts
    before = validated()
    kept = [p.detach().clone() for p in task.denoiser.parameters()]
    with torch.no_grad():
        for p in task.denoiser.parameters():
            p.fill_(torch.nan)
    after = validated()
    with torch.no_grad():
        for p, value in zip(task.denoiser.parameters(), kept, strict=True):
            p.copy_(value)
    assert after == before


def test_the_weights_come_back_when_validation_fails(parts, monkeypatch):
    trainer, task, data = parts
    before = {k: v.clone() for k, v in task.state_dict().items()}

    def fail(*_):
        assert not runs.equal(before, dict(task.state_dict()))  # the averages are in place
        raise FloatingPointError("no loss today")

    monkeypatch.setattr(task.loss, "at_quantile", fail)
    with pytest.raises(FloatingPointError):
        trainer.validate(task, datamodule=data, verbose=False)
    assert runs.equal(before, dict(task.state_dict()))


def test_the_weights_come_back_from_a_callback_that_fails_between_batches(parts):
    """Outside of the task's own code, and after it: the swap is of the whole validation."""
    _, task, data = parts

    class Fails(Callback):
        def on_validation_batch_end(self, *_):
            raise KeyboardInterrupt if self.interrupt else FloatingPointError("no loss today")

    before = {k: v.clone() for k, v in task.state_dict().items()}
    fails = Fails()
    for fails.interrupt, error in ((False, FloatingPointError), (True, SystemExit)):
        trainer, _, _ = runs.built(callbacks=[fails])
        with pytest.raises(error):
            trainer.validate(task, datamodule=data, verbose=False)
        assert runs.equal(before, dict(task.state_dict())) and not task.training


def test_averages_are_put_in_place_once_and_checkpoints_hold_the_raw_weights(parts, tmp_path, monkeypatch):
    """Written by a callback inside of validation, in a run that trains on as if there had been none."""
    swaps, written = [], []
    applied = EMA.applied
    monkeypatch.setattr(EMA, "applied", lambda self, *rest: swaps.append(1) or applied(self, *rest))

    class Writes(Callback):
        def on_validation_batch_end(self, trainer, task, *_):
            path = tmp_path / f"{len(written)}.ckpt"
            trainer.save_checkpoint(path, weights_only=False)
            raw = {name: task._raw.get(p, p).clone() for name, p in task.named_parameters()}
            differ = not runs.equal(raw, dict(task.named_parameters()))
            written.append((torch.load(path, weights_only=True)["state_dict"], raw, differ))

    trained = []
    for callbacks, interval in (([Writes()], 1), ([], None)):
        shown = {"val_check_interval": interval} if interval else {"limit_val_batches": 0}
        trainer, task, data = runs.built("optimizer.warmup_steps=0", callbacks=callbacks, max_steps=2, **shown)
        trainer.fit(task, data)
        trained.append({k: v.clone() for k, v in task.state_dict().items()})
    assert len(written) == 6 and len(swaps) == 2  # 24 images in batches of 8, at two steps
    assert all(runs.equal(state[name], value) for state, raw, _ in written for name, value in raw.items())
    assert [differ for *_, differ in written] == [False] * 3 + [True] * 3  # the average begins with the first weights
    assert runs.equal(*trained)


@pytest.mark.slow
def test_batch_size_counts_a_step_with_accumulation_as_one(tmp_path):
    """Two micro-batches of four teach almost what one batch of eight does: noise differs, images do not."""
    record = f"+callbacks.recorder={{_target_: recorder.Recorder, folder: {tmp_path}}}"
    seen = []
    for accumulate in (1, 2):
        runs.train(tmp_path / str(accumulate), f"trainer.accumulate_grad_batches={accumulate}", "callbacks=[]", record)
        recorded = torch.load(tmp_path / "rank0.pt", weights_only=True)
        assert len(recorded["index"]) == 2 * accumulate and recorded["averages"]["updates"] == 2
        times = torch.cat(recorded["t"])
        assert len(times.unique()) == len(times) == 16  # no micro-batch repeats the times of another
        seen.append(torch.cat(recorded["index"]))
    assert torch.equal(*seen)


def test_the_weight_of_an_image_multiplies_its_loss(parts):
    """And takes part in no draw."""
    _, task, data = parts
    data.setup()
    images = data.train.samples[[0, 1, 2, 3]].float() / 127.5 - 1
    batch = {"x": images, "index": torch.arange(4), "label": data.train.labels[:4]}

    def objective(more):
        return task.objective(batch | more, images, torch.Generator().manual_seed(0))

    weight = torch.tensor([2.0, 0.0, 0.5, 1.0])
    assert torch.equal(objective({"weight": weight}), objective({}) * weight) and objective({}).min() > 0
