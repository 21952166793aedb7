"""Which combinations are refused, with what remedy, and that the remedy helps."""

from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import nn

from cases import over
from conditioner.spelling import Spelling
from conftest import ADAPTIVE, PARAMETERIZATIONS, SAMPLERS, configured
from loss.test_flow_maps import mean_flow
from oboro.base.errors import UserError
from oboro.classifier import NoisyClassifier
from oboro.condition import End, GuidanceScale
from oboro.conditioner import Joint, Label, Text, Unconditional
from oboro.denoiser import Denoiser
from oboro.denoiser.exact import GaussianDenoiser
from oboro.guidance import (
    CFGPP,
    DDNM,
    DPS,
    Autoguidance,
    CFGZeroStar,
    Classifier,
    ClassifierFree,
    Embedded,
    PerCondition,
    PiGDM,
    Unguided,
)
from oboro.loss import GAN, Denoising, Hybrid, Shortcut, Variational
from oboro.loss.coupling import Independent, OptimalTransport
from oboro.loss.penalty import Squared
from oboro.loss.time import Fixed, LossAware
from oboro.loss.time import Uniform as UniformTime
from oboro.loss.weighting import LearnedLogVariance
from oboro.loss.weighting import Uniform as UniformWeight
from oboro.model import DCGAN, VAE
from oboro.parameterization import EDM, X0, Consistency, Velocity
from oboro.sampler import DDIM, Adaptive, Heun, LearnedVariance, RePaint, Restart, WalkBack
from oboro.sampler.grid import LogSNR, Times, Trailing
from oboro.schedule import VP, Linear
from oboro.task import contradictions

GUIDANCE = configured(
    "guidance", without=("autoguidance", "classifier", "embedded", "per_condition")
)  # files, names, scales


class Weak(GaussianDenoiser):
    def reschedule(self, schedule):
        return Weak(self.mean, self.std, schedule)


def loss(time=None, weighting=None, coupling=None):
    return Denoising(time or UniformTime(), weighting or UniformWeight(), Squared(), coupling or Independent())


def parts(schedule=None, parameterization=None, **given):
    denoiser = Denoiser(nn.Identity(), schedule or Linear(), parameterization or EDM())
    usual = {"conditioner": Label(3), "loss": loss(), "guidance": Unguided(), "sampler": Heun(8)}
    return SimpleNamespace(**{"denoiser": denoiser, **usual, **given})


def jumps():
    """A loss that teaches the end of the flow, as consistency training does."""
    taught = loss()
    taught.teaches_jumps = True
    return taught


def coupled(sampler):
    return {"loss": loss(coupling=OptimalTransport()), "sampler": sampler}


def reading(text=0.1):
    """Label and text, the text dropped at this rate."""
    return Joint({"label": Label(3), "text": Text(Spelling(), 3, 3, text)})


class Reading(nn.Identity):
    """A network that reads an end."""

    reads: ClassVar = {"end": End}


class ReadingBoth(nn.Identity):
    reads: ClassVar = {"end": End, "guidance_scale": GuidanceScale}


def of_scales():
    """A student that has learned scales from 2 to 8."""
    denoiser = Denoiser(ReadingBoth(), Linear(), Velocity())
    return {"loss": mean_flow(guidance_scales=[2, 8]), "denoiser": denoiser}


def shortcut():
    return Shortcut(UniformTime(), Squared(), Independent())


def of_generator(network=None, **given):
    """A network that reads a few numbers of the noise, and what goes with it."""
    denoiser = Denoiser(network or DCGAN(1, 8, 4, 4, (1,)), Linear(), X0())
    usual = {"denoiser": denoiser, "loss": GAN(nn.Identity()), "sampler": DDIM(1), "conditioner": Unconditional()}
    return {**usual, **given}


