"""The learned p(y | x_t, t): which class a noisy image is of."""

from torch import Tensor, nn

from oboro.base.ranges import Positive
from oboro.parameterization import network_input
from oboro.schedule import Schedule, expand_as


class NoisyClassifier(nn.Module):
    """logits = F(c_in x_t, c_noise), (B, num_classes), of p(y | x_t) = softmax(logits).

    Song et al. 2021 (arXiv:2011.13456, app. I.1); Dhariwal & Nichol 2021 (arXiv:2105.05233, sec. 4). ``sigma_data`` is
    that of ``oboro.parameterization.network_input``: the network sees what a denoiser's would, functions of the log-SNR
    alone, so it may be evaluated on another schedule than that of its training.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, sigma_data: Positive = 1.0):
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.sigma_data = sigma_data

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        c_in, c_noise = network_input(*self.schedule(t), self.sigma_data)
        return self.network(expand_as(c_in, x_t) * x_t, c_noise, {}).to(x_t.dtype)

    def reschedule(self, schedule: Schedule) -> "NoisyClassifier":
        """The same network on another schedule."""
        return NoisyClassifier(self.network, schedule, self.sigma_data)
