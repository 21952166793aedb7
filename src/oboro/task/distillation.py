"""Training of a student that draws in a few steps, with networks that are trained against it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from oboro.adapter import Adapter
from oboro.base.compiled import compile_in_place
from oboro.base.draws import Noise
from oboro.base.errors import UserError
from oboro.base.ranges import Seed
from oboro.codec import Codec
from oboro.condition import Condition
from oboro.conditioner import Conditioner
from oboro.data import DataModule
from oboro.denoiser import Denoiser
from oboro.divergence import Divergence
from oboro.ema import EMA
from oboro.guidance import Guidance
from oboro.loss import Distilling
from oboro.optimizer import Optimizer
from oboro.sampler import Sampler
from oboro.sampler.ancestral import Ancestral
from oboro.task.generation import Generation
from oboro.task.learner import Learner


class Distillation(Generation):
    """``denoiser``, the student, trained by ``loss`` on the samples that it draws with ``sampler`` in training, and the
    opponents of the loss beside it: a fake score, a discriminator.

    Each has an optimizer of its own with the settings ``fake_optimizer`` and ``discriminator_optimizer``; None stands
    for those of ``optimizer``. The student alone is averaged, and updated every ``loss.every`` steps. Checkpoints hold
    its opponents and not its teacher: to draw from a student the teacher's file is not needed.
    """

    loss: Distilling

    def __init__(
        self,
        denoiser: Denoiser,
        codec: Codec,
        conditioner: Conditioner,
        loss: Distilling,
        guidance: Guidance,
        sampler: Sampler,
        ema: EMA,
        optimizer: Optimizer,
        fake_optimizer: Optimizer | None = None,
        discriminator_optimizer: Optimizer | None = None,
        adapter: Adapter | None = None,
        seed: Seed = 0,
        compile: bool = False,
        noise: Noise = "per_rank",
        divergence: Divergence | None = None,
    ):
        parts = (denoiser, codec, conditioner, loss, guidance, sampler)
        super().__init__(*parts, ema, optimizer, adapter, seed, compile, noise, divergence)
        self.optimizers_of = {"fake": fake_optimizer, "discriminator": discriminator_optimizer}
        if compile:
            fakes = (network for network, *_ in loss.opponents.values() if isinstance(network, Denoiser))
            compile_in_place(*(fake.network for fake in fakes))

    @property
    def learners(self) -> Mapping[str, Learner]:
        """The student and its opponents."""
        learners = {"student": Learner(self.denoiser, self.optimizer, every=self.loss.every)}
        for name, (network, *beside) in self.loss.opponents.items():
            learners[name] = Learner(network, self.optimizers_of[name] or self.optimizer, beside=tuple(beside))
        return learners

    @property
    def frozen(self) -> Mapping[str, nn.Module]:
        return {**super().frozen, **{f"loss.{name}": part for name, part in self.loss.frozen.items()}}

    def check_training(self, data: DataModule) -> None:
        """Raises ``UserError`` also for a sampler whose steps are not Gaussian, an optimizer of nothing, and for
        features by which samples are measured, too."""
        super().check_training(data)
        if not isinstance(self.sampler, Ancestral):
            raise UserError(
                f"a student learns the steps of its sampler, each of one evaluation, and {type(self.sampler).__name__} "
                "has others; choose sampler=ddim_consistency, with 1 to 4 as sampler.steps."
            )
        self.loss.check(data, self.codec)
        for name, optimizer in self.optimizers_of.items():
            if optimizer is not None and name not in self.loss.opponents:
                raise UserError(f"{type(self.loss).__name__} as set trains no {name}; leave {name}_optimizer out.")
        judge = self.config.get("extractor", {}).get("_target_", "").rpartition(".")[2]
        for part in self.loss.frozen.values():
            if judge and getattr(part, "seen_by", None) == judge:
                raise UserError(
                    f"samples would be measured in the features of {judge} that the student learns from, and the "
                    "number would be too good; choose loss/features=classifier, or another extractor."
                )

    def learn(self, x: Tensor, cond: Condition, generator: torch.Generator) -> Tensor:
        terms = self.loss(self.denoiser, self.sampler, x, cond, generator, self.due("student"))
        self.log_dict({f"train/{name}": number for name, number in terms.numbers.items()})
        return terms.objective
