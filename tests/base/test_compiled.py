"""Gradients of compiled networks are those of the networks as they are written, however often they are asked for."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn

import runs
from oboro.base.compiled import compile_in_place
from oboro.condition import Condition
from oboro.denoiser import Denoiser
from oboro.evaluate.likelihood import log_likelihood, rademacher
from oboro.guidance import GradientGuided, linearized
from oboro.parameterization import EDM
from oboro.schedule import VP


class Network(nn.Module):
    """Keeps numbers of its own for the backward pass, which a compiler may give away in it."""

    def __init__(self):
        super().__init__()
        self.inward, self.norm, self.outward = nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Conv2d(4, 1, 1)

    def forward(self, x, c_noise, cond):
        h = self.inward(x)
        return self.outward(torch.tanh(self.norm(h)) * torch.sigmoid(h))


class Shifted(GradientGuided):
    """D + Jᵀ D / 2."""

    def steer(self, conditional, pullback, x_t, t, cond):
        return conditional + 0.5 * pullback(conditional)


@pytest.fixture
def pair():
    """A denoiser as it is written, and compiled; then the compiler is as before."""
    with torch._functorch.config.patch(donated_buffer=True), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network().requires_grad_(False)
        compiled = deepcopy(network)
        compile_in_place(compiled, backend="aot_eager")
        yield Denoiser(network, VP(), EDM()), Denoiser(compiled, VP(), EDM())
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")
def test_likelihoods_of_one_probe_and_of_more_are_those_of_the_network(pair, normal):
    x = normal(2, 1, 4, 4).float()
    for probes in (1, 2, 1, 3):
        v = rademacher(x, probes, 0, [0, 1])
        written, compiled = (log_likelihood(d, x, Condition.of(), steps=1, probes=v) for d in pair)
        torch.testing.assert_close(compiled, written, rtol=1e-5, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_guidance_by_gradients_and_around_it_is_that_of_the_network(pair, normal):
    x, t, w = normal(2, 1, 4, 4).float(), torch.tensor([0.8, 0.3]), normal(2, 1, 4, 4).float()
    for wrap in (lambda d: d, Shifted, lambda d: Shifted(Shifted(d))):
        pulled = []
        for denoiser in pair:
            guided = wrap(denoiser)
            with torch.no_grad():
                y, pullback = linearized(lambda x, guided=guided: guided(x, t, Condition.of()), x)
                pulled.append([y, pullback(w), pullback(2 * w)])
        for written, compiled in zip(*pulled, strict=True):
            torch.testing.assert_close(compiled, written, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_weights_of_compiled_and_of_plain_runs_have_the_same_names_and_each_goes_on_from_the_other(
    tmp_path, monkeypatch
):
    """F45: with their averages and the state of their optimizer; traced, without the wait for a compiler."""
    monkeypatch.setattr("oboro.task.generation.compile_in_place", partial(compile_in_place, backend="eager"))
    ways = {"plain": (), "compiled": ("task.compile=true",)}
    first = {way: runs.train(tmp_path / way, runs.NO_EVALUATION, *words) for way, words in ways.items()}
    names = [
        {
            "weights": list(run.checkpoint()["state_dict"]),
            "averages": {profile: list(state) for profile, state in run.checkpoint()["ema"]["averages"].items()},
        }
        for run in first.values()
    ]
    assert names[0] == names[1] and not any("_orig_mod" in name for name in names[1]["weights"])
    for way, other in (("plain", "compiled"), ("compiled", "plain")):
        resume = (f"resume={first[way].last}", "trainer.max_steps=3", *ways[other])
        run = runs.train(tmp_path / f"{other} after {way}", runs.NO_EVALUATION, *resume)
        assert run.checkpoint()["global_step"] == 3
        assert list(run.checkpoint()["state_dict"]) == names[0]["weights"]
        assert runs.sample(tmp_path / f"{other} images", run.last, "n=2", "sampler.steps=2").images
    torch._dynamo.reset()
