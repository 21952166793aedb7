"""Adam and its relatives."""

from collections.abc import Iterable
from importlib import import_module

import torch
from torch import nn

from oboro.base.errors import UserError
from oboro.base.ranges import CountOrNone, NonNegative
from oboro.base.shards import any_shard
from oboro.optimizer.decay import Decay
from oboro.optimizer.optimizer import Betas, Optimizer


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
        self.betas = (betas[0], betas[1])
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
        self.betas = (betas[0], betas[1])
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
