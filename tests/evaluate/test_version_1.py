"""A file as ``evaluate.py`` of version 1 wrote it reads like one of today."""

import json
from pathlib import Path

import pytest
from torch import nn

from oboro.base.settings import settings, settings_text
from oboro.denoiser import Denoiser
from oboro.evaluate.protocol import digest
from oboro.evaluate.result import protocol_line, read_result
from oboro.evaluate.version_1 import settings_of, std_of
from oboro.guidance import CFGPP, Autoguidance, ClassifierFree, Unguided
from oboro.guidance.weight import Interval
from oboro.metrics import Frechet, Kernel, PrecisionRecall, SlicedWasserstein
from oboro.parameterization import V
from oboro.sampler import DDIM, Adaptive, Heun
from oboro.sampler.grid import Karras, Sigmas
from oboro.schedule import Cosine, Linear, ScaledLinear, Shifted, ZeroTerminalSNR

FILE = Path(__file__).with_name("version_1.json")


def test_settings_and_digest_are_those_of_today():
    """What today writes of the objects that this file was measured with; the digest is the recorded one."""
    found = read_result(FILE)
    protocol = found["protocol"]
    assert protocol["sampler"] == settings(Heun(3, grid=Karras()))
    assert protocol["guidance"] == settings(ClassifierFree(2, Interval()))
    assert protocol["schedule"] == settings(Linear())
    assert protocol["ema"] == {"name": "std010", "std": 0.1} and "ema_std" not in found
    assert digest(protocol) == protocol["digest"] == json.loads(FILE.read_text())["protocol"]["digest"]
    metrics = {"fd": Frechet(), "kd": Kernel(), "precision": PrecisionRecall()}
    assert {name.split("_")[0]: value["settings"] for name, value in found["metrics"].items()} == {
        name: settings(metric) for name, metric in metrics.items()
    }
    assert "bias is large" in found["metrics"]["fd_fashion_12"]["warning"]
    likelihood = {"name": "probability-flow ODE", "steps": 2, "probes": 1, "seed": 0}
    assert found["likelihood"]["bits_per_dim_4"]["settings"] == likelihood


@pytest.mark.parametrize(
    "instance",
    [
        DDIM(5, eta=float("inf")),
        Heun(3, grid=Sigmas([80.0, 5.5, 0.1]), churn=40.0),
        Adaptive(),
        CFGPP(),
        Unguided(),
        ClassifierFree(1.5, negative={"label": 3}),
        ZeroTerminalSNR(ScaledLinear()),
        Shifted(Cosine(), 128),
        SlicedWasserstein(),
        Frechet(),
    ],
    ids=lambda instance: type(instance).__name__,
)
def test_text_holds_all_settings(instance):
    """The text of version 1 is still what is printed, and it reads back as the settings it came from."""
    assert settings_of(settings_text(settings(instance))) == settings(instance)


def test_the_line_of_a_protocol_is_what_version_1_printed():
    line = protocol_line(read_result(FILE)["protocol"])
    for text in (json.loads(FILE.read_text())["protocol"][k] for k in ("sampler", "guidance", "schedule", "ema")):
        assert text in line


def test_networks_are_named_without_their_layers():
    weak = Denoiser(nn.Identity(), Linear(), V())
    known = settings(Autoguidance(weak, 2.0))
    assert known["weak"] == {"name": "Denoiser", "schedule": {"name": "Linear"}, "parameterization": settings(V())}
    written = "Denoiser(training=False schedule=Linear parameterization=V(sigma_data=1.0))"
    assert settings_of(f"Autoguidance(weak={written}, scale=2.0, weight=Constant)") == known


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("std005", 0.05),
        ("std0050", 0.05),
        ("std_0.10", 0.1),
        ("std=0.07", 0.07),
        ("std0075", 0.075),
        ("constant", None),
        ("std5x", None),
    ],
)
def test_the_length_of_an_average_is_read_from_its_name(name, std):
    assert std_of(name) == std
