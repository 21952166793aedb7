"""Numbers about samples: from the averaged weights, with training as it was afterwards."""

from copy import deepcopy
from types import MappingProxyType

import pytest
import torch
from torch import nn

import runs
from oboro.evaluate.evaluator import Evaluator
from oboro.evaluate.held_out import HeldOut
from oboro.evaluate.protocol import Protocol, digest
from oboro.evaluate.result import warnings, with_spread
from oboro.extractor import Extractor
from oboro.guidance import DDNM, Autoguidance, ClassifierFree
from oboro.measurement import MaskBox
from oboro.metrics import Bank, Frechet, Held, Metric, Value
from oboro.sampler import DDIM, Heun


class Pixels(Extractor):
    """The pixels themselves."""

    name = "pixels"
    outputs = MappingProxyType({"features": 784})
    resize = "none"
    digest = "0" * 64

    def prepare(self):
        pass

    def build(self):
        return nn.Identity()

    def forward(self, network, images, outputs):
        self.seen.append((self.task.training, images))
        return {"features": images.flatten(1).float()}


class Broken(Pixels):
    def forward(self, network, images, outputs):
        raise FloatingPointError("no features today")


class Mean(Metric):
    """The mean pixel; it keeps the bank."""

    least = 1

    def __call__(self, generated, reference):
        self.bank = generated
        return {"mean": Value(generated["features"].double().mean().item(), better=0)}


@pytest.fixture(scope="module")
def parts():
    _, task, data = runs.built()
    data.setup()
    return task, data


@pytest.fixture
def judge(parts):
    """``judge(extractor, metric)``: an evaluator whose reference is empty."""

    def judge(extractor, metric):
        task, data = parts
        extractor.task, extractor.seen = task, []
        evaluator = Evaluator(extractor, {"metric": metric}, data)
        evaluator.views[0]._reference = Held(Bank({"features": torch.zeros(1, 784)}))
        return evaluator

    return judge


@pytest.fixture
def measured(parts, judge):
    """``measured(n=5, chunk=4)``: the evaluation and the bank."""

    def measured(**protocol):
        metric = Mean()
        found = judge(Pixels(), metric).evaluate(parts[0], Protocol(**protocol), precision="32-true")
        return found, metric.bank

    return measured


def test_sample_i_is_row_i_whatever_the_number_of_samples(measured):
    """Chunks are of one shape, so the bits agree."""
    _, few = measured(n=5, chunk=4)
    found, many = measured(n=10, chunk=4)
    assert torch.equal(few["features"], many["features"][:5]) and torch.equal(few.labels, many.labels[:5])
    assert found.numbers == {"mean_pixels_10": many["features"].double().mean().item()}


def test_a_later_range_of_samples_continues_the_earlier_one(measured):
    """Ranges are disjoint: the second five are what samples 5 to 9 of ten are."""
    _, ten = measured(n=10, chunk=5)
    _, second = measured(n=5, chunk=5, first=5)
    assert torch.equal(second["features"], ten["features"][5:]) and torch.equal(second.labels, ten.labels[5:])


def test_samples_come_from_the_averaged_weights(parts, measured):
    task, _ = parts
    _, averaged = measured(n=4, chunk=4)
    kept = [p.detach().clone() for p in task.denoiser.parameters()]
    with torch.no_grad():
        for p in task.denoiser.parameters():
            p.fill_(torch.nan)
    try:
        _, without = measured(n=4, chunk=4)
    finally:
        with torch.no_grad():
            for p, value in zip(task.denoiser.parameters(), kept, strict=True):
                p.copy_(value)
    assert torch.equal(averaged["features"], without["features"])
    _, other = measured(n=4, chunk=4, ema=list(task.ema.profiles)[1])
    assert not torch.equal(averaged["features"], other["features"])


def test_training_mode_and_weights_come_back(parts, judge):
    task, _ = parts
    for training in (True, False):
        task.train(training)
        before = {k: v.clone() for k, v in task.state_dict().items()}
        modes = [m.training for m in task.modules()]
        pixels = Pixels()
        judge(pixels, Mean()).evaluate(task, Protocol(n=2, chunk=2), precision="32-true")
        assert [mode for mode, _ in pixels.seen] == [False] and task.training is training
        assert runs.equal(before, dict(task.state_dict()))
        with pytest.raises(FloatingPointError):
            judge(Broken(), Mean()).evaluate(task, Protocol(n=2, chunk=2), precision="32-true")
        assert task.training is training and [m.training for m in task.modules()] == modes
        assert runs.equal(before, dict(task.state_dict()))


@pytest.mark.usefixtures("global_generator_unread")
def test_the_global_generator_is_left_alone(measured):
    measured(n=3, chunk=2)


def test_classes_are_drawn_as_often_as_they_are_in_the_data(parts):
    task, data = parts
    label = task.conditioner.for_samples(range(2000), data.population).signals["label"].index
    drawn = torch.bincount(label, minlength=10)
    assert (drawn / 2000 - data.population.frequencies).abs().max() < 0.003


