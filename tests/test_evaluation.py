"""A number about samples: from the averaged weights, with training as it was afterwards."""

import pytest
import torch

import runs
from oboro import evaluation
from oboro.evaluation import Protocol
from oboro.metrics import Unmeasured


class Mean(Unmeasured):
    """The mean pixel, and all that was generated."""

    active = True

    def features(self, images):
        self.training.append(self.task.training)
        return images.flatten(1).float()

    def value(self, features, reference):
        self.rows = features
        return {f"mean_{len(features)}": features.mean().item()}


class Broken(Unmeasured):
    active = True

    def features(self, images):
        raise FloatingPointError("no features today")


@pytest.fixture(scope="module")
def parts():
    _, task, data = runs.built()
    data.setup()
    return task, data


@pytest.fixture
def measured(parts):
    """``measured(n=5, chunk=4)``: the value and the rows, in the order of their ids."""

    def measured(**protocol):
        task, data = parts
        metric = Mean()
        metric.task, metric.training = task, []
        value = evaluation.evaluate(task, metric, (), data, Protocol(**protocol))
        return value, metric.rows, metric.training

    return measured


def test_sample_i_is_row_i_whatever_the_number_of_samples(measured):
    """Chunks are of one shape, so the bits agree."""
    _, few, _ = measured(n=5, chunk=4)
    value, many, _ = measured(n=10, chunk=4)
    assert torch.equal(few, many[:5])
    assert value == {"mean_10": many.mean().item()}


def test_samples_come_from_the_averaged_weights(parts, measured):
    task, _ = parts
    _, averaged, _ = measured(n=4, chunk=4)
    kept = [p.detach().clone() for p in task.denoiser.parameters()]
    with torch.no_grad():
        for p in task.denoiser.parameters():
            p.fill_(torch.nan)
    try:
        _, without, _ = measured(n=4, chunk=4)
    finally:
        with torch.no_grad():
            for p, value in zip(task.denoiser.parameters(), kept, strict=True):
                p.copy_(value)
    assert torch.equal(averaged, without)
    _, other, _ = measured(n=4, chunk=4, ema=list(task.ema.profiles)[1])
    assert not torch.equal(averaged, other)


def test_training_mode_and_weights_come_back(parts, measured):
    task, data = parts
    for training in (True, False):
        task.train(training)
        before = {k: v.clone() for k, v in task.state_dict().items()}
        _, _, during = measured(n=2, chunk=2)
        assert during == [False] and task.training is training
        assert runs.equal(before, dict(task.state_dict()))
        with pytest.raises(FloatingPointError):
            evaluation.evaluate(task, Broken(), (), data, Protocol(n=2, chunk=2))
        assert task.training is training and all(m.training is training for m in task.modules())
        assert runs.equal(before, dict(task.state_dict()))


@pytest.mark.usefixtures("global_generator_unread")
def test_the_global_generator_is_left_alone(measured):
    measured(n=3, chunk=2)


def test_classes_are_drawn_as_often_as_they_are_in_the_data(parts):
    task, data = parts
    drawn = torch.bincount(task.conditioner.for_samples(range(2000), data.label_frequencies)["label"], minlength=10)
    assert (drawn / 2000 - data.label_frequencies).abs().max() < 0.003


def test_a_description_names_all_that_two_numbers_must_share(parts):
    task, data = parts
    said = evaluation.describe(task, Mean(), (), data, Protocol(n=5, seed=3, chunk=4))
    assert said["seed"] == 3 and said["chunk"] == 4 and said["ema"] == task.ema.default
    assert said["sampler"] == "Heun(steps=2)" and said["guidance"].startswith("Unguided(")
    assert evaluation.describe(task, Mean(), (), data, Protocol(n=5, ema="other"))["ema"] == "other"
