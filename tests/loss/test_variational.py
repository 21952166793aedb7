"""The bound against the likelihood of a linear Gaussian model, where it is tight."""

from math import log, pi

import pytest
import torch
from torch import nn

from oboro.condition import Condition
from oboro.denoiser import Denoiser
from oboro.loss import Variational
from oboro.parameterization import X0
from oboro.schedule import Linear

NOTHING = Condition()
STD = 0.7
W = torch.tensor([[1.0], [-0.4], [0.3]], dtype=torch.float64)  # x = W z + b + STD noise
B = torch.tensor([0.2, 0.0, -1.0], dtype=torch.float64)
EPS = (1.0, -1.0)  # two values of eps with the mean and the variance of N(0, 1): enough for what is quadratic in z


class LinearVAE(nn.Module):
    """W z + b, and q(z | x), which is the posterior of x = W z + b + STD noise but for ``shift`` and ``stretch``."""

    latent = 1

    def __init__(self, shift=0.0, stretch=1.0):
        super().__init__()
        self.w, self.b = nn.Parameter(W.clone()), nn.Parameter(B.clone())
        self.shift, self.stretch = shift, stretch

    def encode(self, x, signals):
        variance = 1 / (1 + (W**2).sum() / STD**2)
        mean = variance * (x - B) @ W / STD**2 + self.shift
        return mean, (variance * self.stretch**2).log().expand_as(mean)

    def forward(self, x, c_noise, signals):
        return x[:, :1] @ self.w.T + self.b


def data(n: int = 4) -> torch.Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def bound(network, x, std=STD) -> torch.Tensor:
    """The expectation over z, (B,)."""
    loss, denoiser = Variational(std).double(), Denoiser(network, Linear(), X0())
    u = torch.full((len(x),), 0.5, dtype=torch.float64)
    each = [loss.at_quantile(denoiser, x, NOTHING, u, torch.full_like(x, eps)) for eps in EPS]
    return torch.stack(each).mean(0)


def log_likelihood(w, b, x) -> torch.Tensor:
    covariance = w @ w.T + STD**2 * torch.eye(3, dtype=torch.float64)
    return torch.distributions.MultivariateNormal(b, covariance).log_prob(x)


def test_with_the_posterior_it_is_the_likelihood_and_so_is_its_gradient():
    network, x = LinearVAE(), data()
    ours = bound(network, x)
    w, b = (p.detach().clone().requires_grad_() for p in (network.w, network.b))
    theirs = -log_likelihood(w, b, x) / 3
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    gradients = torch.autograd.grad(ours.sum(), (network.w, network.b))
    torch.testing.assert_close(gradients, torch.autograd.grad(theirs.sum(), (w, b)), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("shift", "stretch"), [(0.5, 1.0), (0.0, 0.5), (0.0, 2.0)])
def test_with_another_q_it_is_off_by_the_divergence_to_the_posterior(shift, stretch):
    x, variance = data(), 1 / (1 + (W**2).sum() / STD**2)
    posterior = torch.distributions.Normal(0.0, variance.sqrt())
    other = torch.distributions.Normal(torch.tensor(shift).double(), stretch * variance.sqrt())
    gap = torch.distributions.kl_divergence(other, posterior) / 3
    found = bound(LinearVAE(shift, stretch), x) - bound(LinearVAE(), x)
    torch.testing.assert_close(found.detach(), gap.expand(4), rtol=1e-6, atol=1e-9)


def test_a_learned_std_comes_to_rest_at_the_error():
    """The gradient of the bound by log std is 1 - mean square / std²."""
    loss, network, x = Variational(0.4).double(), LinearVAE(), data()
    denoiser = Denoiser(network, Linear(), X0())
    value = loss(denoiser, x, NOTHING, torch.Generator().manual_seed(1)).mean()
    (slope,) = torch.autograd.grad(value, loss.log_std)
    torch.testing.assert_close(slope, 1 - loss.watched["rmse"] ** 2 / 0.16)
    assert not Variational(0.4, learn_std=False).log_std.requires_grad


def test_training_draws_the_latents_that_validation_is_given():
    x, loss, denoiser = data(), Variational(STD).double(), Denoiser(LinearVAE(), Linear(), X0())
    ours = loss(denoiser, x, NOTHING, torch.Generator().manual_seed(3))
    eps = torch.zeros_like(x)
    eps[:, :1] = torch.randn(4, 1, generator=torch.Generator().manual_seed(3))
    u = torch.full((4,), 0.1, dtype=torch.float64)
    assert torch.equal(ours, loss.at_quantile(denoiser, x, NOTHING, u, eps))


def test_a_blind_model_has_the_entropy_of_its_std():
    """x = D(z) for every z and q = N(0, 1): n log(std sqrt(2 pi)) is left."""

    class Blind(LinearVAE):
        def encode(self, x, signals):
            return torch.zeros(len(x), 1, dtype=x.dtype), torch.zeros(len(x), 1, dtype=x.dtype)

        def forward(self, x, c_noise, signals):
            return torch.zeros_like(x)

    x = torch.zeros(2, 3, dtype=torch.float64)
    entropy = torch.full((2,), log(0.3) + log(2 * pi) / 2, dtype=torch.float64)
    torch.testing.assert_close(bound(Blind(), x, std=0.3), entropy, rtol=1e-6, atol=0)
