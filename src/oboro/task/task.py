"""What all tasks share: the stream of randomness, averaged weights, validation, checkpoints."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import isfinite
from pathlib import Path
from typing import Any, Self

import lightning
import torch
from lightning import Callback
from torch import Tensor, nn

from oboro.base import distributed, shards
from oboro.base.draws import Noise
from oboro.base.errors import UserError
from oboro.base.finite import count_broken, first_broken
from oboro.base.memory import Parts, rows_of
from oboro.base.ranges import Seed
from oboro.base.remark import remark
from oboro.codec import Codec
from oboro.data import DataModule
from oboro.divergence import Divergence, LeftOut, Raise
from oboro.ema import EMA
from oboro.loss.time import TimeDistribution
from oboro.modality import Modality
from oboro.optimizer import Optimizer
from oboro.restore.frozen import join
from oboro.restore.rebuild import name_of_learned
from oboro.task.averaged_validation import AveragedValidation
from oboro.task.guard import Guard, norm_of
from oboro.task.learner import (
    Learner,
    Together,
    apply_settings,
    check_states,
    lowered,
    optimizers,
    separated,
    settings,
)
from oboro.task.loop_state import align_batches
from oboro.task.remarks import remark_warmup
from oboro.task.same_data import check_same_data
from oboro.task.training_noise import TrainingNoise


class Task(lightning.LightningModule, ABC):
    """Networks (``learners``) trained on ``codec.encode(x)``; ``learned`` is the one a run is for, averaged by
    ``ema``. ``frozen`` parts came trained.

    With ``noise="global"`` the ranks and micro-batches that share a batch have, together, the training noise of one
    process, so that a run goes on upon another number of them to within rounding (``TrainingNoise``). Validation looks
    at every held-out sample with the averaged weights, and its numbers are equal on any number of ranks.

    A task of several networks names them in ``learners``, each with an optimizer and an update ratio. One backward
    pass serves all: ``objective`` is the sum of their losses, in which each sees the others' weights
    (``oboro.base.constant``) or outputs (``detach``) as constants. A loss of a network need not be computed in a step
    in which it is not ``due``. Gradients are clipped for each network by itself.

    Attributes:
        modality: what one sample is: the data's in training, the checkpoint's afterwards.
        fingerprint: of the data (``DataModule``) that it is trained on; None before it is trained.
        draws: whether it can generate samples, so that callbacks may look at samples.
        reconstructs: whether it trains a codec, so that callbacks may look at reconstructions.
        needs_start: whether training makes sense only from the weights of another run.
        measures: the numbers of ``summary`` that the progress bar shows.
    """

    draws: bool = False
    reconstructs: bool = False
    needs_start: bool = False
    measures: tuple[str, ...] = ("loss",)

    def __init__(
        self,
        codec: Codec,
        loss: nn.Module,
        ema: EMA,
        optimizer: Optimizer,
        seed: Seed,
        noise: Noise = "per_rank",
        divergence: Divergence | None = None,
    ):
        super().__init__()
        self.codec = codec
        self.loss = loss
        self.ema = ema
        self.optimizer = optimizer
        self.seed = seed
        self._noise = TrainingNoise(seed, noise)
        self.guard = Guard(divergence or Raise())
        self.last_checkpoint: tuple[Path, int] | None = None  # of this run, and its step
        self.finish_checkpoint: Callable[[], None] = lambda: None  # waits for one that is being written; all ranks
        self.config: dict[str, Any] = {}  # the composed run, stored in every checkpoint
        self._other_averages: dict[str, EMA] = {}
        self.modality: Modality | None = None
        self._parts = Parts()  # of validation batches
        self._raw: dict[nn.Parameter, Tensor] = {}  # of the weights in whose place averages are
        self.fingerprint: str | None = None

    @property
    @abstractmethod
    def learned(self) -> nn.Module:
        """What the run is for: trained, averaged, and what others take from its checkpoints."""

    @property
    def learners(self) -> Mapping[str, Learner]:
        """The networks that are trained, by name."""
        return {name_of_learned(self): Learner(self.learned, self.optimizer, beside=(self.loss,))}

    @property
    def frozen(self) -> Mapping[str, nn.Module]:
        """Parts that came trained, by the attributes that they are: in evaluation mode, without gradients or averages,
        and not the optimizer's."""
        return {"codec": self.codec}

    @property
    def averages(self) -> dict[str, EMA]:
        """The averages of each learner that has some; all have the profiles of ``ema``."""
        kept = {}
        for name, learner in self.learners.items():
            if learner.network is self.learned:
                kept[name] = self.ema
            elif learner.averaged:
                kept[name] = self._other_averages.setdefault(name, EMA(self.ema.profiles))
        return kept

    @property
    def network(self) -> nn.Module:
        """Whose name stands for what is learned."""
        return self.learned

    @property
    def sharded(self) -> Sequence[nn.Module]:
        """The networks of which ranks may hold a part each: training and what comes of it call them as a whole."""
        return ()

    @property
    def whole(self) -> Sequence[nn.Parameter]:
        """Of these, weights that something else than their layer reads, so every rank holds all of them."""
        return ()

    @property
    @abstractmethod
    def description(self) -> str:
        """What the network is trained for, in a few words."""

    @abstractmethod
    def check(self, data: DataModule) -> None:
        """Raises ``UserError`` where network, labels and ``data`` do not fit together."""

    def check_training(self, data: DataModule) -> None:
        """Raises ``UserError`` where what training alone needs is missing or does not fit: a teacher, say. Whatever
        draws and measures does without."""
        if len(data.training_shapes) > 1:
            raise UserError(f"{type(self).__name__} learns from samples of one size; set data.buckets=0.")

    @abstractmethod
    def objective(self, batch: dict[str, Tensor], x: Tensor, generator: torch.Generator) -> Tensor:
        """What training lowers (B,) for the encoded images ``x`` (B, ...) of ``batch``; draws are ``generator``'s."""

    @abstractmethod
    def measure(self, batch: dict[str, Tensor], x: Tensor) -> Tensor:
        """What validation keeps of each image, (B, K); the averaged weights are in place."""

    @abstractmethod
    def summary(self, rows: Tensor) -> dict[str, float]:
        """The numbers of validation, by name, from the ``rows`` (N, K), float64, of all held-out images in order; the
        averaged weights are in place."""

    def setup(self, stage: str) -> None:
        self.modality, self.fingerprint = self.trainer.datamodule.modality, self.trainer.datamodule.fingerprint
        for part in self.frozen.values():
            part.requires_grad_(False).eval()
        self._adaptive = [part for part in self.modules() if isinstance(part, TimeDistribution) and part.adapts]

    def configure_model(self) -> None:
        """A strategy that lets each rank hold a part of the weights does so here, before there is an optimizer."""
        if hasattr(self.trainer.strategy, "shard"):
            self.trainer.strategy.shard(self)

    def train(self, mode: bool = True) -> Self:
        """``frozen`` parts stay in evaluation mode."""
        super().train(mode)
        for part in self.frozen.values():
            part.eval()
        return self

    def on_fit_start(self) -> None:
        for name, average in self.averages.items():
            average.start(self.learners[name].network)

    def on_train_start(self) -> None:
        """The optimizer's state is that of the checkpoint that a run goes on from, its settings are the run's own."""
        self._noise.prepare(self.modules())
        if self.trainer.ckpt_path is None:
            return
        record = self.guard.record
        chosen = lowered(self._chosen, record.rate)
        apply_settings(self.trainer.optimizers[0], self.trainer.lr_scheduler_configs[0].scheduler, chosen)
        if record.rate != 1:
            remark(f"the learning rate is {record.rate:.3g} of optimizer.lr after {record.rollbacks} rollbacks.")

    def due(self, name: str) -> bool:
        """Whether the learner ``name`` is updated in the step that is being taken."""
        return self.global_step % self.learners[name].every == 0

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        micro = batch_idx % self.trainer.accumulate_grad_batches
        if micro == 0:
            self.guard.begin(self.own_buffers)
            for time in self._adaptive:
                time.begin(self.trainer.accumulate_grad_batches)
        g = self._noise.start(self.trainer, micro, self.device)
        loss = self.guard.mean(self.objective(batch, self.encoded(batch), g), batch.get("index"))
        self.log("train/loss", loss, prog_bar=True)
        self.log("step", self.global_step + 1.0)  # for loggers: steps done, where Lightning counts from 0
        return loss + self.idle() if self.trainer.world_size > 1 else loss

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._noise.stop()

    def idle(self) -> Tensor | float:
        """0, with a gradient of 0 for every weight that is not due: ranks wait for each other's gradients of all."""
        resting = [learner for name, learner in self.learners.items() if not self.due(name)]
        return 0.0 * sum(p.sum() for learner in resting for p in learner.parameters)

    def encoded(self, batch: dict[str, Any]) -> Tensor:
        """The latents of a batch, which a cache may hold already."""
        return batch["latent"] if "latent" in batch else self.codec.encode(batch["x"])

    def own_buffers(self) -> list[Tensor]:
        """Those that training may write to."""
        frozen = {id(buffer) for part in self.frozen.values() for buffer in part.buffers()}
        return [buffer for buffer in self.buffers() if id(buffer) not in frozen]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The optimizers step and averages follow, unless the step diverges (``oboro.divergence``)."""
        try:
            super().optimizer_step(*args, **kwargs)
        except LeftOut:
            self.guard.undo()
            scaler = getattr(self.trainer.precision_plugin, "scaler", None)
            if scaler is not None:  # it waits for its step; its factor is not to blame
                scaler.update(scaler.get_scale())
            for logger in self.trainer.loggers:
                logger.log_metrics({"skipped_steps": self.guard.record.skipped}, self.global_step + 1)
        if not self.guard.updated:
            return
        self.guard.check_update(self)
        for name, average in self.averages.items():
            if self.due(name):
                average.update(self.learners[name].network)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """The gradients of each network that is due, by a norm of its own: one of all would let each slow the other.
        The norms say whether the step diverges, clipped or not."""
        active = optimizer.active if isinstance(optimizer, Together) else {next(iter(self.learners)): optimizer}
        parameters = {name: list(self.trainer.precision_plugin.main_params(each)) for name, each in active.items()}
        if shards.any_shard(self.parameters()):
            for group in parameters.values():
                shards.average_the_rest(group)
        norms = {name: norm_of(group) for name, group in parameters.items()}
        self.guard.check(self, norms)
        for name, each in active.items():
            if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
                shards.clip(parameters[name], gradient_clip_val, norms[name])
            else:
                self.clip_gradients(each, gradient_clip_val, gradient_clip_algorithm)

    def on_validation_epoch_start(self) -> None:
        self._validation: list[tuple[Tensor, Tensor]] = []

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        def measure(part: list[int]) -> Tensor:
            rows = batch if len(part) == len(batch["index"]) else rows_of(batch, part)
            return self.measure(rows, self.encoded(rows)).float()

        count = len(batch["index"])
        self._validation.append((batch["index"], self._parts.rows(measure, range(count))))

    def on_validation_epoch_end(self) -> None:
        """``val/<name>`` of every number of ``summary``."""
        ids, rows = (torch.cat(column) for column in zip(*self._validation, strict=True))
        _, rows = distributed.gather_rows(ids, rows)
        self.log("step", float(self.global_step))
        numbers = self.summary(rows.cpu().double())
        if broken := [f"val/{name}" for name, number in numbers.items() if not isfinite(number)]:
            remark(
                f"after step {self.global_step} validation gives no finite {', '.join(broken)}, from "
                f"{count_broken(rows)} of {len(rows)} samples; lower optimizer.lr if that does not pass."
            )
        for name, number in numbers.items():
            self.log(f"val/{name}", number, prog_bar=name in self.measures)

    @contextmanager
    def averaged(self, profile: str | None = None) -> Iterator[None]:
        """In evaluation mode with averaged weights; both the mode and the raw weights come back on every way out.

        A checkpoint that is written inside holds the raw weights. Raises ``UserError`` for averages that are not
        finite.
        """
        shards.apart(self)
        self.check_averages(profile)
        training, outer = self.training, self._raw
        self.eval()
        try:
            with ExitStack() as stack:
                for name, average in self.averages.items():
                    raw = stack.enter_context(average.applied(self.learners[name].network, profile))
                    self._raw = {**raw, **self._raw}
                stack.enter_context(shards.together(self))
                yield
        finally:
            self._raw = outer
            self.train(training)

    def check_averages(self, profile: str | None = None) -> None:
        """Raises ``UserError`` for averages that hold NaN or infinity: what they make looks like any other result."""
        for name, average in self.averages.items():
            weights = average.averages.get(profile or average.default, ())
            names = average.averaged(self.learners[name].network)
            if broken := first_broken(zip(names, weights, strict=False)):
                raise UserError(
                    f"the averaged weights of the {name} hold NaN or infinity ({broken}); take an earlier checkpoint."
                )

    def configure_callbacks(self) -> list[Callback]:
        return [AveragedValidation()]

    def configure_optimizers(self) -> dict[str, Any]:
        """Raises ``ValueError`` for a weight that requires a gradient and that no learner trains."""
        trained = {id(p) for learner in self.learners.values() for p in learner.parameters}
        for name, p in self.named_parameters():
            if p.requires_grad and id(p) not in trained:
                raise ValueError(f"{name} requires a gradient and none of {', '.join(self.learners)} trains it")
        for optimizer in dict.fromkeys(learner.optimizer for learner in self.learners.values()):
            remark_warmup(optimizer, self.trainer.max_steps)
        optimizer, schedule = optimizers(self.learners, self.trainer.max_steps, self.due)
        self._chosen = settings(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name, p in self.named_parameters(remove_duplicate=False):
            if p in self._raw and name in checkpoint["state_dict"]:
                checkpoint["state_dict"][name] = self._raw[p]
        others = {}
        for name, average in self.averages.items():
            state = average.state_dict(self.learners[name].network)
            if average is self.ema:
                checkpoint["ema"] = state
            else:
                others[name] = state
        if others:
            checkpoint["averages"] = others
        checkpoint["config"] = self.config
        if self.modality is not None:
            checkpoint["modality"] = self.modality.spec()
        if self.fingerprint is not None:
            checkpoint["fingerprint"] = self.fingerprint
        if remembered := self.guard.record.state():
            checkpoint["divergence"] = remembered

    def load_averages(self, checkpoint: dict[str, Any]) -> None:
        """``UserError`` where the checkpoint lacks the averages of a learner, or has those of another model."""
        for name, average in self.averages.items():
            state = checkpoint["ema"] if average is self.ema else checkpoint.get("averages", {}).get(name)
            if state is None:
                raise UserError(f"the checkpoint has no averages of the {name}; take one of a run that averaged it.")
            average.load_state_dict(state, self.learners[name].network)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.last_checkpoint = Path(self.trainer.ckpt_path), checkpoint["global_step"]
        join(checkpoint, self.trainer.ckpt_path)
        check_same_data(checkpoint, self.modality.spec(), self.fingerprint, self.trainer.ckpt_path)
        self.load_averages(checkpoint)
        self.guard.record.load(checkpoint.get("divergence", {}))
        separated(checkpoint, self.learners)
        check_states(checkpoint, self.learners, self.trainer.ckpt_path)
        align_batches(checkpoint, self.trainer.accumulate_grad_batches)
