"""What tasks share that train a denoiser against other networks."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

import oboro.loss
from oboro.base.errors import UserError
from oboro.condition import Condition
from oboro.data import DataModule
from oboro.optimizer import Optimizer
from oboro.task.generation import Generation
from oboro.task.learner import Learner


class Game(Generation):
    """``denoiser`` trained by ``loss`` on the samples that it draws with ``sampler`` in training, and the opponents of
    the loss beside it. The denoiser alone is averaged, and updated every ``loss.every`` steps.

    ``player`` names the denoiser among the learners.
    """

    loss: oboro.loss.Game
    player: ClassVar[str]

    @property
    @abstractmethod
    def optimizers_of(self) -> Mapping[str, Optimizer | None]:
        """Those of opponents, by name; None stands for one with the settings of ``optimizer``."""

    @property
    def learners(self) -> Mapping[str, Learner]:
        """The denoiser and its opponents."""
        learners = {self.player: Learner(self.denoiser, self.optimizer, every=self.loss.every)}
        for name, (network, *beside) in self.loss.opponents.items():
            learners[name] = Learner(network, self.optimizers_of[name] or self.optimizer, beside=tuple(beside))
        return learners

    @property
    def frozen(self) -> Mapping[str, nn.Module]:
        return {**super().frozen, **{f"loss.{name}": part for name, part in self.loss.frozen.items()}}

    def check_training(self, data: DataModule) -> None:
        """Raises ``UserError`` also for data that the loss cannot learn from, and an optimizer of nothing."""
        super().check_training(data)
        self.loss.check(data, self.codec)
        for name, optimizer in self.optimizers_of.items():
            if optimizer is not None and name not in self.loss.opponents:
                raise UserError(f"{type(self.loss).__name__} as set trains no {name}; leave {name}_optimizer out.")

    def learn(self, x: Tensor, cond: Condition, generator: torch.Generator) -> Tensor:
        terms = self.loss(self.denoiser, self.sampler, x, cond, generator, self.due(self.player))
        self.log_dict({f"train/{name}": number for name, number in terms.numbers.items()})
        return terms.objective