EARLY = Times([0.7, 0.3])
JUDGE = NoisyClassifier(nn.Identity(), VP())
WEAK = Autoguidance(Weak(0.0, 1.0, VP()))
# what is refused, a word of the reason, and a remedy that the sentence names
REFUSED = {
    "jumps to an end that is not read": (
        {"loss": shortcut()},
        "Shortcut teaches jumps to any end and Identity reads none; set model.reads_end=true",
        {"loss": shortcut(), "denoiser": Denoiser(Reading(), Linear(), EDM())},
    ),
    "scales of guidance that are not read": (
        {"loss": mean_flow(guidance_scales=[2, 8]), "denoiser": Denoiser(Reading(), Linear(), Velocity())},
        "MeanFlow teaches guidance of several scales and Reading reads none; set model.reads_guidance_scale=true",
        {**of_scales(), "guidance": Embedded(3.0)},
    ),
    "a scale that was not learned": (
        {**of_scales(), "guidance": Embedded(9.0)},
        "scales from 2 to 8 and is asked for 9; choose guidance=embedded and set guidance.scale",
        {**of_scales(), "guidance": Embedded(8.0)},
    ),
    "no scale where all are above 1": (
        of_scales(),
        "scales from 2 to 8 and is asked for 1; choose guidance=embedded",
        {**of_scales(), "guidance": Embedded(2.0)},
    ),
    "a scale of a model without": (
        {"guidance": Embedded(3.0)},
        "Embedded asks for a scale of guidance and this model has learned none; choose guidance=classifier_free",
        {"guidance": ClassifierFree(3.0)},
    ),
    "a scale below those that were learned": (
        {**of_scales(), "guidance": Embedded(1.5)},
        "scales from 2 to 8 and is asked for 1.5",
        {**of_scales(), "guidance": Embedded(2.0)},
    ),
    "guidance without dropout": (
        {"conditioner": Label(3, dropout=0), "guidance": ClassifierFree(2.0)},
        "ClassifierFree asks .* conditioner.dropout=0 never trains",
        {"conditioner": Label(3, dropout=0.1), "guidance": ClassifierFree(2.0)},
    ),
    "CFG++ without dropout": (
        {"conditioner": Label(3, dropout=0), "guidance": CFGPP()},
        "CFGPP asks .* guidance=autoguidance",
        {"conditioner": Label(3, dropout=0), "guidance": WEAK},
    ),
    "guidance without labels": (
        {"conditioner": Unconditional(), "guidance": CFGZeroStar()},
        "CFGZeroStar .* has none; .*guidance=autoguidance",
        {"conditioner": Unconditional(), "guidance": WEAK},
    ),
    "away from what is not there": (
        {"guidance": ClassifierFree(2.0, negative={"text": 0})},
        "needs the condition text, and the model has label",
        {"guidance": ClassifierFree(2.0, negative={"label": 0})},
    ),
    "a class of a text": (
        {"conditioner": reading(), "guidance": ClassifierFree(2.0, negative={"text": 0})},
        "needs the condition text as a label, and the model has label, text",
        {"conditioner": reading(), "guidance": ClassifierFree(2.0, negative={"label": 0})},
    ),
    "away from a class that is not there": (
        {"guidance": ClassifierFree(2.0, negative={"label": 300})},
        "goes away from class 300 of label and there are 0 to 2; set guidance.negative",
        {"guidance": ClassifierFree(2.0, negative={"label": 2})},
    ),
    "a scale of what is not there": (
        {"guidance": PerCondition({"label": 2.0, "image": 1.5})},
        "PerCondition needs the condition image, .* guidance.scales",
        {"guidance": PerCondition({"label": 2.0})},
    ),
    "a scale of what is never dropped": (
        {"conditioner": reading(0.0), "guidance": PerCondition({"text": 2.0, "label": 1.5})},
        "without its condition text, which conditioner.dropout=0 never trains",
        {"conditioner": reading(0.0), "guidance": PerCondition({"text": 1.0, "label": 1.5})},
    ),
    "noise by a score that is not known": (
        coupled(DDIM(8, eta=1.0)),
        "DDIM draws noise .* OptimalTransport .* sampler.eta=0",
        coupled(DDIM(8)),
    ),
    "a gradient on no score": (
        {"loss": loss(coupling=OptimalTransport()), "guidance": Classifier(JUDGE)},
        "Classifier adds .* OptimalTransport .* guidance=classifier_free",
        {"loss": loss(coupling=OptimalTransport()), "guidance": ClassifierFree(2.0)},
    ),
    "a gradient on jumps": (
        {"loss": jumps(), "sampler": DDIM(1), "guidance": Classifier(JUDGE)},
        "Classifier adds .* mean .* jumps to the end of the flow and knows no means; choose guidance=classifier_free",
        {"loss": jumps(), "sampler": DDIM(1), "guidance": ClassifierFree(2.0)},
    ),
    "a class that is not there": (
        {"conditioner": Unconditional(), "guidance": Classifier(JUDGE)},
        "Classifier needs the condition label, .* guidance.label",
        {"conditioner": Unconditional(), "guidance": Classifier(JUDGE, label=3)},
    ),
    "restarts likewise": (coupled(Restart(8)), "Restart draws noise .* sampler=heun", coupled(Heun(8))),
    "a jump that is not taught": (
        {"parameterization": Consistency(), "sampler": DDIM(8, eta=float("inf"))},
        "Consistency holds .* Denoising teaches a mean; choose parameterization=edm",
        {"parameterization": EDM()},
    ),
    "a jump that is solved": (
        {"parameterization": Consistency(), "sampler": Heun(8), "loss": jumps()},
        "Heun takes .* Consistency .* sampler=ddim_consistency",
        {"parameterization": Consistency(), "sampler": DDIM(8, eta=float("inf")), "loss": jumps()},
    ),
    "a jump on the way": (
        {"parameterization": Consistency(), "sampler": DDIM(2), "loss": jumps()},
        "parameterization=edm",
        {"parameterization": Consistency(), "sampler": DDIM(1), "loss": jumps()},
    ),
    "a variance that nobody taught": (
        {"sampler": LearnedVariance(8)},
        "LearnedVariance draws .* Denoising does not teach; .*loss=hybrid",
        {"sampler": LearnedVariance(8), "loss": Hybrid(UniformWeight(), Squared())},
    ),
    "a beginning with signal": (
        {"sampler": Heun(2, grid=EARLY)},
        "Times with 2 steps begins at t=0.7, where the signal still is 0.43 .*all signal is gone at t=1.*trailing",
        {"sampler": Heun(2, grid=Trailing())},
    ),
    "steps that begin above the grid": (
        {"guidance": CFGPP(), "sampler": Heun(8, churn=40)},
        "CFGPP means the steps .* Heun takes others",
        {"guidance": CFGPP(), "sampler": Heun(8)},
    ),
    "segments beside the grid": (
        {"guidance": CFGZeroStar(), "sampler": Restart(8)},
        "CFGZeroStar means the steps .* Restart takes others",
        {"guidance": CFGZeroStar(), "sampler": Restart(8, repeats=0)},
    ),
    "noise levels that one of them did not teach": (
        {"loss": loss(Fixed(0.5))},
        "the noise level of t=0.5 alone and Heun asks at t=1; choose sampler=walk_back sampler.level=0.5",
        {"loss": loss(Fixed(0.5)), "sampler": WalkBack(5, 0.5)},
    ),
    "a walk at another level": (
        {"loss": loss(Fixed(0.3)), "sampler": WalkBack(5, 0.5)},
        "the noise level of t=0.3 alone and WalkBack asks at t=0.5",
        {"loss": loss(Fixed(0.3)), "sampler": WalkBack(5, 0.3)},
    ),
    "steps of a model of noise alone": (
        {"loss": loss(Fixed(1.0)), "sampler": DDIM(2)},
        "asks at t=0.5; choose sampler=ddim sampler.steps=1",
        {"loss": loss(Fixed(1.0)), "sampler": DDIM(1)},
    ),
    "steps of a generator": (
        of_generator(sampler=DDIM(2)),
        "GAN teaches the end of the flow; choose .*sampler.steps=1",
        of_generator(),
    ),
    "a generator that adds the noise": (
        of_generator(denoiser=Denoiser(DCGAN(1, 8, 4, 4, (1,)), Linear(), Velocity())),
        "DCGAN makes whole samples and Velocity adds the noise .* parameterization=x0",
        of_generator(),
    ),
    "a generator that denoises": (
        of_generator(loss=loss()),
        "DCGAN makes samples of noise in one step and Denoising .*task=gan",
        of_generator(),
    ),
    "a bound without an encoder": (
        of_generator(loss=Variational()),
        "Variational asks for the latent of a sample and DCGAN has no encoder; choose model=vae",
        of_generator(VAE(1, 8, 4, 4, (1,)), loss=Variational()),
    ),
    "steps that are not those of the grid": (
        {"guidance": CFGPP(), "sampler": Adaptive()},
        "CFGPP means the steps .* Adaptive .* guidance=classifier_free",
        {"guidance": ClassifierFree(2.0), "sampler": Adaptive()},
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_contradiction_is_refused_and_its_remedy_accepted(case):
    wrong, reason, remedy = REFUSED[case]
    with pytest.raises(UserError, match=reason):
        contradictions.check(parts(**wrong))
    contradictions.check(parts(**remedy))


@over(sampler=SAMPLERS | dict.fromkeys(ADAPTIVE, Adaptive()))
def test_every_sampler_goes_with_the_usual_parts(sampler):
    usual = {"loss": Hybrid(UniformWeight(), Squared())} if sampler.asks_variance else {}
    contradictions.check(parts(VP(), sampler=sampler, **usual))


@over(guidance=GUIDANCE)
def test_every_guidance_goes_with_the_usual_parts(guidance):
    sampler = DDIM(8, eta=1.0) if guidance.moves_ends else Heun(8)
    contradictions.check(parts(guidance=guidance, sampler=sampler), measured=guidance.measures)


@pytest.mark.parametrize(
    "given, measured, reason",
    [
        ({"guidance": DDNM()}, False, "DDNM draws towards a measurement and there is none"),
        ({"sampler": RePaint(8)}, False, "RePaint draws towards a measurement and there is none"),
        ({}, True, "nothing draws towards the measurement with Unguided and Heun"),
        ({"guidance": DPS()}, True, "moves the end of each step, and Heun makes one of several"),
        ({"guidance": PiGDM(inside=ClassifierFree(2.0)), "conditioner": Unconditional()}, True, "this model has none"),
    ],
    ids=["guidance", "sampler", "nothing", "dps", "inside"],
)
def test_a_measurement_and_what_draws_towards_it_go_together(given, measured, reason):
    with pytest.raises(UserError, match=reason):
        contradictions.check(parts(**given), measured=measured)


def test_a_grid_may_begin_where_the_signal_is_negligible():
    """log-SNR of -4.7: a tenth of the noise is 0.095."""
    contradictions.check(parts(sampler=Heun(8, grid=LogSNR(-4.71, 5))))
    with pytest.raises(UserError, match="LogSNR"):
        contradictions.check(parts(sampler=Heun(8, grid=LogSNR(-4.5, 5))))


def test_parameterizations_with_a_boundary_are_those_that_fix_an_image_above_zero_noise():
    """What the rule asks is true: c_out vanishes inside of (0, 1) and nowhere else."""
    t = torch.linspace(1e-3, 1 - 1e-3, 100_000, dtype=torch.float64)
    for parameterization in PARAMETERIZATIONS.values():
        c_out = parameterization(*Linear()(t)).c_out
        assert parameterization.boundary == bool((c_out.sign().diff() != 0).any())


def test_a_weight_is_applied_once():
    """Neither the learned variance nor the preference for large losses can be put on top of itself."""
    with pytest.raises(UserError, match=r"twice; choose a fixed weight as loss\.weighting\.base"):
        LearnedLogVariance(LearnedLogVariance(UniformWeight()))
    with pytest.raises(UserError, match=r"twice; choose a fixed p\(t\) as loss\.time\.base"):
        LossAware(LossAware(UniformTime()))
