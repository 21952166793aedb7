"""When evaluation happens: every so many steps and at the last one."""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from lightning import Callback, Trainer

from oboro.base import distributed
from oboro.base.errors import UserError
from oboro.base.ranges import CountOrNone
from oboro.base.remark import remark
from oboro.evaluate.result import Result, protocol_line, values_line
from oboro.extractor import Extractor, Joint
from oboro.logger import log_result
from oboro.metrics import Metric, Paired
from oboro.task import Task

log = logging.getLogger(__name__)


class Evaluation(Callback, ABC):
    """Calls ``evaluate`` after steps ``every_n_steps``, 2 ``every_n_steps``, … and after the last one, whatever ends
    the run, on all ranks.

    ``every_n_steps = 0`` leaves only the last one. ``seconds`` is the time spent, so that throughput can exclude it.
    An error on one rank is one on all. It ends training, or, without ``stop_on_error``, is shown, and training goes on
    as if nothing had been evaluated.
    """

    stop_on_error: bool = True

    folder: Path | None = None  # where files are written to, of those that write
    changes: bool = False  # whether it changes what a checkpoint of the step holds, which then is the record of it

    def __init__(self, every_n_steps: CountOrNone):
        self.every_n_steps = every_n_steps
        self.seconds = 0.0
        self.evaluated_at = -1

    @abstractmethod
    def evaluate(self, trainer: Trainer, task: Task) -> None:
        """What is done."""

    @property
    def samples(self) -> int | None:
        """How many it looks at, where its cost goes with their number."""
        return None

    @property
    def chunk_size(self) -> int:
        """How many of these at once."""
        return 1

    @contextmanager
    def of(self, samples: int) -> Iterator[None]:
        """Of so many samples inside, for one whose cost goes with their number."""
        yield

    def on_fit_start(self, trainer: Trainer, task: Task) -> None:
        """Raises ``UserError`` where nothing can be written to ``folder``: before training, not after it."""
        with distributed.together():
            if self.folder is not None and trainer.is_global_zero:
                self._check_folder(self.folder)

    def _check_folder(self, folder: Path) -> None:
        new = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=folder):
                pass
            if new:  # what is refused after this leaves nothing
                with suppress(OSError):  # another has written to it
                    folder.rmdir()
        except OSError as error:
            raise UserError(
                f"{type(self).__name__} cannot write to {folder} ({error.strerror}); give it another folder, or "
                "the run, hydra.run.dir=<folder>"
            ) from error

    def on_train_start(self, trainer: Trainer, task: Task) -> None:
        """A run that goes on from a checkpoint has done what was due at its step."""
        self.evaluated_at = trainer.global_step
        if self.folder is not None and trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)

    def due(self, trainer: Trainer) -> bool:
        """Whether it happens after the step that was taken, as far as is known before the next one: what ends a run
        early may come later."""
        step = trainer.global_step
        return step == trainer.max_steps or (self.every_n_steps > 0 and step > 0 and step % self.every_n_steps == 0)

    def on_train_batch_end(self, trainer: Trainer, task: Task, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.due(trainer):
            self.evaluate_once(trainer, task)

    def on_train_end(self, trainer: Trainer, task: Task) -> None:
        """The last step of a run that ends early."""
        if trainer.global_step > 0:
            self.evaluate_once(trainer, task)

    def evaluate_once(self, trainer: Trainer, task: Task) -> None:
        """Unless it was done at this step; with gradient accumulation a step has several batches."""
        if trainer.global_step != self.evaluated_at:
            start = time.perf_counter()
            done = self.attempt(trainer, task)
            self.evaluated_at = trainer.global_step
            if done and not self.changes:
                note(trainer, name_of(trainer, self), self.outcome(trainer))
            self.seconds += time.perf_counter() - start

    def outcome(self, trainer: Trainer) -> dict[str, Any]:
        """What is kept of it where it was done."""
        return {}

    def noted(self, trainer: Trainer, name: str, outcome: dict[str, Any]) -> None:
        """``name`` of what is due after this step was done; for those that keep a record of it."""

    def attempt(self, trainer: Trainer, task: Task) -> bool:
        """``evaluate``, on all ranks or on none; whether it was done."""
        try:
            with distributed.together():
                self.evaluate(trainer, task)
            return True
        except Exception as error:
            if self.stop_on_error:
                raise
            self.fail()
            log.info("what failed:", exc_info=error)
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            step = trainer.global_step
            remark(f"{type(self).__name__} failed after step {step} and training goes on without it: {reason}")
            return False

    def fail(self) -> None:
        """What is left of an evaluation that failed."""


def evaluations(trainer: Trainer) -> dict[str, Evaluation]:
    """The callbacks that evaluate, by name: several of a kind are numbered."""
    named: dict[str, Evaluation] = {}
    for callback in trainer.callbacks:
        if isinstance(callback, Evaluation):
            kind = type(callback).__name__
            named[f"{kind} {1 + sum(type(c) is type(callback) for c in named.values())}"] = callback
    return named


def name_of(trainer: Trainer, callback: Evaluation) -> str:
    return next(name for name, other in evaluations(trainer).items() if other is callback)


def note(trainer: Trainer, name: str, outcome: dict[str, Any]) -> None:
    """``name`` of what is due after this step was done, with this ``outcome``."""
    for callback in evaluations(trainer).values():
        callback.noted(trainer, name, outcome)


class SampleEvaluation(Evaluation, ABC):
    """An evaluation of generated images. Raises ``UserError`` before training where the task generates none."""

    def setup(self, trainer: Trainer, task: Task, stage: str) -> None:
        if not task.draws:
            raise UserError(
                f"{type(self).__name__} looks at samples and {type(task).__name__} draws none; leave it out of "
                "callbacks=[...]."
            )


class CodecEvaluation(Evaluation, ABC):
    """An evaluation of the codec that is trained. Raises ``UserError`` before training where the task trains none."""

    def setup(self, trainer: Trainer, task: Task, stage: str) -> None:
        if not task.reconstructs:
            raise UserError(
                f"{type(self).__name__} looks at a codec in training and {type(task).__name__} trains none; leave it "
                "out of callbacks=[...]."
            )


@contextmanager
def spared(what: str) -> Iterator[None]:
    """A run outlives a disk that is full, or gone for a while: ``what`` is not written then, which is said."""
    try:
        yield
    except OSError as error:
        remark(f"{what} could not be written ({error.strerror or error}); training goes on without; make room.")


def check_images(callback: Evaluation, n: int | None, chunk: int) -> None:
    """Raises ``UserError`` unless ``n`` images (None: all) in chunks of ``chunk`` are some."""
    if chunk < 1 or (n is not None and n < 1):
        raise UserError(
            f"{type(callback).__name__} looks at no image with n={n} and chunk={chunk}; set both to 1 or more."
        )


class MetricEvaluation(Evaluation, ABC):
    """An evaluation that measures: ``latest`` is the last result, at the step ``measured_at``; its first number decides
    which checkpoint is best."""

    metrics: Mapping[str, Metric | Paired] | None = None  # what it measures; None where there are none to choose from
    extractor: Extractor | Joint
    images: int  # how many are measured

    def __init__(self, every_n_steps: CountOrNone):
        super().__init__(every_n_steps)
        self.latest: Result | None = None
        self.measured_at = -1  # the step of ``latest``

    def on_train_start(self, trainer: Trainer, task: Task) -> None:
        super().on_train_start(trainer, task)
        self.measured_at = -1  # a run that has gone back comes by its steps again

    def outcome(self, trainer: Trainer) -> dict[str, Any]:
        if self.measured_at != trainer.global_step:
            return {}
        numbers = {} if self.latest is None else self.latest.numbers
        return {"numbers": numbers, "objective": self.objective and list(self.objective)}

    def fail(self) -> None:
        """An older result is none of the weights that a run ends with."""
        self.latest, self.measured_at = None, -1

    def gives(self, name: str) -> bool:
        """Whether it measures a number of this name, as far as that is known before."""
        metrics = list((self.metrics or {}).values())
        paired = [short for metric in metrics if isinstance(metric, Paired) for short in metric.names]
        if any(name.rpartition("/")[2] == f"{short}_{self.images}" for short in paired):
            return True
        ends = [f"_{part.name}_{self.images}" for part in self.extractor.parts]
        return any(not isinstance(metric, Paired) for metric in metrics) and name.endswith(tuple(ends))

    @property
    def objective(self) -> tuple[str, float] | None:
        """Name and value of the first number measured last, signed so that smaller is better."""
        if self.latest is None or not self.latest.values:
            return None
        name, value = next(iter(self.latest.values.items()))
        return name, value.value * (-value.better or 1)

    def log_result(self, trainer: Trainer, result: Result) -> None:
        """To every logger with its protocol, to ``trainer.callback_metrics`` and, as the latest, to ``latest``."""
        self.latest, self.measured_at = result, trainer.global_step
        trainer.callback_metrics.update({k: torch.tensor(v) for k, v in result.numbers.items()})
        log_result(trainer.loggers, result, trainer.global_step)
        if trainer.is_global_zero:
            log.info("protocol: %s", protocol_line(result.protocol))
            log.info("step %d: %s", trainer.global_step, values_line(result))
