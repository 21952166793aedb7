"""Faults that happen inside of a run: ``+callbacks.fault={_target_: injection.Fault, does: sigterm, step: 3}``.

The run meets them by itself, at the moment that is named, so that no test has to wait for it.
"""

import io
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from lightning import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from oboro.base import whole_file
from oboro.base.errors import UserError
from oboro.callbacks.evaluation import MetricEvaluation
from oboro.callbacks.latent_statistics import LatentStatistics
from oboro.callbacks.sample_grid import SampleGrid
from oboro.task import Task


class Injected(Exception):
    """An error that no code knows of."""


def send(name: str) -> Callable[[Trainer, Task], None]:
    def act(trainer: Trainer, task: Task) -> None:
        os.kill(os.getpid(), getattr(signal, name.upper()))

    return act


def fail(trainer: Trainer, task: Task) -> None:
    raise Injected(f"rank {trainer.global_rank} met the injected error")


def mistake(trainer: Trainer, task: Task) -> None:
    raise UserError(f"rank {trainer.global_rank} cannot read its samples; remedy it")


def lose_folder(trainer: Trainer, task: Task) -> None:
    """Somebody removes the folder of the run, and a mistake is met."""
    shutil.rmtree(HydraConfig.get().runtime.output_dir)
    mistake(trainer, task)


