"""Classifier guidance against data whose every density is known."""

import pytest
import torch
from torch import nn

from oboro.base.errors import UserError
from oboro.classifier import NoisyClassifier
from oboro.condition import Condition, Label
from oboro.denoiser.exact import GaussianDenoiser, MixtureDenoiser
from oboro.guidance import Classifier
from oboro.guidance.weight import Interval
from oboro.sampler import DDIM
from oboro.schedule import VE, VP, Cosine, Karras, Linear, SubVP, expand_as

pytestmark = pytest.mark.usefixtures("global_generator_unread")

T = torch.tensor([0.999, 0.9, 0.5, 0.2, 0.01, 0.0], dtype=torch.float64)
LABEL = torch.tensor([0, 1, 0, 1, 0, 1])
MEANS = torch.tensor([-1.0, 1.5], dtype=torch.float64)
WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
STD = 0.4

each_schedule = pytest.mark.parametrize(
    "schedule", [Linear(), Cosine(), VP(), SubVP(), Karras(), VE()], ids=lambda s: type(s).__name__
)


class Bayes:
    """log p(y | x_t) + const of data 0.3 N(-1, 0.4²) + 0.7 N(1.5, 0.4²); lists the times it is asked."""

    def __init__(self, schedule):
        self.schedule, self.asked = schedule, []

    def __call__(self, x_t, t):
        self.asked.append(t)
        alpha, sigma = self.schedule(expand_as(t, x_t))
        std = torch.sqrt((alpha * STD) ** 2 + sigma**2)
        return WEIGHTS.log() + torch.distributions.Normal(alpha * MEANS, std).log_prob(x_t)

    def reschedule(self, schedule):
        self.schedule = schedule
        return self


def mixture(schedule):
    return MixtureDenoiser(WEIGHTS, MEANS, STD, schedule)


@pytest.fixture
def x_t(normal):
    return normal(6, 1)


@each_schedule
def test_the_unconditional_denoiser_becomes_the_conditional_one(schedule, x_t):
    """At scale 1, exactly, and at scale 0 it stays as it is; the classifier comes from another schedule."""
    x_t = x_t * expand_as(sum(schedule(T)), x_t)
    for scale in (1.0, 2.5, 0.0, -1.0):
        guided = Classifier(Bayes(Linear()), scale)(mixture(schedule), [])(x_t, T, Condition.of(label=Label(LABEL)))
        free = mixture(schedule)(x_t, T, Condition())
        bound = GaussianDenoiser(expand_as(MEANS[LABEL], x_t), STD, schedule)(x_t, T, Condition())
        torch.testing.assert_close(guided, free + scale * (bound - free), rtol=1e-10, atol=1e-10)


def test_at_pure_noise_nothing_is_steered(x_t):
    t = torch.tensor([1.0] * 5 + [0.5], dtype=torch.float64)
    bayes, denoiser = Bayes(Linear()), mixture(Linear())
    guided = Classifier(bayes, 3.0)(denoiser, [])
    out, plain = guided(x_t, t, Condition.of(label=Label(LABEL))), denoiser(x_t, t, Condition())
    assert torch.equal(out[:5], plain[:5]) and not torch.equal(out[5], plain[5]) and out.isfinite().all()
    guided(x_t[:5], t[:5], Condition.of(label=Label(LABEL[:5])))
    assert len(bayes.asked) == 1  # not of a batch of noise


def test_samples_of_a_mixture_become_samples_of_the_class(normal):
    """As generate() does: without gradients. Class 1 is N(1.5, 0.4²)."""
    bayes, schedule, sampler = Bayes(VP()), VP(), DDIM(100)
    x_T = schedule.prior(normal(2000, 1))
    with torch.no_grad():
        guided = Classifier(bayes, label=1)(mixture(schedule), sampler.nodes(schedule))
        out = sampler(guided, x_T, Condition(), None)
    assert not out.requires_grad
    assert float(out.mean()) == pytest.approx(1.5, abs=0.04) and float(out.std()) == pytest.approx(0.4, abs=0.02)


def test_the_label_of_the_setting_takes_the_place_of_the_samples_own(x_t):
    denoiser = mixture(VP())
    zeros = Condition.of(label=Label(torch.zeros(6, dtype=torch.int64)))
    one = Classifier(Bayes(VP()), label=0)(denoiser, [])
    own = Classifier(Bayes(VP()))(denoiser, [])
    for cond in (Condition(), Condition.of(label=Label(LABEL))):
        assert torch.equal(one(x_t, T, cond), own(x_t, T, zeros))
    assert not torch.equal(own(x_t, T, zeros), own(x_t, T, Condition.of(label=Label(LABEL))))


def test_where_the_weight_is_0_the_classifier_is_not_asked(x_t):
    """sigma / alpha of the linear schedule is 9, 1 and 1/4."""
    bayes, denoiser = Bayes(Linear()), mixture(Linear())
    guided = Classifier(bayes, 2.0, Interval(0.5, 2.0))(denoiser, [])
    for t in (0.9, 0.2):
        at = torch.full((6,), t, dtype=torch.float64)
        assert torch.equal(guided(x_t, at, Condition.of(label=Label(LABEL))), denoiser(x_t, at, Condition()))
    assert bayes.asked == []
    whole = Classifier(bayes, 2.0)(denoiser, [])(x_t, T, Condition.of(label=Label(LABEL)))
    part, none = guided(x_t, T, Condition.of(label=Label(LABEL))), denoiser(x_t, T, Condition())
    torch.testing.assert_close(part, torch.where(T[:, None] == 0.5, whole, none))


class Network(nn.Module):
    def forward(self, x, c_noise, cond):
        return torch.stack([torch.sin(x[:, 0]), x[:, 0] * expand_as(c_noise, x[:, 0])], 1)


@each_schedule
def test_a_classifier_says_the_same_at_equal_noise_on_any_schedule(schedule, normal):
    """p(y | x_t) is a function of x_t / alpha_t and the log-SNR; and so the guided denoiser is."""
    log_snr = torch.tensor([-6.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    trained = NoisyClassifier(Network(), Linear(), sigma_data=0.7)
    x, label, answers, plain = normal(4, 1), torch.tensor([0, 1, 0, 1]), [], []
    for there in (Linear(), schedule):
        t = there.t_from_log_snr(log_snr)
        x_t = expand_as(there.alpha(t), x) * x
        guided = Classifier(trained, 2.0)(mixture(there), [])
        plain.append(mixture(there)(x_t, t, Condition()))
        answers.append((trained.reschedule(there)(x_t, t), guided(x_t, t, Condition.of(label=Label(label)))))
    for a, b in zip(*answers, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    assert (answers[0][1] - plain[0]).abs().max() > 0.1


def test_a_missing_or_unknown_class_is_the_users_mistake(x_t):
    guided = Classifier(Bayes(VP()))(mixture(VP()), [])
    with pytest.raises(UserError, match=r"without labels; set guidance\.label"):
        guided(x_t, T, Condition())
    for label in (2, -1):
        with pytest.raises(UserError, match=f"classes 0 to 1 and is asked for class {label}"):
            guided(x_t, T, Condition.of(label=Label(torch.full((6,), label))))
