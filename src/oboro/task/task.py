"""What all tasks share: the stream of randomness, averaged weights, validation by noise level, checkpoints."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.func import functional_call

from oboro import distributed
from oboro.codec import Identity
from oboro.data import ImageData
from oboro.ema import EMA
from oboro.errors import UserError
from oboro.optimizer import Optimizer
from oboro.seeding import SampleNoise, derive_seed, generator, low_discrepancy

LEVELS = 4


class Task(lightning.LightningModule, ABC):
    """One module trained by ``loss`` on ``codec.encode(image)``, averaged by ``ema``.

    Training noise is a function of (seed, step, rank), validation noise of (seed, image).

    Attributes:
        draws: whether it can generate images, so that callbacks may look at samples.
        measures: names of the numbers that ``measure`` gives.
    """

    draws: bool = False
    measures: tuple[str, ...] = ("loss",)

    def __init__(self, codec: Identity, loss: nn.Module, ema: EMA, optimizer: Optimizer, seed: int):
        super().__init__()
        self.codec = codec.requires_grad_(False)
        self.loss = loss
        self.ema = ema
        self.optimizer = optimizer
        self.seed = seed
        self.config: dict[str, Any] = {}  # the composed run, stored in every checkpoint

    @property
    @abstractmethod
    def learned(self) -> nn.Module:
        """What is trained and averaged, a module with a ``network``."""

    @property
    @abstractmethod
    def description(self) -> str:
        """What the network is trained for, in a few words."""

    @abstractmethod
    def check(self, data: ImageData) -> None:
        """Raises ``UserError`` where network, labels and ``data`` do not fit together."""

    @abstractmethod
    def objective(self, batch: dict[str, Tensor], x: Tensor, generator: torch.Generator) -> Tensor:
        """What training lowers (B,) for the encoded images ``x`` (B, ...) of ``batch``; draws are ``generator``'s."""

    @abstractmethod
    def measure(self, batch: dict[str, Tensor], x: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        """The numbers (B, len(measures)) of validation, at the quantiles ``u`` (B,) of p(t) and the noise ``eps``."""

    def check_network(self, data: ImageData, answers: Sequence[tuple[int, ...]], option: str) -> None:
        """Raises ``UserError`` where images are too small for the network, or its answer has none of the shapes.

        ``option`` is a model that gives the first of ``answers`` for one image.
        """
        network, shape = self.learned.network, self.codec.latent_shape(data.image_shape)
        if min(shape[1:]) < network.min_size:
            raise UserError(
                f"the network halves images down to 1/{network.min_size} and {shape[1]}×{shape[2]} cannot be halved "
                f"that often; set data.resolution to {network.min_size} or more, or fewer levels with "
                "model.channel_mult."
            )
        given = answer_shape(network, shape)
        if given not in answers:
            raise UserError(
                f"{type(network).__name__} makes {by(given)} of an image and {type(self).__name__} needs "
                f"{by(answers[0])}; choose model={option} or another one of its kind."
            )

    def on_fit_start(self) -> None:
        self.ema.start(self.learned)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        micro = batch_idx % self.trainer.accumulate_grad_batches
        indices = (self.global_step, micro, self.global_rank)
        g = generator(self.seed, "train", *indices, device=self.device)
        torch.manual_seed(derive_seed(self.seed, "dropout", *indices))  # layers read the global generator
        loss = self.objective(batch, self.codec.encode(batch["image"]), g).mean()
        self.log("train/loss", loss, prog_bar=True)
        self.log("step", self.global_step + 1.0)  # for loggers: steps done, where Lightning counts from 0
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.ema.update(self.learned)

    def on_validation_epoch_start(self) -> None:
        nothing = torch.empty(0, dtype=torch.int64, device=self.device)  # a rank may get no validation batch
        self._validation = [(nothing, torch.empty(0, len(self.measures) + 1, device=self.device))]

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """With the averaged weights, image i at a quantile of p(t) and an eps of its own, both frozen."""
        index, x = batch["index"], self.codec.encode(batch["image"])
        u = low_discrepancy(index)
        eps = SampleNoise(self.seed, (index + 2**32).tolist())(x)
        with self.averaged():
            numbers = self.measure(batch, x, u.to(x), eps)
        level = (u * LEVELS).long().to(numbers.device)
        self._validation.append((index, torch.cat([numbers.float(), level.float()[:, None]], 1)))

    def on_validation_epoch_end(self) -> None:
        """``val/<measure>`` over all images, and ``val/<measure>_noise<k>`` over those in quarter k of p(t)."""
        ids, rows = (torch.cat(column) for column in zip(*self._validation, strict=True))
        _, rows = distributed.gather_rows(ids, rows)
        *columns, level = rows.cpu().double().unbind(1)
        self.log("step", float(self.global_step))
        for name, numbers in zip(self.measures, columns, strict=True):
            self.log(f"val/{name}", numbers.mean(), prog_bar=True)
            there = [k for k in range(LEVELS) if (level == k).any()]
            self.log_dict({f"val/{name}_noise{k}": numbers[level == k].mean() for k in there})

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
        learned = [*self.learned.parameters(), *self.loss.parameters()]  # a weight may be learned too
        optimizer, schedule = self.optimizer(learned, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = self.ema.state_dict(self.learned)
        checkpoint["config"] = self.config

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.ema.load_state_dict(checkpoint["ema"], self.learned)
        align_batches(checkpoint, self.trainer.accumulate_grad_batches)


def by(shape: tuple[int, ...]) -> str:
    """``1×28×28``."""
    return "×".join(map(str, shape))


def answer_shape(network: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what a network makes of one image (C, H, W) = ``shape``, found without computing anything."""
    state = {name: v.to("meta") for name, v in chain(network.named_parameters(), network.named_buffers())}
    x, c_noise = torch.empty(1, *shape, device="meta"), torch.empty(1, device="meta")
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        return tuple(functional_call(network, state, (x, c_noise, {})).shape[1:])


def align_batches(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Restate Lightning's batch counters as whole optimizer steps of ``accumulate`` batches each.

    Else the first step after a resume is short when the accumulation changed, or when the file was written mid-step.
    """
    batches = checkpoint["global_step"] * accumulate
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for count in (progress["current"], progress["total"]):
        lag = count["ready"] != count["completed"] and count["processed"] == count["ready"]
        count.update(ready=batches, started=batches, processed=batches, completed=batches - lag)
