"""When evaluation happens, and what the callbacks that do it leave behind."""

from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch

import runs
from oboro.callbacks import Checkpoints, LatentStatistics, SampleGrid
from oboro.callbacks.best import Best, in_order
from oboro.callbacks.evaluation import Evaluation, MetricEvaluation
from oboro.modality.image import grid_image
from oboro.report.pictures import columns_for


class Noted(Evaluation):
    def __init__(self, every_n_steps):
        super().__init__(every_n_steps)
        self.steps = []

    def evaluate(self, trainer, task):
        self.steps.append(trainer.global_step)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_evaluation_comes_at_multiples_and_at_the_end_once(accumulate):
    """Micro-batches in which no optimizer step is done are not counted."""
    noted = {every: Noted(every) for every in (0, 1, 2, 3, 9)}
    overrides = ["trainer.max_steps=5", f"trainer.accumulate_grad_batches={accumulate}"]
    trainer, task, data = runs.built(*overrides, callbacks=noted.values())
    with torch.random.fork_rng(devices=[]):
        trainer.fit(task, data)
    assert {every: callback.steps for every, callback in noted.items()} == {
        0: [5],
        1: [1, 2, 3, 4, 5],
        2: [2, 4, 5],
        3: [3, 5],
        9: [5],
    }


@pytest.mark.slow
def test_the_best_checkpoint_is_the_one_with_the_lowest_value(tmp_path):
    """Steps without a value leave the best as it is."""
    scores = iter([{}, {"fd": 3.0}, {"fd": 2.0}, {"fd": 2.5}, {"fd": 1.5}, {"fd": 9.0}])

    class Next(MetricEvaluation):
        objective = None

        def evaluate(self, trainer, task):
            self.objective = next(iter(next(scores).items()), None)
            self.measured_at = trainer.global_step

    checkpoints = Checkpoints(str(tmp_path), every_n_steps=1)
    best = []

    class Watch(Noted):
        def evaluate(self, trainer, task):
            path = tmp_path / "best.ckpt"
            best.append(torch.load(path, weights_only=True)["global_step"] if path.exists() else None)
            assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == trainer.global_step

    callbacks = [Next(1), checkpoints, Watch(1)]
    trainer, task, data = runs.built("trainer.max_steps=6", callbacks=callbacks, enable_checkpointing=False)
    with torch.random.fork_rng(devices=[]):
        trainer.fit(task, data)
    assert best == [None, 2, 3, 3, 5, 5]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"best.ckpt", "last.ckpt", "evaluated.json"}  # nothing half written
    resumed = Checkpoints(str(tmp_path), every_n_steps=1)
    resumed.load_state_dict(checkpoints.state_dict())
    assert resumed.best == 1.5


class Scored(MetricEvaluation):
    """Measures ``scores`` one after the other, and keeps the weights that it measured."""

    objective = None

    def __init__(self, every_n_steps, scores, name="fd"):
        super().__init__(every_n_steps)
        self.scores, self.name, self.weights = iter(scores), name, {}

    def evaluate(self, trainer, task):
        self.objective, self.measured_at = (self.name, next(self.scores)), trainer.global_step
        self.weights[trainer.global_step] = {k: v.clone() for k, v in task.state_dict().items()}


def fit(*callbacks, steps):
    trainer, task, data = runs.built(f"trainer.max_steps={steps}", callbacks=callbacks, enable_checkpointing=False)
    with torch.random.fork_rng(devices=[]):
        trainer.fit(task, data)


@pytest.mark.slow
@pytest.mark.parametrize(("metrics", "checkpoints"), [(2, 3), (1, 0), (3, 1), (2, 2)])
def test_the_best_checkpoint_holds_the_weights_that_were_measured(tmp_path, metrics, checkpoints):
    """However often the last one is written; step 6 is the last, so both happen there."""
    scored = Scored(metrics, [5.0, 2.0, 3.0, 4.0, 4.0, 4.0])
    fit(scored, Checkpoints(str(tmp_path), checkpoints), steps=6)
    best = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert best["global_step"] == 2 * metrics
    assert runs.equal(dict(best["state_dict"]), scored.weights[2 * metrics])
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 6


