"""What all tasks share: the stream of randomness, averaged weights, validation, checkpoints."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from oboro.base import distributed
from oboro.base.errors import UserError
from oboro.base.seeding import derive_seed, generator
from oboro.codec import Identity
from oboro.data import DataModule
from oboro.ema import EMA
from oboro.modality import Modality
from oboro.optimizer import Optimizer


class Task(lightning.LightningModule, ABC):
    """One module trained by ``loss`` on ``codec.encode(x)``, averaged by ``ema``.

    Training noise is a function of (seed, step, micro-batch, rank). Validation looks at every held-out sample with the
    averaged weights, and its numbers are equal on any number of ranks.

    Attributes:
        modality: what one sample is: the data's in training, the checkpoint's afterwards.
        draws: whether it can generate samples, so that callbacks may look at samples.
        reconstructs: whether it trains a codec, so that callbacks may look at reconstructions.
        needs_start: whether training makes sense only from the weights of another run.
        measures: the numbers of ``summary`` that the progress bar shows.
    """

    draws: bool = False
    reconstructs: bool = False
    needs_start: bool = False
    measures: tuple[str, ...] = ("loss",)

    def __init__(self, codec: Identity, loss: nn.Module, ema: EMA, optimizer: Optimizer, seed: int):
        super().__init__()
        self.codec = codec.requires_grad_(False)
        self.loss = loss
        self.ema = ema
        self.optimizer = optimizer
        self.seed = seed
        self.config: dict[str, Any] = {}  # the composed run, stored in every checkpoint
        self.modality: Modality | None = None

    @property
    @abstractmethod
    def learned(self) -> nn.Module:
        """What is trained and averaged."""

    @property
    def network(self) -> nn.Module:
        """Whose name stands for what is learned."""
        return self.learned

    @property
    @abstractmethod
    def description(self) -> str:
        """What the network is trained for, in a few words."""

    @abstractmethod
    def check(self, data: DataModule) -> None:
        """Raises ``UserError`` where network, labels and ``data`` do not fit together."""

    @abstractmethod
    def objective(self, batch: dict[str, Tensor], x: Tensor, generator: torch.Generator) -> Tensor:
        """What training lowers (B,) for the encoded images ``x`` (B, ...) of ``batch``; draws are ``generator``'s."""

    @abstractmethod
    def measure(self, batch: dict[str, Tensor], x: Tensor) -> Tensor:
        """What validation keeps of each image, (B, K) with K = ``columns``; the averaged weights are in place."""

    @property
    @abstractmethod
    def columns(self) -> int:
        """K, the length of a row of ``measure``: a rank may have no image to tell it by."""

    @abstractmethod
    def summary(self, rows: Tensor) -> dict[str, float]:
        """The numbers of validation, by name, from the ``rows`` (N, K), float64, of all held-out images in order."""

    def setup(self, stage: str) -> None:
        self.modality = self.trainer.datamodule.modality

    def on_fit_start(self) -> None:
        self.ema.start(self.learned)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        micro = batch_idx % self.trainer.accumulate_grad_batches
        indices = (self.global_step, micro, self.global_rank)
        g = generator(self.seed, "train", *indices, device=self.device)
        torch.manual_seed(derive_seed(self.seed, "dropout", *indices))  # layers read the global generator
        loss = self.objective(batch, self.encoded(batch), g).mean()
        self.log("train/loss", loss, prog_bar=True)
        self.log("step", self.global_step + 1.0)  # for loggers: steps done, where Lightning counts from 0
        return loss

    def encoded(self, batch: dict[str, Any]) -> Tensor:
        """The latents of a batch, which a cache may hold already."""
        return batch["latent"] if "latent" in batch else self.codec.encode(batch["x"])

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.ema.update(self.learned)

    def on_validation_epoch_start(self) -> None:
        nothing = torch.empty(0, dtype=torch.int64, device=self.device)  # a rank may get no validation batch
        self._validation = [(nothing, torch.empty(0, self.columns, device=self.device))]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        with self.averaged():
            rows = self.measure(batch, self.encoded(batch))
        self._validation.append((batch["index"], rows.float()))

    def on_validation_epoch_end(self) -> None:
        """``val/<name>`` of every number of ``summary``."""
        ids, rows = (torch.cat(column) for column in zip(*self._validation, strict=True))
        _, rows = distributed.gather_rows(ids, rows)
        self.log("step", float(self.global_step))
        for name, number in self.summary(rows.cpu().double()).items():
            self.log(f"val/{name}", number, prog_bar=name in self.measures)

    @contextmanager
    def averaged(self, profile: str | None = None) -> Iterator[None]:
        """In evaluation mode with averaged weights; both the mode and the raw weights come back on every way out."""
        training = self.training
        self.eval()
        try:
            with self.ema.applied(self.learned, profile):
                yield
        finally:
            self.train(training)

    def configure_optimizers(self) -> dict[str, Any]:
        parameters = (*self.learned.parameters(), *self.loss.parameters())  # a loss may learn, too
        optimizer, schedule = self.optimizer([p for p in parameters if p.requires_grad], self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = self.ema.state_dict(self.learned)
        checkpoint["config"] = self.config
        if self.modality is not None:
            checkpoint["modality"] = self.modality.spec()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        before = checkpoint.get("modality", self.modality.spec())
        if before != self.modality.spec():
            raise UserError(
                "the data have changed since the checkpoint was written, so training cannot go on: "
                f"{differences(before, self.modality.spec())}; give it the same data, or start anew with init=..."
            )
        self.ema.load_state_dict(checkpoint["ema"], self.learned)
        align_batches(checkpoint, self.trainer.accumulate_grad_batches)


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The values that two descriptions of samples do not share."""
    return ", ".join(
        f"{key} was {before.get(key)} and is {now.get(key)}"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key)
    )


def align_batches(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Restate Lightning's batch counters as whole optimizer steps of ``accumulate`` batches each.

    Else the first step after a resume is short when the accumulation changed, or when the file was written mid-step.
    """
    batches = checkpoint["global_step"] * accumulate
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for count in (progress["current"], progress["total"]):
        lag = count["ready"] != count["completed"] and count["processed"] == count["ready"]
        count.update(ready=batches, started=batches, processed=batches, completed=batches - lag)
