"""What is due after a step: named in its checkpoint, and made up where a run goes on from that."""

from pathlib import Path
from typing import Any

from lightning import Trainer

from oboro.base import distributed
from oboro.callbacks.checkpoints import Checkpoints
from oboro.callbacks.evaluation import MetricEvaluation, evaluations, note
from oboro.restore.evaluated import DUE, due, unfinished
from oboro.task import Task
from oboro.task.loop_state import validate_first

VALIDATION = "validation"
ROW = "row"  # what Lightning logs of a training step, when all callbacks have seen it


class Unfinished:
    """``names``: what was due after the step of the checkpoint that a run goes on from, and was not done.

    A checkpoint is written before anything else is done at its step, and has the names of what is due. Each of them is
    noted when it was done (``Checkpoints.noted``). So whatever ends a run, what is missing is made up once, and what is
    there is not repeated.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._row: dict[str, float] = {}  # of the step of that checkpoint
        self._validated_at = self._logged_at = -1
        self._row_due_at = -1  # the step of a checkpoint that was written before its row
        self._last: int | None = None  # trainer.max_steps, where Lightning is to know it later

    def load(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        step = checkpoint["global_step"]
        self.names = distributed.from_all(unfinished(checkpoint, Path(trainer.ckpt_path)))[0]
        self._row = due(checkpoint)[1]
        if VALIDATION in self.names:
            validate_first(checkpoint["loops"]["fit_loop"], step)
        if self.names and step == trainer.max_steps:
            self._last = trainer.max_steps

    def at_fit_start(self, trainer: Trainer) -> None:
        if self._last is not None:  # else Lightning starts nothing, and nothing could be made up at the last step
            trainer.fit_loop.epoch_loop.max_steps = -1

    def make_up(self, trainer: Trainer, task: Task) -> None:
        """In the order of the callbacks; validation follows, by Lightning. All ranks, when training starts."""
        step = trainer.global_step
        self._validated_at = -1 if VALIDATION in self.names else step
        if self._row and ROW in self.names:
            trainer._logger_connector.log_metrics(dict(self._row))
            note(trainer, ROW, {})
        self._logged_at = step
        if self.names:
            self._evaluate(trainer, task)
        self.names = []

    def _evaluate(self, trainer: Trainer, task: Task) -> None:
        """And the checkpoint that was written without what one of them changes."""
        last = self._last
        self.end_again(trainer)
        known = evaluations(trainer)
        cut = {name for name in known if name in self.names}
        saving = {name: callback for name, callback in known.items() if isinstance(callback, Checkpoints)}
        if any(known[name].changes for name in cut):
            cut |= set(saving)
        for name in cut:
            known[name].evaluated_at = -1  # all of them, since a signal may cut one again
        for name in [name for name in known if name in cut]:
            known[name].evaluate_once(trainer, task)
        for callback in saving.values():
            callback.keep_best(trainer)
            if last is not None:
                callback.evaluated_at = -1
        if last is not None and VALIDATION in self.names:
            self._last, trainer.fit_loop.epoch_loop.max_steps = last, -1
        elif last is not None:
            trainer.should_stop = True

    def end_again(self, trainer: Trainer) -> None:
        """Lightning knows the last step again."""
        if self._last is not None:
            trainer.fit_loop.epoch_loop.max_steps, self._last = self._last, None

    def validated(self, trainer: Trainer) -> None:
        self._validated_at = trainer.global_step
        note(trainer, VALIDATION, {})
        self.end_again(trainer)

    def log_row(self, trainer: Trainer) -> None:
        """Now, where the run ends before Lightning comes to it."""
        trainer._logger_connector.update_train_step_metrics()
        self._logged_at = trainer.global_step
        self.row_was_logged(trainer)

    def row_was_logged(self, trainer: Trainer) -> None:
        """To be noted where a checkpoint of this step was written before."""
        if self._row_due_at == trainer.global_step:
            self._row_due_at = -1
            note(trainer, ROW, {})

    def save(self, trainer: Trainer, checkpoint: dict[str, Any], ending: bool) -> None:
        """Into ``checkpoint``; where the run is ``ending`` everything is due."""
        step = trainer.global_step
        names = [
            name
            for name, callback in evaluations(trainer).items()
            if (ending or callback.due(trainer) or name in self.names)
            and callback.evaluated_at != step
            and not isinstance(callback, Checkpoints)
        ]
        if validates(trainer) and self._validated_at != step:
            names.append(VALIDATION)
        row = self._row_to_come(trainer)
        if row:
            self._row_due_at = step
            names.append(ROW)
        checkpoint[DUE] = {"names": names, **({"row": row} if row else {})}

    def _row_to_come(self, trainer: Trainer) -> dict[str, float]:
        batches, connector = trainer.fit_loop.epoch_loop.batch_progress.current, trainer._logger_connector
        logged = batches.completed == batches.processed or self._logged_at == trainer.global_step
        if logged or not trainer.loggers or not connector.should_update_logs:
            return {}
        return {name: float(value) for name, value in connector.metrics["log"].items()}


def validates(trainer: Trainer) -> bool:
    """Whether validation follows the step that was taken, as far as the number of steps decides it."""
    if not trainer.enable_validation or not isinstance(trainer.val_check_batch, int):
        return False
    batches = trainer.global_step * trainer.accumulate_grad_batches
    return batches > 0 and batches % trainer.val_check_batch == 0


def measured(trainer: Trainer) -> dict[str, float]:
    """The numbers of the first callback that has any, also of those that it measured at the last step before the run
    went on from there."""
    saving = [callback for callback in trainer.callbacks if isinstance(callback, Checkpoints)]
    for name, callback in evaluations(trainer).items():
        if isinstance(callback, MetricEvaluation):
            if callback.latest is not None:
                return callback.latest.numbers
            for other in saving:
                if numbers := other.numbers(trainer, name):
                    return numbers
    return {}
