"""oboro (朧): train diffusion models and measure what they generate.

Notation, fixed once: ``x`` clean data, ``eps`` standard noise, ``t`` in [0, 1] with t = 0 data and t = 1 noise,
``x_t = alpha_t x + sigma_t eps``, ``log_snr(t) = log(alpha_t² / sigma_t²)``, a step goes from ``t`` to ``s < t``,
``D(x_t, t, cond) = E[x | x_t, cond]``.
"""

from oboro.base import torchmetrics_on_demand

torchmetrics_on_demand.use()  # before anything imports Lightning

__version__ = "0.1.0"
