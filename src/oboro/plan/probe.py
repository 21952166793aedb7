"""A callback that looks at the first steps of a run, and ends it."""

import time
from contextlib import ExitStack
from typing import Any

import torch
from lightning import Callback, Trainer

from oboro.callbacks.checkpoints import Checkpoints
from oboro.callbacks.evaluation import Evaluation, evaluations
from oboro.plan.memory import Activations, size, state_size
from oboro.plan.operations import Operations
from oboro.plan.plan import Item
from oboro.task import Task

VALIDATED_AFTER, WARM = 3, 4  # steps: validation is looked at once, and the steps behind it are timed
NEVER = 2**62


class Probe(Callback):
    """Trains until steps of ``seconds`` together are timed, ``least`` of them and ``most`` at most, looks at every
    evaluation once or, where its cost goes with a number of samples, at some of them, and ends the run.

    The first step tells what is kept for the backward pass, the second the operations; a compiled network runs
    uncompiled there. It has to be the first of the callbacks. ``evaluates=False`` times steps alone.

    Attributes:
        step_seconds: of one optimizer step, its data included, in the mean.
        startup_seconds: from the start of the process to the first step.
        validation_seconds: of one batch of validation; 0 where there is none.
        operations: floating-point operations of one step, products counted as two.
        items: the evaluations, with how long each takes and how often it comes.
        bytes: of weights, gradients, optimizer, averages and activations, by these names.
    """

    def __init__(self, seconds: float = 8.0, least: int = 5, most: int = 200, evaluates: bool = True):
        self.seconds, self.least, self.most, self.evaluates = seconds, least, most, evaluates
        self._made = time.perf_counter() - time.process_time()  # the start of the process, as long as it did not wait
        self._inside = ExitStack()
        self._stamps: list[float] = []  # ends of the steps
        self._validation = (0.0, 0)  # seconds and batches
        self._operations: Operations | None = None
        self._activations = Activations()
        self.step_seconds = self.startup_seconds = self.validation_seconds = 0.0
        self.operations = 0
        self.items: list[Item] = []
        self.bytes: dict[str, int] = {}

    def on_train_batch_start(self, trainer: Trainer, task: Task, batch: Any, batch_idx: int) -> None:
        done = len(self._stamps)
        if batch_idx == 0:
            self._first = time.perf_counter()
            self.startup_seconds = self._first - self._made
        if batch_idx == 0:
            self._inside.enter_context(self._activations.recorded(task))
        elif done == 1 and self._operations is None:
            self._operations = self._inside.enter_context(Operations())
        if batch_idx == 0 or done == 1:
            self._inside.enter_context(torch.compiler.set_stance("force_eager"))

    def on_train_batch_end(self, trainer: Trainer, task: Task, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if batch_idx == 0 or step > len(self._stamps):
            self._inside.close()
        for evaluation in evaluations(trainer).values():  # each has its turn at the end
            evaluation.evaluated_at = step
        if step == len(self._stamps):
            return
        if step == WARM:
            self._wait(task)
        self._stamps.append(time.perf_counter())
        timed = self._stamps[WARM - 1 :]
        if len(timed) > self.most or (len(timed) > self.least and timed[-1] - timed[0] >= self.seconds):
            trainer.should_stop = True
        if step == trainer.max_steps:
            trainer.should_stop = True

    def on_validation_start(self, trainer: Trainer, task: Task) -> None:
        self._wait(task)
        self._validation = (time.perf_counter(), 0)

    def on_validation_batch_end(
        self, trainer: Trainer, task: Task, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._validation = (self._validation[0], batch_idx + 1)

    def on_validation_end(self, trainer: Trainer, task: Task) -> None:
        self._wait(task)
        begun, batches = self._validation
        self.validation_seconds = (time.perf_counter() - begun) / max(batches, 1)
        trainer.val_check_batch = NEVER

    def on_train_end(self, trainer: Trainer, task: Task) -> None:
        self._wait(task)
        self._stamps[-1] = time.perf_counter()
        timed = self._stamps[WARM - 1 :] if len(self._stamps) > WARM else [self._first, *self._stamps]
        self.step_seconds = (timed[-1] - timed[0]) / (len(timed) - 1)
        self.operations = 0 if self._operations is None else self._operations.total
        trained = [p for p in task.parameters() if p.requires_grad]
        self.bytes = {
            "weights": size([*task.parameters(), *task.buffers()]),
            "gradients": size(trained),
            "optimizer": sum(state_size(optimizer) for optimizer in trainer.optimizers),
            "averages": size(w for average in task.ema.averages.values() for w in average),
            "activations": self._activations.bytes,
        }
        for name, evaluation in evaluations(trainer).items() if self.evaluates else ():
            seconds = self._timed(trainer, task, evaluation)
            shared = not isinstance(evaluation, Checkpoints)
            self.items.append(Item(name.rpartition(" ")[0], seconds, times(trainer, evaluation), shared))

    def _timed(self, trainer: Trainer, task: Task, evaluation: Evaluation) -> float:
        """Seconds of one evaluation: of some samples, and what each further one takes."""
        whole, few = evaluation.samples, evaluation.chunk_size
        if whole is None or whole <= 2 * few:
            return self._once(trainer, task, evaluation)
        with evaluation.of(few):
            self._once(trainer, task, evaluation)  # what is read or built when it is first asked
            one = self._once(trainer, task, evaluation)
        with evaluation.of(2 * few):
            two = self._once(trainer, task, evaluation)
        return one + max(two - one, 0.0) * (whole - few) / few

    def _once(self, trainer: Trainer, task: Task, evaluation: Evaluation) -> float:
        self._wait(task)
        begun = time.perf_counter()
        evaluation.attempt(trainer, task)
        self._wait(task)
        return time.perf_counter() - begun

    def _wait(self, task: Task) -> None:
        """Until the device has done what it was given."""
        if task.device.type == "cuda":
            torch.cuda.synchronize(task.device)


def times(trainer: Trainer, evaluation: Evaluation) -> int:
    """How often it comes in a whole run."""
    steps, every = trainer.max_steps, evaluation.every_n_steps
    return 1 if every == 0 else steps // every + (steps % every > 0)