def out_of_memory(trainer: Trainer, task: Task) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def files_up_to(n: int) -> Callable[[Trainer, Task], None]:
    """No file can have more than ``n`` bytes, as on a disk that is full; -1: any number."""

    def act(trainer: Trainer, task: Task) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (n, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    return act


def spoil_batch(trainer: Trainer, task: Task) -> None:
    """The first sample of the batch after this step is NaN."""
    task.encoded = after(task.encoded, lambda x: x.index_fill(0, torch.tensor([0]), float("nan")))


def spoil_all_batches(trainer: Trainer, task: Task) -> None:
    """All samples after this step are NaN."""
    encoded = task.encoded
    task.encoded = lambda batch: encoded(batch) + float("nan")


def spoil_loss(trainer: Trainer, task: Task) -> None:
    """The first loss after this step is infinite, and its gradient is finite."""
    infinity = torch.tensor([float("inf")])
    task.objective = after(task.objective, lambda losses: losses.index_add(0, torch.tensor([0]), infinity))


def spoil_gradient(trainer: Trainer, task: Task) -> None:
    """One gradient after this step is infinite."""
    p = next(p for p in task.learned.parameters() if p.requires_grad)
    hook = p.register_hook(lambda g: (hook.remove(), g + float("inf"))[1])


def spoil_update(trainer: Trainer, task: Task) -> None:
    """The next step of the optimizer makes a weight NaN."""
    hook = trainer.optimizers[0].register_step_post_hook(lambda *_: (hook.remove(), spoil_weights(trainer, task)))


def explode_gradient(trainer: Trainer, task: Task) -> None:
    """The loss of the batch after this step is a million times what it was."""
    task.objective = after(task.objective, lambda losses: 1e6 * losses)


def enlarge_batch(trainer: Trainer, task: Task) -> None:
    """The samples of the batch after this step are a million times what they are."""
    task.encoded = after(task.encoded, lambda x: 1e6 * x)


def after(f: Callable[..., Any], change: Callable[[Any], Any]) -> Callable[..., Any]:
    """``f`` whose next result is changed, once."""
    left = [change]

    def changed(*args: Any, **kwargs: Any) -> Any:
        result = f(*args, **kwargs)
        return left.pop()(result) if left else result

    return changed


def kill_worker(trainer: Trainer, task: Task) -> None:
    """As the system does where memory runs out, to the first process of the data loader."""
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    signal.pause()


def spoil_weights(trainer: Trainer, task: Task) -> None:
    with torch.no_grad():
        next(p for p in task.learned.parameters() if p.requires_grad).view(-1)[0] = float("nan")


def stop(trainer: Trainer, task: Task) -> None:
    trainer.should_stop = True


ACTS: dict[str, Callable[[Trainer, Task], None]] = {
    **{name: send(name) for name in ("sigterm", "sigint", "sighup", "sigusr1", "sigkill", "sigstop")},
    "raise": fail,
    "mistake": mistake,
    "lose_folder": lose_folder,
    "stop": stop,
    "sigterm_parent": lambda *_: os.kill(os.getppid(), signal.SIGTERM),
    "sleep": lambda *_: time.sleep(1.1),
    "out_of_memory": out_of_memory,
    "kill_worker": kill_worker,
    "nan_weights": spoil_weights,
    "full_disk": files_up_to(100_000),  # a checkpoint at toy size is larger, logs are not
    "free_disk": files_up_to(-1),
    "nan_batch": spoil_batch,
    "nan_batches": spoil_all_batches,
    "infinite_loss": spoil_loss,
    "infinite_gradient": spoil_gradient,
    "nan_update": spoil_update,
    "large_gradient": explode_gradient,
    "large_batch": enlarge_batch,
}


class Fault(Callback):
    """``does`` one of ``ACTS`` on rank ``rank`` (None: on all), ``times`` times in a row.

    ``when`` is ``step`` (after the optimizer step ``step``), ``batch`` (before the batch after it), ``validation``,
    ``saving`` (a checkpoint is about to be written), ``writing`` (some of it is on the disk), ``evaluation`` (sampling
    for metrics begins), ``grid`` or ``statistics``. The last six count from the first of their kind at step ``step`` or
    later, behind ``others`` of them.
    """

    def __init__(
        self, does: str, when: str = "step", step: int = 1, rank: int | None = 0, times: int = 1, others: int = 0
    ):
        self.does, self.when, self.step, self.rank, self.times = does, when, step, rank, times
        self.others = others
        self.done = False

    def _meet(self, when: str, trainer: Trainer, task: Task, exactly: bool = False) -> None:
        step = trainer.global_step
        due = step == self.step if exactly else step >= self.step
        if self.done or when != self.when or not due:
            return
        self.others -= 1
        if self.others >= 0:
            return
        self.done = True
        if self.rank in (None, trainer.global_rank):
            print(f"injected {self.does} at step {step}", file=sys.stderr, flush=True)
            if "FAULT_TIME" in os.environ:
                Path(os.environ["FAULT_TIME"]).touch()
            for _ in range(self.times):
                ACTS[self.does](trainer, task)

    def setup(self, trainer: Trainer, task: Task, stage: str) -> None:
        """Evaluations are not among Lightning's events."""
        for other in trainer.callbacks:
            kinds = {MetricEvaluation: "evaluation", SampleGrid: "grid", LatentStatistics: "statistics"}
            if any(isinstance(other, kind) and when == self.when for kind, when in kinds.items()):
                other.evaluate = self._before(other.evaluate, self.when)  # type: ignore[method-assign]
        if self.when == "writing":
            whole_file._Noting.write = self._after_writing(trainer, task)  # type: ignore[method-assign]

    def _after_writing(self, trainer: Trainer, task: Task) -> Callable[..., int | None]:
        def met(file: io.FileIO, data: Any) -> int | None:
            written = io.FileIO.write(file, data)
            self._meet("writing", trainer, task)
            return written

        return met

    def _before(self, evaluate: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def met(trainer: Trainer, task: Task) -> Any:
            self._meet(kind, trainer, task)
            return evaluate(trainer, task)

        return met

    def on_train_batch_start(self, trainer: Trainer, task: Task, batch: Any, batch_idx: int) -> None:
        self._meet("batch", trainer, task, exactly=True)

    def on_train_batch_end(self, trainer: Trainer, task: Task, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._meet("step", trainer, task, exactly=True)

    def on_validation_batch_start(self, trainer: Trainer, task: Task, *_: Any) -> None:
        self._meet("validation", trainer, task)

    def on_save_checkpoint(self, trainer: Trainer, task: Task, checkpoint: dict[str, Any]) -> None:
        self._meet("saving", trainer, task)


class Scores(MetricEvaluation):
    """Measures ``scores``, one after the other, after each step."""

    def __init__(self, scores: list[float]):
        super().__init__(1)
        self.scores = iter(scores)

    @property
    def objective(self) -> tuple[str, float]:
        return "score", self.score

    def evaluate(self, trainer: Trainer, task: Task) -> None:
        self.score, self.measured_at = next(self.scores), trainer.global_step


class NoLoss(Callback):
    """The loss of the first sample of each validation is NaN."""

    def on_validation_epoch_start(self, trainer: Trainer, task: Task) -> None:
        first = torch.tensor([0])
        task.measure = after(task.measure, lambda rows: rows.index_fill(0, first, float("nan")))  # type: ignore


class LittleMemory(Callback):
    """There is memory for ``most`` samples at once in what is not training."""

    def __init__(self, most: int):
        self.most = most

    def on_fit_start(self, trainer: Trainer, task: Task) -> None:
        def door(denoiser: torch.nn.Module, inputs: tuple) -> None:
            if not denoiser.training and len(inputs[0]) > self.most:
                out_of_memory(trainer, task)

        task.denoiser.register_forward_pre_hook(door)


class Failing(CSVLogger):
    """A logger that fails from step ``first`` to ``last``."""

    def __init__(self, save_dir: str, first: int = 0, last: int = 10**9):
        super().__init__(save_dir, name="csv", version="", flush_logs_every_n_steps=1)
        self.first, self.last = first, last

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self.first <= (step or 0) <= self.last:
            raise Injected("the service does not answer")
        super().log_metrics(metrics, step)


@contextmanager
def disk(room: int) -> Iterator[None]:
    """No file may become larger than ``room`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
