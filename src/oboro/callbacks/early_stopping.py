"""Lightning's ``EarlyStopping`` of a number that a run logs."""

from difflib import get_close_matches

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping

from oboro.base.errors import UserError
from oboro.callbacks.evaluation import MetricEvaluation
from oboro.callbacks.preflight import untouched
from oboro.task import Task

TRAINING = ("train/loss",)


def check_early_stopping(callback: EarlyStopping, trainer: Trainer, task: Task) -> None:
    """It looks after each validation at a number that was logged. Raises ``UserError`` where there is no validation, no
    such number, or where a metric is not measured as often."""
    monitor, interval = callback.monitor, trainer.val_check_interval
    if callback._check_on_train_epoch_end and trainer.limit_train_batches in (None, 1.0):
        raise UserError(
            "EarlyStopping waits for the end of an epoch, which never comes; set check_on_train_epoch_end=false."
        )
    if not len(trainer.datamodule.validation) or not trainer.limit_val_batches:
        raise UserError("EarlyStopping looks after each validation and there is none; set data.validation=1000.")
    steps = interval // trainer.accumulate_grad_batches if isinstance(interval, int) else None
    if steps is not None and steps > trainer.max_steps:
        raise UserError(
            f"EarlyStopping looks after each validation and the first is at step {steps} of {trainer.max_steps}; lower "
            "trainer.val_check_interval."
        )
    for measuring in (c for c in trainer.callbacks if isinstance(c, MetricEvaluation)):
        if measuring.gives(monitor):
            every = measuring.every_n_steps
            if steps is not None and (not every or steps % every):
                raise UserError(
                    f"EarlyStopping looks at {monitor} every {steps} steps and it is measured "
                    f"{f'every {every}' if every else 'at the end only'}; set every_n_steps={steps} of "
                    f"{type(measuring).__name__}."
                )
            return
    known = [*TRAINING, *validated(trainer, task)]
    if monitor not in known:
        close = get_close_matches(monitor, known, 1)
        meant = f" Did you mean {close[0]}?" if close else ""
        raise UserError(f"EarlyStopping looks at {monitor}, which is not logged; there are {', '.join(known)}.{meant}")


def validated(trainer: Trainer, task: Task) -> list[str]:
    """The names of the numbers of validation, from a few samples of it."""
    data = trainer.datamodule
    ids = torch.arange(min(64, len(data.validation)))
    batch = trainer.strategy.batch_to_device(data.validation.__getitems__((ids, None)))
    batch = data.on_after_batch_transfer(batch, 0)
    with untouched(task), torch.no_grad(), trainer.precision_plugin.forward_context():
        rows = task.measure(batch, task.encoded(batch)).float()
        return [f"val/{name}" for name in task.summary(rows.cpu().double())]
