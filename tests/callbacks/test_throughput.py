"""Where time goes, on a clock that moves only when told to."""

import pytest
import torch
from lightning import Callback
from lightning.pytorch.loggers import CSVLogger

import runs
from oboro.callbacks import Throughput
from oboro.callbacks.evaluation import Evaluation

FETCH, STEP, VALIDATION, EVALUATION = 1.0, 2.0, 40.0, 100.0


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", clock)
    return clock


class Slow(Evaluation):
    def __init__(self, clock):
        super().__init__(every_n_steps=3)
        self.clock = clock

    def evaluate(self, trainer, task):
        self.clock.now += EVALUATION


class Between(Callback):
    """Time passes between batches."""

    def __init__(self, clock):
        self.clock = clock

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        self.clock.now += FETCH


class Lines(CSVLogger):
    def __init__(self, folder):
        super().__init__(folder)
        self.lines = []

    def log_metrics(self, metrics, step=None):
        self.lines.append({"step": step, **metrics})


def run(clock, tmp_path, monkeypatch, *overrides, every=2, steps=6, accumulate=1):
    """Six steps; ``Between`` comes first, so that its time is outside of the step."""
    callback = Throughput(every_n_steps=every)
    often = [f"trainer.max_steps={steps}", "trainer.val_check_interval=null", *overrides]
    often += [f"trainer.accumulate_grad_batches={accumulate}"]
    trainer, task, data = runs.built(*often, callbacks=[Between(clock), callback, Slow(clock)])
    trainer.loggers = [Lines(tmp_path)]
    train, validate = task.training_step, task.validation_step

    def training_step(batch, batch_idx):
        clock.now += STEP
        return train(batch, batch_idx)

    def validation_step(batch, batch_idx):
        clock.now += VALIDATION
        return validate(batch, batch_idx)

    monkeypatch.setattr(task, "training_step", training_step)
    monkeypatch.setattr(task, "validation_step", validation_step)
    with torch.random.fork_rng(devices=[]):
        trainer.fit(task, data)
    lines = [line for line in trainer.loggers[0].lines if "images_per_second" in line]
    return callback, lines


def shares(line):
    return {k.removeprefix("time/"): v for k, v in line.items() if k.startswith("time/")}


def test_shares_are_those_of_the_clock_and_speed_leaves_evaluation_out(clock, tmp_path, monkeypatch):
    callback, lines = run(clock, tmp_path, monkeypatch)
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert [line["images_per_second"] for line in lines] == pytest.approx([8 / (FETCH + STEP)] * 3)
    for line in lines:
        assert set(shares(line)) == {"data", "step", "evaluation"}
        assert sum(shares(line).values()) == pytest.approx(1)
        assert shares(line)["data"] / shares(line)["step"] == pytest.approx(FETCH / STEP)
    evaluation = [shares(line)["evaluation"] for line in lines]
    busy = 2 * (FETCH + STEP)
    assert evaluation == pytest.approx([0, EVALUATION / (EVALUATION + busy), 0])  # the last one comes after the line
    seconds, steps = callback.total()
    assert (seconds, steps) == pytest.approx((6 * (FETCH + STEP), 6))


def test_validation_is_evaluation(clock, tmp_path, monkeypatch):
    _, lines = run(clock, tmp_path, monkeypatch, "++trainer.val_check_interval=1", every=1, steps=2)
    assert [line["images_per_second"] for line in lines] == pytest.approx([8 / (FETCH + STEP)] * 2)
    wall = 3 * VALIDATION + FETCH + STEP  # 24 images in batches of eight
    assert shares(lines[1])["evaluation"] == pytest.approx(3 * VALIDATION / wall)


def test_steps_are_optimizer_steps(clock, tmp_path, monkeypatch):
    _, lines = run(clock, tmp_path, monkeypatch, accumulate=2, steps=2, every=1)
    assert [line["step"] for line in lines] == [1, 2]
    assert [line["images_per_second"] for line in lines] == pytest.approx([8 / (2 * (FETCH + STEP))] * 2)
