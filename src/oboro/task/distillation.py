"""Training of a student that draws in a few steps, with networks that are trained against it."""

from collections.abc import Mapping

from oboro.adapter import Adapter
from oboro.base.compiled import compile_in_place
from oboro.base.draws import Noise
from oboro.base.errors import UserError
from oboro.base.ranges import Seed
from oboro.codec import Codec
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
from oboro.task.game import Game


class Distillation(Game):
    """``denoiser``, the student, trained by ``loss`` on the samples that it draws with ``sampler`` in training, and the
    opponents of the loss beside it: a fake score, a discriminator.

    Each has an optimizer of its own with the settings ``fake_optimizer`` and ``discriminator_optimizer``; None stands
    for those of ``optimizer``. Checkpoints hold the student's opponents and not its teacher: to draw from a student the
    teacher's file is not needed.
    """

    loss: Distilling
    player = "student"
    learns_steps = True

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
        self._optimizers = {"fake": fake_optimizer, "discriminator": discriminator_optimizer}
        if compile:
            fakes = (network for network, *_ in loss.opponents.values() if isinstance(network, Denoiser))
            compile_in_place(*(fake.network for fake in fakes))

    @property
    def optimizers_of(self) -> Mapping[str, Optimizer | None]:
        return self._optimizers

    def check_training(self, data: DataModule) -> None:
        """Raises ``UserError`` also for a sampler whose steps are not Gaussian, and for features by which samples are
        measured, too."""
        if not isinstance(self.sampler, Ancestral):
            raise UserError(
                f"a student learns the steps of its sampler, each of one evaluation, and {type(self.sampler).__name__} "
                "has others; choose sampler=ddim_consistency, with 1 to 4 as sampler.steps."
            )
        super().check_training(data)
        self.check_judge(self.config.get("extractor", {}).get("_target_", "").rpartition(".")[2])

    def check_judge(self, judge: str) -> None:
        for part in self.loss.frozen.values():
            if judge and getattr(part, "seen_by", None) == judge:
                raise UserError(
                    f"samples would be measured in the features of {judge} that the student learns from, and the "
                    "number would be too good; choose loss/features=classifier, or another extractor."
                )
