"""Training of a denoiser: the LightningModule that wraps it and its averaged weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from torch import Tensor

from oboro import distributed
from oboro.codec import Identity
from oboro.conditioner import Label, Unconditional
from oboro.denoiser import Cond, Denoiser
from oboro.ema import EMA
from oboro.generate import Watch, generate
from oboro.guidance import Guidance
from oboro.loss import Denoising, Hybrid
from oboro.optimizer import Optimizer
from oboro.sampler import Sampler
from oboro.seeding import SampleNoise, derive_seed, generator, low_discrepancy

LEVELS = 4


class Diffusion(lightning.LightningModule):
    """``denoiser`` trained by ``loss`` on ``codec.encode(image)`` under ``conditioner``, averaged by ``ema``.

    Training noise is a function of (seed, step, rank), validation noise of (seed, image), samples of (seed, id).
    ``compile`` compiles the network in place, which keeps the names of its weights.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        codec: Identity,
        conditioner: Unconditional | Label,
        loss: Denoising | Hybrid,
        guidance: Guidance,
        sampler: Sampler,
        ema: EMA,
        optimizer: Optimizer,
        seed: int = 0,
        compile: bool = False,
    ):
        super().__init__()
        self.denoiser = denoiser
        self.codec = codec.requires_grad_(False)
        self.conditioner = conditioner
        self.loss = loss
        self.guidance = guidance
        self.sampler = sampler
        self.ema = ema
        self.optimizer = optimizer
        self.seed = seed
        self.config: dict[str, Any] = {}  # the composed run, stored in every checkpoint
        if compile:
            self.denoiser.network.compile()

    def on_fit_start(self) -> None:
        self.ema.start(self.denoiser)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        micro = batch_idx % self.trainer.accumulate_grad_batches
        indices = (self.global_step, micro, self.global_rank)
        g = generator(self.seed, "train", *indices, device=self.device)
        torch.manual_seed(derive_seed(self.seed, "dropout", *indices))  # layers read the global generator
        x = self.codec.encode(batch["image"])
        loss = self.loss(self.denoiser, x, self.conditioner(batch, g), g).mean()
        self.log("train/loss", loss, prog_bar=True)
        self.log("step", self.global_step + 1.0)  # for loggers: steps done, where Lightning counts from 0
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.ema.update(self.denoiser)

    def on_validation_epoch_start(self) -> None:
        nothing = torch.empty(0, dtype=torch.int64, device=self.device)  # a rank may get no validation batch
        self._validation = [(nothing, torch.empty(0, 2, device=self.device))]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Loss of the averaged weights, image i at a quantile of p(t) and an eps of its own, both frozen."""
        index, x = batch["index"], self.codec.encode(batch["image"])
        u = low_discrepancy(index)
        eps = SampleNoise(self.seed, (index + 2**32).tolist())(x)
        with self.averaged():
            loss = self.loss.at_quantile(self.denoiser, x, self.conditioner.keep(batch), u.to(x), eps)
        level = (u * LEVELS).long().to(loss.device)
        self._validation.append((index, torch.stack([loss.float(), level.float()], 1)))

    def on_validation_epoch_end(self) -> None:
        ids, rows = (torch.cat(column) for column in zip(*self._validation, strict=True))
        _, rows = distributed.gather_rows(ids, rows)
        loss, level = rows.cpu().double().unbind(1)
        self.log("val/loss", loss.mean(), prog_bar=True)
        self.log("step", float(self.global_step))
        self.log_dict({f"val/loss_noise{k}": loss[level == k].mean() for k in range(LEVELS) if (level == k).any()})

    @contextmanager
    def averaged(self, profile: str | None = None) -> Iterator[None]:
        """In evaluation mode with averaged weights; both the mode and the raw weights come back on every way out."""
        training = self.training
        self.eval()
        try:
            with self.ema.applied(self.denoiser, profile):
                yield
        finally:
            self.train(training)

    def generate(
        self, ids: list[int], seed: int, cond: Cond, image_shape: tuple[int, int, int], watch: Watch | None = None
    ) -> Tensor:
        """Images (len(ids), C, H, W) in [-1, 1] from the current weights, with the task's guidance and sampler."""
        return generate(
            self.denoiser,
            self.guidance,
            self.sampler,
            self.codec,
            ids=ids,
            seed=seed,
            cond=cond,
            latent_shape=self.codec.latent_shape(image_shape),
            device=self.device,
            watch=watch,
        )

    def configure_optimizers(self) -> dict[str, Any]:
        learned = [*self.denoiser.parameters(), *self.loss.parameters()]  # a weight may be learned too
        optimizer, schedule = self.optimizer(learned, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = self.ema.state_dict(self.denoiser)
        checkpoint["config"] = self.config

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.ema.load_state_dict(checkpoint["ema"], self.denoiser)
        align_batches(checkpoint, self.trainer.accumulate_grad_batches)


def align_batches(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Restate Lightning's batch counters as whole optimizer steps of ``accumulate`` batches each.

    Else the first step after a resume is short when the accumulation changed, or when the file was written mid-step.
    """
    batches = checkpoint["global_step"] * accumulate
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for count in (progress["current"], progress["total"]):
        lag = count["ready"] != count["completed"] and count["processed"] == count["ready"]
        count.update(ready=batches, started=batches, processed=batches, completed=batches - lag)
