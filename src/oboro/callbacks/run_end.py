"""How a run ends before its last step."""

import logging
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from oboro.base import distributed, interrupt, slurm
from oboro.base.command import as_typed
from oboro.base.errors import UserError
from oboro.callbacks.checkpoints import Checkpoints
from oboro.callbacks.early_stopping import check_early_stopping
from oboro.callbacks.unfinished import Unfinished
from oboro.task import Task
from oboro.task.loop_state import after_step

log = logging.getLogger(__name__)


class RunEnd(Callback):
    """Ends a run early after the same step on all ranks: for ``max_time``, which is the time of training in seconds
    with that of the runs that it goes on from, for a callback that sets ``trainer.should_stop`` on any rank, not before
    step ``min_steps``, or for a signal.

    The first two end as the last step does: everything is measured and saved. A signal leaves ``last.ckpt`` at the step
    that was taken, or, where that step was being looked at, cuts this short; what was cut is done where the run goes on
    (``Unfinished``), as it is after a kill. Ranks agree in the background, so with several of them the end comes a step
    later. Must be the last of the callbacks. Raises ``UserError`` where ``max_time`` is used up before training.

    In place of Lightning's own ways: its handler of SIGTERM waits for other ranks inside of the handler, where a signal
    to one of them alone is never answered, and saves nothing; its ``Timer`` waits for the device at every step; and its
    ``min_steps`` waits for the end of an epoch, which never comes.
    """

    def __init__(self, max_time: float | None = None, min_steps: int = 0):
        self.max_time = max_time
        self.min_steps = min_steps
        self._seconds = 0.0  # of the runs before
        self._start: float | None = None
        self._agreement: distributed.Agreement | None = None
        self._wanted = False
        self._number = 0  # the signal that all ranks know of
        self._between_steps = True
        self._step = -1
        self._unfinished = Unfinished()

    def setup(self, trainer: Trainer, task: Task, stage: str) -> None:
        """Lightning's own handlers of signals are left out, and its broadcast of SIGTERM at every step."""
        trainer._signal_connector.register_signal_handlers = lambda: None
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None

    def on_load_checkpoint(self, trainer: Trainer, task: Task, checkpoint: dict[str, Any]) -> None:
        self._unfinished.load(trainer, checkpoint)

    def on_fit_start(self, trainer: Trainer, task: Task) -> None:
        """Raises ``UserError`` for an ``EarlyStopping`` that would never stop."""
        for callback in trainer.callbacks:
            if isinstance(callback, EarlyStopping):
                check_early_stopping(callback, trainer, task)
        self._unfinished.at_fit_start(trainer)

    def on_train_start(self, trainer: Trainer, task: Task) -> None:
        interrupt.hold()
        if self._agreement is None:  # training may go back to a checkpoint and start again
            self._agreement = distributed.Agreement()
        self._start, self._step, self._between_steps = time.monotonic(), trainer.global_step, True
        if self._out_of_time:
            raise UserError(
                f"the {self._seconds:,.0f} s of training before used up trainer.max_time; set a longer one, or null."
            )
        self._unfinished.make_up(trainer, task)

    def on_train_batch_start(self, trainer: Trainer, task: Task, batch: Any, batch_idx: int) -> None:
        if self._between_steps:
            self._between_steps = False
            self._unfinished.row_was_logged(trainer)
            number = self._number if trainer.world_size > 1 else interrupt.held()
            if number:
                interrupt.end(number)

    def on_train_batch_end(self, trainer: Trainer, task: Task, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._wanted |= trainer.should_stop
        trainer.should_stop = False
        if trainer.global_step == self._step:  # a micro-batch
            return
        self._step, self._between_steps = trainer.global_step, True
        self._wanted |= self._out_of_time
        self._number, stop = self._agreement.next(interrupt.held(), int(self._wanted))
        self._stop(trainer, bool(stop))

    @property
    def _out_of_time(self) -> bool:
        return self.max_time is not None and self.seconds >= self.max_time

    @property
    def seconds(self) -> float:
        """Of training, with the runs before."""
        return self._seconds + (0.0 if self._start is None else time.monotonic() - self._start)

    def _stop(self, trainer: Trainer, stop: bool) -> None:
        trainer.should_stop = stop and trainer.global_step >= self.min_steps

    def on_validation_start(self, trainer: Trainer, task: Task) -> None:
        if not trainer.sanity_checking:
            self._unfinished.row_was_logged(trainer)

    def on_validation_batch_start(self, trainer: Trainer, task: Task, *_: Any) -> None:
        if not trainer.sanity_checking:
            (number,) = self._agreement.now(interrupt.held())
            if number:
                interrupt.end(number)

    def on_validation_end(self, trainer: Trainer, task: Task) -> None:
        if trainer.sanity_checking:
            return
        self._unfinished.validated(trainer)
        (stop,) = self._agreement.now(int(self._wanted or trainer.should_stop))
        self._wanted = bool(stop)
        self._stop(trainer, self._wanted)

    def on_train_end(self, trainer: Trainer, task: Task) -> None:
        self._agreement.close()
        self._unfinished.row_was_logged(trainer)
        if self._out_of_time and trainer.global_step < trainer.max_steps:
            announce(trainer, f"trainer.max_time is over at step {trainer.global_step:,} of {trainer.max_steps:,}.")

    def on_exception(self, trainer: Trainer, task: Task, exception: BaseException) -> None:
        """A checkpoint of what a signal has ended, and how to go on."""
        training = self._start is not None
        if training:
            self._agreement.close()
            self._unfinished.end_again(trainer)
        if not isinstance(exception, interrupt.Interrupted):
            return
        written = None
        if training and trainer.global_step > 0:
            if trainer.global_step != self._step:
                self._unfinished.log_row(trainer)
            for callback in trainer.callbacks:
                if isinstance(callback, Checkpoints):
                    callback.evaluate(trainer, task)
                    callback.settle(trainer, task)
                    written = callback.folder
        exception.reported = True
        announce(trainer, f"{exception.name}: {ended(trainer, written)}")
        if exception.number == slurm.SIGNAL and slurm.JOB in os.environ:
            exception.code = slurm.STATUS
            if trainer.is_global_zero:
                announce(trainer, slurm.requeue())
        if training:
            self._agreement.now(0)  # no rank ends before the first one expects it
        trainer.training = True  # of validation alone Lightning would leave the loader of training, whose workers wait

    def state_dict(self) -> dict[str, Any]:
        return {} if self.max_time is None else {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._seconds = max(self.seconds, state.get("seconds", 0.0))

    def on_save_checkpoint(self, trainer: Trainer, task: Task, checkpoint: dict[str, Any]) -> None:
        endless = trainer.num_training_batches == float("inf")
        after_step(checkpoint["loops"]["fit_loop"], trainer.global_step, endless)
        self._unfinished.save(trainer, checkpoint, ending=self._between_steps and trainer.should_stop)


def ended(trainer: Trainer, folder: Path | None) -> str:
    """Where the run ended, where its checkpoint is, and how to go on."""
    step = trainer.global_step
    if folder is None and step > 0 and not any(isinstance(c, Checkpoints) for c in trainer.callbacks):
        return f"ended at step {step:,}; without callbacks.checkpoints nothing is saved."
    if folder is None:
        return "ended before the first step; the same command starts again."
    path = folder / "last.ckpt"
    known = folder.parent if folder.name == "checkpoints" else path
    command = f"{as_typed(sys.argv[0])} resume={shlex.quote(shown(known))}"
    return f"ended at step {step:,} of {trainer.max_steps:,}, saved in {shown(path)}; `{command}` goes on."


def shown(path: Path) -> str:
    """As a user would type it: relative where it lies below the current folder."""
    path, here = path.absolute(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def announce(trainer: Trainer, line: str) -> None:
    if trainer.is_global_zero:
        log.info(line)
        print(line, file=sys.stderr, flush=True)
