"""Averages of the weights over training: several profiles at once, updated in float32."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated

import torch
from annotated_types import Interval, Len
from torch import Tensor, nn

from oboro.base import shards
from oboro.base.errors import UserError
from oboro.base.ranges import AverageWidth, NonNegative


class Profile(ABC):
    """beta_n, the share of the old average that update n = 1, 2, … keeps: avg ← beta_n avg + (1 - beta_n) weights.

    ``std`` is the relative width of a power function, and None of other profiles.
    """

    std: float | None = None

    @abstractmethod
    def beta(self, n: int) -> float:
        """In [0, 1); beta(1) = 0 starts the average at the first weights it sees."""


class ConstantDecay(Profile):
    """beta_n = min(decay, n / (n + warmup)) for n > 1, with the time constant growing like n / warmup at first.

    Without the ramp a decay of 0.9999 would hold on to the random initial weights for tens of thousands of steps. The
    form is that of TensorFlow's ``ExponentialMovingAverage`` (1 + n) / (10 + n), with its 10 as ``warmup`` + 1.
    """

    def __init__(self, decay: Annotated[float, Interval(ge=0, lt=1)] = 0.9999, warmup: NonNegative = 9.0):
        self.decay = decay
        self.warmup = warmup

    def beta(self, n: int) -> float:
        return 0.0 if n == 1 else min(self.decay, n / (n + self.warmup))


class PowerFunction(Profile):
    """beta_n = (1 - 1/n)^{gamma + 1}: weight i of n counts as i^gamma, so the average is as long as training allows.

    ``std`` is the standard deviation of that profile as a share of training,
    std = sqrt((gamma + 1) / ((gamma + 2)² (gamma + 3))) (Karras et al. 2024, arXiv:2312.02696, eq. 3 and eq. 126).
    Raises ``ValueError`` unless 0 < std < sqrt(1/12), the value of the plain mean.
    """

    def __init__(self, std: AverageWidth = 0.1):
        if not 0 < std < 12**-0.5:
            raise ValueError(f"std of a power-function average lies in (0, 0.2887), got {std}")
        self.std = std
        self.gamma = gamma_from_std(std)

    def beta(self, n: int) -> float:
        return (1 - 1 / n) ** (self.gamma + 1)


def gamma_from_std(std: float) -> float:
    """The root gamma > 0 of (gamma + 1) / ((gamma + 2)² (gamma + 3)) = std², by bisection."""
    low, high = 0.0, 1e9
    for _ in range(200):
        gamma = (low + high) / 2
        low, high = (gamma, high) if (gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)) > std**2 else (low, gamma)
    return gamma


class EMA:
    """Averages of the parameters of one module under every profile, by name; the first profile is the default.

    Of a module that is frozen in part the parameters that are trained are averaged, as they are when it is first seen;
    of one that is frozen throughout, all. The averages are float32 whatever the type of the weights, and lie in shards
    where the weights do. Buffers are not averaged.
    """

    def __init__(self, profiles: Annotated[Mapping[str, Profile], Len(1, 64)]):
        if not profiles:
            raise ValueError("EMA needs at least one profile")
        self.profiles = dict(profiles)
        self.updates = 0
        self.averages: dict[str, list[Tensor]] = {}
        self._names: set[str] | None = None

    def averaged(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters of ``module`` that there are averages of, by name and in their order."""
        parameters = dict(module.named_parameters())
        if self._names is None:
            self._names = {name for name, p in parameters.items() if p.requires_grad} or set(parameters)
        return {name: p for name, p in parameters.items() if name in self._names}

    @property
    def default(self) -> str:
        return next(iter(self.profiles))

    @torch.no_grad()
    def start(self, module: nn.Module) -> None:
        """Bind to ``module``: averages begin as copies on its device, or move there when they were loaded before."""
        parameters = list(self.averaged(module).values())
        for name in self.profiles:
            pairs = zip(self.averages.get(name, parameters), parameters, strict=True)
            self.averages[name] = [
                shards.sharded_as(a, p).detach().to(p.device, torch.float32, copy=True) for a, p in pairs
            ]

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """One step of every average towards the weights of ``module``."""
        self.updates += 1
        weights = [shards.local(p.detach()).float() for p in self.averaged(module).values()]
        for name, profile in self.profiles.items():
            averages = [shards.local(average) for average in self.averages[name]]
            torch._foreach_lerp_(averages, weights, 1 - profile.beta(self.updates))

    @torch.no_grad()
    def add(self, name: str, weights: Mapping[str, Tensor], module: nn.Module) -> None:
        """Make ``weights`` ({parameter name of ``module``: tensor}), copied to float32, the average ``name``.

        For weights that were averaged elsewhere. ``applied`` finds them by that name; updates leave them alone, and
        neither states nor files keep them. Raises ``UserError`` when they belong to another model, and ``ValueError``
        for the name of a profile.
        """
        if name in self.profiles:
            raise ValueError(f"{name} is averaged during training and not to be replaced")
        parameters = self.averaged(module)
        here = {key: tuple(p.shape) for key, p in parameters.items()}
        given = {key: tuple(w.shape) for key, w in weights.items()}
        for key in [*here, *given]:
            if here.get(key) != given.get(key):
                raise UserError(
                    f"the weights for {name} are of another model: {key} is {given.get(key, 'absent')} among them and "
                    f"{here.get(key, 'absent')} here; take weights and checkpoint from the same run."
                )
        self.averages[name] = [weights[k].to(p.device, torch.float32, copy=True) for k, p in parameters.items()]

    @contextmanager
    @torch.no_grad()
    def applied(self, module: nn.Module, profile: str | None = None) -> Iterator[dict[nn.Parameter, Tensor]]:
        """Inside the context ``module`` holds the averages; the raw weights, which it yields, come back on every way
        out."""
        averages = self.averages[profile or self.default]
        parameters = list(self.averaged(module).values())
        raw = [p.detach().clone() for p in parameters]
        try:
            for p, average in zip(parameters, averages, strict=True):
                p.copy_(average)
            yield dict(zip(parameters, raw, strict=True))
        finally:
            for p, value in zip(parameters, raw, strict=True):
                p.copy_(value)

    def state_dict(self, module: nn.Module) -> dict:
        """``{"updates": n, "averages": {profile: {parameter name: tensor}}}``, with the names of ``module``."""
        names = list(self.averaged(module))
        return {
            "updates": self.updates,
            "averages": {k: dict(zip(names, v, strict=True)) for k, v in self.averages.items() if k in self.profiles},
        }

    def load_state_dict(self, state: dict, module: nn.Module) -> None:
        """Raises ``UserError`` when a profile, or a parameter of ``module``, is missing in ``state`` or has another
        shape there."""
        names = list(self.averaged(module))
        for profile in self.profiles:
            if profile not in state["averages"]:
                raise UserError(f"the file has no weights averaged as {profile}; choose its own ema=... option.")
            for name, p in self.averaged(module).items():
                average = state["averages"][profile].get(name)
                if average is None or average.shape != p.shape:
                    shape = "absent" if average is None else tuple(average.shape)
                    raise UserError(
                        f"the file holds averages of another model: {name} of {profile} is {shape} in the file and "
                        f"{tuple(p.shape)} here; use another file."
                    )
        self.updates = state["updates"]
        self.averages = {k: [state["averages"][k][name] for name in names] for k in self.profiles}
        self.start(module)