def test_single_samples_are_redrawn_to_the_last_bit(parts, judge):
    """In a chunk of the same shape, whatever its other samples are."""
    task, _ = parts
    pixels = Pixels()
    evaluator, protocol = judge(pixels, Mean()), Protocol(n=12, chunk=4, first=3)
    found = evaluator.evaluate(task, protocol, precision="32-true")
    drawn = torch.cat([images for _, images in pixels.seen])
    assert torch.equal(evaluator.redraw(task, [10, 5, 14], protocol), drawn[[7, 2, 11]])
    assert torch.equal(found.samples, drawn[:4])  # of the first chunk


@pytest.mark.parametrize(
    ("sampler", "scale", "evaluations"), [(Heun(3), 1.0, 4), (Heun(3), 2.0, 8), (DDIM(5), 1.0, 5), (DDIM(5), 0.5, 10)]
)
def test_every_evaluation_of_the_network_is_counted(parts, judge, monkeypatch, sampler, scale, evaluations):
    """Those that guidance adds too, and padding does not."""
    task, _ = parts
    monkeypatch.setattr(task, "sampler", sampler)
    monkeypatch.setattr(task, "guidance", ClassifierFree(scale))
    found = judge(Pixels(), Mean()).evaluate(task, Protocol(n=5, chunk=4), precision="32-true")
    assert found.protocol["evaluations_per_sample"] == evaluations
    assert not task.denoiser.network._forward_hooks


def test_the_networks_of_guidance_are_counted_too(parts, judge, monkeypatch):
    task, _ = parts
    weak = deepcopy(task.denoiser)
    monkeypatch.setattr(task, "sampler", DDIM(5))
    monkeypatch.setattr(task, "guidance", Autoguidance(weak, 2.0))
    found = judge(Pixels(), Mean()).evaluate(task, Protocol(n=5, chunk=4), precision="32-true")
    assert found.protocol["evaluations_per_sample"] == 10
    assert not weak.network._forward_hooks


def test_a_measurement_is_told_from_another_by_its_digest_and_not_by_what_is_compared(parts, judge, monkeypatch):
    task, _ = parts

    def measured(n=5, seed=0, first=0, precision="32-true", ema=None):
        protocol = Protocol(n=n, seed=seed, first=first, chunk=5, ema=ema)
        return judge(Pixels(), Mean()).evaluate(task, protocol, precision=precision).protocol

    base = measured()
    different = [measured(n=6), measured(seed=1), measured(first=5), measured(precision="bf16-mixed")]
    assert len({digest(p) for p in (base, *different)}) == 5
    assert digest(measured(ema=list(task.ema.profiles)[1])) == digest(base)
    monkeypatch.setattr(task, "sampler", DDIM(1))
    assert digest(measured()) == digest(base) and measured()["sampler"] == {
        "name": "DDIM",
        "steps": 1,
        "grid": {"name": "Uniform"},
        "eta": 0.0,
    }


def test_a_number_from_too_few_samples_comes_with_a_warning_and_the_size_of_its_bias(parts, judge):
    task, _ = parts
    evaluator = judge(Pixels(), Frechet())
    real = torch.randn(400, 784, generator=torch.Generator().manual_seed(0)) * 60 + 120
    evaluator.views[0]._reference = Held(Bank({"features": real}))
    found = evaluator.evaluate(task, Protocol(n=20, chunk=20), precision="32-true")
    (sentence,) = warnings(found)
    (value,) = found.values.values()
    assert value.real_n == 20 and value.real > 0
    assert "20 samples are not more than its 784 features" in sentence
    assert with_spread(value.real, value.real_std) in sentence and len(value.real_splits) == 5
    assert "Raise n" in sentence


def test_samples_of_an_inverse_problem_are_of_held_out_images(parts):
    """Sample i is of row i mod n, under its label, and has what was measured of it; the protocol says so."""
    task, data = parts
    data.setup()
    problem = HeldOut(data, MaskBox(), seed=3)
    pixels = Pixels()
    pixels.seen, pixels.task = [], task
    evaluator = Evaluator(pixels, {"mean": Mean()}, data, problem=problem)
    solving = deepcopy(task)
    solving.guidance = DDNM()
    n = len(data.validation)
    pixels.seen.clear()
    result = evaluator.evaluate(solving, Protocol(n=n + 3, chunk=n + 3), precision="32-true")
    images = next(images for _, images in reversed(pixels.seen) if len(images) == n + 3)
    ids = [0, 5, n, n + 2]
    truth, given = problem.truth(ids), problem.measured(ids)
    assert problem.rows(ids) == [0, 5, 0, 2] and torch.equal(truth, data.validation.samples[torch.tensor([0, 5, 0, 2])])
    known = given.operator.mask.expand_as(truth)
    assert torch.equal(images[ids][known], truth[known]) and (images[0] != images[n]).any()
    cond = problem.condition(task.conditioner, ids)
    assert torch.equal(cond.signals["label"].index, data.validation.labels[torch.tensor([0, 5, 0, 2])])
    assert result.protocol["problem"]["measurement"]["name"] == "MaskBox" and result.protocol["problem"]["seed"] == 3
