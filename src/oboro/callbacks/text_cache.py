"""Captions encoded once instead of in every run."""

import sys

from lightning import Callback, Trainer

from oboro.base.errors import UserError
from oboro.base.progress_bar import progress_bar
from oboro.task import Task


class TextCache(Callback):
    """Before training, what the text encoder makes of all captions of the data comes from the cache, or goes there.

    Raises ``UserError`` before training where the task has no conditioner, or one that reads no texts.
    """

    def setup(self, trainer: Trainer, task: Task, stage: str) -> None:
        if not task.draws:
            raise UserError(
                f"{type(task).__name__} has no conditions; leave callbacks.text_cache out of callbacks=[...]."
            )

    def on_fit_start(self, trainer: Trainer, task: Task) -> None:
        data = trainer.datamodule
        shown = trainer.is_global_zero and sys.stderr.isatty()
        with progress_bar("captions", None, shown) as done:
            captions = [*(data.train.captions or []), *(data.validation.captions or [])]
            task.conditioner.cache(captions, data.cache_dir / "texts", done)
