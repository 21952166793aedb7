"""What is out of proportion, missing or impossible is said before the first step."""

import logging

import pytest
import torch

import runs
from oboro.base.errors import UserError
from oboro.callbacks import SampleMetrics
from oboro.callbacks.preflight import advise, sample_flops, train_flops
from oboro.evaluate.protocol import Protocol
from oboro.extractor import Fashion, Inception
from oboro.guidance import ClassifierFree
from oboro.metrics import Accuracy, Frechet, FrechetPerClass
from oboro.sampler import DDIM, Heun


@pytest.fixture(scope="module")
def parts():
    _, task, data = runs.built()
    data.setup()
    return task, data


def test_operations_are_those_of_the_network_times_how_often_it_runs(parts, monkeypatch):
    """Training is three forward passes; guidance doubles an evaluation; the extractor looks once."""
    task, data = parts
    forward = train_flops(task, data) / 3
    conv = 2 * 28 * 28 * 8 * 9  # the first convolution alone: 1 channel to 8
    assert forward > conv and forward == int(forward)
    looks = sample_flops(task, data, Fashion()) - task.sampler.evaluations(task.denoiser.schedule) * forward
    assert 2e6 < looks < 2e7  # 2.6 million multiply-adds and the linear layers
    for sampler, scale, evaluations in ((DDIM(7), 1.0, 7), (DDIM(7), 2.0, 14), (Heun(4), 2.0, 12)):
        monkeypatch.setattr(task, "sampler", sampler)
        monkeypatch.setattr(task, "guidance", ClassifierFree(scale))
        assert sample_flops(task, data, Fashion()) == pytest.approx(evaluations * forward + looks, rel=1e-6)


def fit(*overrides, metrics, extractor=None, n=20, steps):
    """A run of two steps; how many it came to is added to ``steps``."""
    callback = SampleMetrics(extractor or Fashion(), metrics, every_n_steps=0, n=n, chunk=20)
    trainer, task, data = runs.built(*overrides, callbacks=[callback])
    with torch.random.fork_rng(devices=[]):
        try:
            trainer.fit(task, data)
        finally:
            steps.append(task.ema.updates)


@pytest.mark.parametrize(("n", "said"), [(200, True), (2, False)])
def test_an_evaluation_longer_than_its_training_is_announced(n, said, caplog):
    """Two steps of eight images, 48 forward passes, against two passes and a look for each sample."""
    with caplog.at_level(logging.WARNING, "oboro.callbacks.preflight"):
        fit(metrics={"frechet": Frechet()}, n=n, steps=(steps := []))
    assert steps == [2]
    assert [r.levelname for r in caplog.records if "as many operations" in r.message] == ["WARNING"] * said


@pytest.mark.slow
def test_what_cannot_be_measured_ends_the_run_before_its_first_step(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr("oboro.extractor.inception.download", lambda *args: (_ for _ in ()).throw(OSError("no net")))
    cases = [
        ((), {"frechet": Frechet()}, Inception(), 20, "the Inception weights for FID are missing"),
        ((), {"frechet_spatial": Frechet("spatial")}, None, 20, "frechet_spatial needs spatial"),
        (["conditioner=unconditional"], {"accuracy": Accuracy()}, None, 20, "accuracy needs the class"),
        ((), {"frechet_per_class": FrechetPerClass()}, None, 3, "undefined below 11 samples of 10 classes"),
    ]
    for overrides, metrics, extractor, n, message in cases:
        with pytest.raises(UserError, match=message):
            fit(*overrides, metrics=metrics, extractor=extractor, n=n, steps=(steps := []))
        assert steps == [0]


class Scribbling(torch.nn.Module):
    """A network that writes to itself in each forward pass: statistics, a counter and, behind autograd, a weight."""

    def __init__(self, network):
        super().__init__()
        self.network, self.reads = network, network.reads
        self.norm = torch.nn.BatchNorm2d(1)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.own = torch.nn.Parameter(torch.ones(3))

    def forward(self, x, c_noise, signals):
        self.calls += 1
        self.own.data.mul_(1.1)
        return self.network(self.norm(x), c_noise, signals)


def modes_of(task) -> dict:
    return {name: part.training for name, part in task.named_modules()}


@pytest.mark.parametrize("guidance", [ClassifierFree(1.0), ClassifierFree(2.0)], ids=["unguided", "guided"])
@pytest.mark.parametrize("network", ["edm2", "scribbling"])
def test_counting_operations_leaves_every_bit_of_the_network(network, guidance):
    """Rank 0 counts alone: what it changed would part it from the other ranks for ever."""
    _, task, data = runs.built(*["model=edm2_unet_tiny"] * (network == "edm2"))
    trainer = runs.built()[0]
    data.setup()
    task.guidance = guidance
    if network == "scribbling":
        task.denoiser.network = Scribbling(task.denoiser.network)
    task.train()
    task.codec.eval()
    before, modes = {k: v.clone() for k, v in task.state_dict().items()}, modes_of(task)
    advise(trainer, task, data, Fashion(), Protocol(n=20), 0)
    assert runs.equal(dict(task.state_dict()), before) and modes_of(task) == modes
    with torch.no_grad():  # and the network is one that would have changed
        train_flops(task, data)
    assert not runs.equal(dict(task.state_dict()), before)