def test_values_of_another_metric_are_no_rivals(tmp_path):
    """As where a run goes on with other metrics."""
    checkpoints = Checkpoints(str(tmp_path), 1)
    checkpoints.load_state_dict({"best": 0.5, "measure": "kd"})
    fit(Scored(1, [7.0, 9.0]), checkpoints, steps=2)
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["global_step"] == 1
    assert checkpoints.state_dict() == {"best": 7.0, "measure": "fd"}
    checkpoints.load_state_dict({"best": 0.5})  # of an earlier version
    assert checkpoints.best == 0.5


def test_a_value_that_is_no_number_is_never_the_best(tmp_path):
    """All comparisons with NaN are false, and nothing is lower than minus infinity."""
    checkpoints = Checkpoints(str(tmp_path), every_n_steps=1)
    fit(*in_order([Scored(1, [float("nan"), 3.0, float("nan"), 5.0, float("-inf")]), checkpoints]), steps=5)
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["global_step"] == 2 and checkpoints.best == 3.0


def test_checkpoints_come_before_what_looks_and_behind_what_changes_them_and_the_best_is_chosen_at_the_end():
    a, b, last, other = Scored(1, []), Scored(1, []), Checkpoints("x", 1), Noted(1)
    statistics, others = LatentStatistics(1), lightning.Callback()

    def names(*callbacks):
        return ["best" if isinstance(c, Best) and c.checkpoints is last else c for c in in_order(callbacks)]

    assert names(others, a, other, b, last, other) == [others, last, a, other, b, "best", other]
    assert names(last, a, statistics, b) == [a, statistics, last, b, "best"]
    assert names(a, last, others) == [last, a, "best", others]
    assert names(others, last, others, a) == [others, last, others, a, "best"] and names(last, others) == [last, others]
    assert names(statistics, a, last) == [statistics, last, a, "best"]
    assert names(other, last) == [last, other] and in_order([]) == []


def test_a_grid_shows_every_image_in_its_place():
    """Image i at row i // columns and column i % columns, enlarged by a whole factor, on white."""
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].mul(40).expand(5, 1, 28, 28)
    pixels = torch.from_numpy(np.asarray(grid_image(images, 3)).copy())
    tile = 28 * 3
    assert pixels.shape == (2 * (tile + 2) + 2, 3 * (tile + 2) + 2)
    for i in range(5):
        top, left = 2 + (i // 3) * (tile + 2), 2 + (i % 3) * (tile + 2)
        assert (pixels[top : top + tile, left : left + tile] == 40 * i).all()
    assert (pixels[0] == 255).all() and (pixels[2 + tile + 2 :, 2 + 2 * (tile + 2) :] == 255).all()


def test_columns_are_classes_where_there_are_few():
    assert [columns_for(80, classes) for classes in (10, 2, 16)] == [10, 10, 16]
    assert columns_for(64, 0) == columns_for(64, 1) == columns_for(64, 1000) == 8


def test_a_picture_leaves_mode_and_weights_alone_when_it_fails(tmp_path, monkeypatch):
    trainer, task, data = runs.built()
    data.setup()
    task.train()
    before = {k: v.clone() for k, v in task.state_dict().items()}
    monkeypatch.setattr(task, "generate", lambda *_: 1 / 0)
    place = SimpleNamespace(datamodule=data, precision_plugin=trainer.precision_plugin, is_global_zero=True)
    with pytest.raises(ZeroDivisionError):
        SampleGrid(str(tmp_path), every_n_steps=1, n=4).evaluate(place, task)
    assert task.training and runs.equal(before, dict(task.state_dict()))
    assert not list(tmp_path.iterdir())
