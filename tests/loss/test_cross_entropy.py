"""What a classifier learns from the cross-entropy of noisy data."""

import pytest
import torch
from torch import nn

from oboro.base.seeding import generator
from oboro.classifier import NoisyClassifier
from oboro.loss import CrossEntropy
from oboro.loss.time import LogNormal, LossAware, Uniform
from oboro.schedule import VP, Linear, expand_as

pytestmark = pytest.mark.usefixtures("global_generator_unread")

MEANS = torch.tensor([-1.0, 0.5, 2.0])
STD = 0.3


class Network(nn.Module):
    """Three classes of one number, from a small MLP."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 3))

    def forward(self, x, c_noise, cond):
        return self.layers(torch.cat([x, c_noise[:, None]], 1))


def posterior(schedule, x_t, t):
    alpha, sigma = schedule(expand_as(t, x_t))
    std = torch.sqrt((alpha * STD) ** 2 + sigma**2)
    return torch.distributions.Normal(alpha * MEANS, std).log_prob(x_t).softmax(1)


@pytest.mark.parametrize(
    ("schedule", "time"), [(VP(), Uniform()), (Linear(), LossAware(Uniform(), bins=8))], ids=["plain", "loss-aware"]
)
def test_training_ends_in_the_posterior_of_the_class(schedule, time):
    """Three equally likely classes N(mean_y, 0.3²), seen on every noise level."""
    loss, g = CrossEntropy(time), generator(0, "toy")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = NoisyClassifier(Network(), schedule)
    steps = 500
    optimizer = torch.optim.Adam(classifier.parameters(), 0.01)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
    for _ in range(steps):
        label = torch.randint(3, (512,), generator=g)
        x = (MEANS[label] + STD * torch.randn(512, generator=g))[:, None]
        optimizer.zero_grad()
        loss(classifier, x, label, g).mean().backward()
        optimizer.step()
        decay.step()
    t = torch.tensor([0.05, 0.3, 0.5, 0.7, 0.95]).repeat_interleave(41)
    z = torch.linspace(-2, 3, 41).repeat(5)[:, None]
    alpha, sigma = schedule(expand_as(t, z))
    x_t = alpha * z + sigma * 0.3
    error = (classifier(x_t, t).softmax(1) - posterior(schedule, x_t, t)).abs()
    assert error.mean() < 0.03  # single points at a steep border between two classes may be far off


def test_it_is_the_log_likelihood_of_the_label_at_the_quantiles_of_the_noise(normal):
    """At frozen quantiles the network sees c_in (alpha x + sigma eps); checked with EDM's log-normal levels."""
    time, schedule = LogNormal(-0.5, 1.0), Linear()
    seen = []

    class Spy(nn.Module):
        def forward(self, x, c_noise, cond):
            seen.append((x, c_noise))
            return torch.cat([x, -x, 2 * x], 1)

    u, x, eps = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), normal(3, 1), normal(3, 1)
    logits = CrossEntropy(time).logits(NoisyClassifier(Spy(), schedule, 0.5), x, u, eps)
    rho = torch.exp(-0.5 + torch.special.ndtri(u))  # sigma / alpha
    noisy = (x + rho[:, None] * eps) / torch.sqrt(0.25 + rho[:, None] ** 2)
    torch.testing.assert_close(seen[0][0], noisy)
    torch.testing.assert_close(seen[0][1], rho.log() / 4)
    torch.testing.assert_close(logits, noisy * torch.tensor([1.0, -1.0, 2.0], dtype=torch.float64))


def test_the_loss_is_a_function_of_its_generator(normal):
    classifier = NoisyClassifier(nn.Identity(), Linear())
    classifier.network.forward = lambda x, c_noise, cond: torch.cat([x, -x], 1)
    x, label = normal(4, 1), torch.tensor([0, 1, 1, 0])
    a, b, c = (CrossEntropy(Uniform())(classifier, x, label, generator(0, "train", k)) for k in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
