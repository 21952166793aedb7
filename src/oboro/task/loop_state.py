"""Lightning's counters in a checkpoint."""

from typing import Any


def after_step(fit_loop: dict[str, Any], step: int, endless: bool) -> None:
    """Restate the counters of a checkpoint as if it had been written right after the optimizer step ``step``, where
    checkpoints usually are: a run that goes on from it takes the next step, whatever was being done.

    ``endless``: the stream has one epoch.
    """
    batches = fit_loop["epoch_loop.batch_progress"]
    for count in (batches["current"], batches["total"]):
        done = count["processed"]
        count.update(ready=done, started=done, completed=done - 1)
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] = step - 1
    if endless:
        for count in fit_loop["epoch_progress"].values():
            count.update(ready=1, started=1, processed=0, completed=0)


def validate_first(fit_loop: dict[str, Any], step: int) -> None:
    """Restate the counters of a checkpoint of ``step`` so that a run that goes on from it validates before anything."""
    held_out = fit_loop["epoch_loop.val_loop.batch_progress"]
    for count in (held_out["current"], held_out["total"]):
        count.update(ready=1, started=1, processed=0, completed=0)
    held_out["is_last_batch"] = False
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] = step - 2  # which Lightning counts after validation


def align_batches(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Restate Lightning's batch counters as whole optimizer steps of ``accumulate`` batches each.

    Else the first step after a resume is short when the accumulation changed, or when the file was written mid-step.
    """
    batches = checkpoint["global_step"] * accumulate
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for count in (progress["current"], progress["total"]):
        lag = count["ready"] != count["completed"] and count["processed"] == count["ready"]
        count.update(ready=batches, started=batches, processed=batches, completed=batches - lag)
