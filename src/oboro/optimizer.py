"""Optimizers with their learning-rate schedule: ``lr * warm-up(step) * decay(step / max_steps)``."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from math import cos, pi
from typing import Annotated

import torch
from annotated_types import Len
from torch import nn

from oboro.base.errors import UserError
from oboro.base.ranges import BelowOne, CountOrNone, NonNegative
from oboro.base.shards import any_shard

Betas = Annotated[Sequence[BelowOne], Len(2, 2)]


class Decay(ABC):
    """Share of training done, in [0, 1] ↦ factor of the learning rate."""

    @abstractmethod
    def __call__(self, done: float) -> float: ...


class Constant(Decay):
    """1 throughout."""

    def __call__(self, done: float) -> float:
        return 1.0


class LinearDecay(Decay):
    """1 - done."""

    def __call__(self, done: float) -> float:
        return 1.0 - done


class CosineDecay(Decay):
    """(1 + cos(pi done)) / 2 (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5, one period)."""

    def __call__(self, done: float) -> float:
        return (1.0 + cos(pi * done)) / 2


class Optimizer(ABC):
    """Learning rate ``lr``, reached linearly over ``warmup_steps`` updates, then shaped by ``decay``."""

    def __init__(self, lr: NonNegative, warmup_steps: CountOrNone, decay: Decay):
        self.lr = lr
        self.warmup_steps = warmup_steps
        self.decay = decay

    @abstractmethod
    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The torch optimizer at the full learning rate."""

    def factor(self, step: int, max_steps: int) -> float:
        """min(1, (step + 1) / warmup_steps) * decay(step / max_steps); without an end (max_steps < 1), done stays 0."""
        done = min(step / max_steps, 1.0) if max_steps > 0 else 0.0
        return min(1.0, (step + 1) / max(self.warmup_steps, 1)) * self.decay(done)

    def factor_of(self, max_steps: int) -> Callable[[int], float]:
        """``factor`` as a function of the step alone."""
        return lambda step: self.factor(step, max_steps)

    def __call__(
        self, parameters: Iterable[nn.Parameter], max_steps: int
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        optimizer = self.build(parameters)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, self.factor_of(max_steps))


class Adam(Optimizer):
    """Kingma & Ba 2015 (arXiv:1412.6980)."""

    def __init__(
        self,
        lr: NonNegative,
        warmup_steps: CountOrNone,
        decay: Decay,
        betas: Betas = (0.9, 0.999),
        eps: NonNegative = 1e-8,
    ):
        super().__init__(lr, warmup_steps, decay)
        self.betas = tuple(betas)
        self.eps = eps

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.lr, betas=self.betas, eps=self.eps)


class RAdam(Adam):
    """Adam without second moments until enough steps have made them reliable: Liu et al. 2020 (arXiv:1908.03265)."""

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.RAdam(parameters, lr=self.lr, betas=self.betas, eps=self.eps)


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    def __init__(
        self,
        lr: NonNegative,
        warmup_steps: CountOrNone,
        decay: Decay,
        betas: Betas = (0.9, 0.999),
        eps: NonNegative = 1e-8,
        weight_decay: NonNegative = 0.01,
    ):
        super().__init__(lr, warmup_steps, decay)
        self.betas = tuple(betas)
        self.eps = eps
        self.weight_decay = weight_decay

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)


class AdamW8bit(AdamW):
    """AdamW that keeps its moments in 8 bits: Dettmers et al. 2022 (arXiv:2110.02861), as in the library bitsandbytes.

    Moments are quantised in blocks of 256 values, with a float32 scale each; tensors below 4096 values keep 32 bits.
    Raises ``UserError`` where the library is missing or does not know the device of the parameters, or where these are
    shards: it reads the memory of whole ones.
    """

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        parameters = list(parameters)
        if any_shard(parameters):
            raise UserError(
                "optimizer=adamw_8bit knows no weights in shards; choose optimizer=adamw, whose state fsdp2 shares "
                "out, or trainer.strategy=ddp."
            )
        try:
            bitsandbytes = import_module("bitsandbytes")
        except ImportError as error:
            raise UserError(
                'optimizer=adamw_8bit needs the library bitsandbytes; pip install "oboro[bitsandbytes]", or choose '
                "optimizer=adamw."
            ) from error
        unknown = {p.device.type for p in parameters} - set(bitsandbytes.supported_torch_devices)
        if unknown:
            raise UserError(f"bitsandbytes knows no {', '.join(sorted(unknown))} devices; choose optimizer=adamw.")
        settings = {"lr": self.lr, "betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay}
        return bitsandbytes.optim.AdamW8bit(parameters, **settings)
