"""The progress bar."""

from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich import progress
from rich.console import Console

from oboro.base.ranges import Count
from oboro.task import Task


class Progress(ProgressBar):
    """Steps done of ``max_steps`` with what was logged with ``prog_bar=True``; on a pipe a line every tenth of the run.

    Lightning's own bar counts epochs, and the training stream has none.
    """

    def __init__(self, refresh_every_n_steps: Count = 10):
        super().__init__()
        self.refresh_every_n_steps = refresh_every_n_steps
        self._console = Console()
        self._progress: progress.Progress | None = None
        self._printed = 0
        self._enabled = True  # Lightning disables the bar on every rank but the first

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def on_train_start(self, trainer: Trainer, task: Task) -> None:
        if not (self._enabled and self._console.is_terminal):
            return
        total = trainer.max_steps if trainer.max_steps > 0 else None
        self._progress = progress.Progress(
            progress.TextColumn("[bold]training"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[values]}"),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            console=self._console,
        )
        self._bar = self._progress.add_task("training", total=total, completed=trainer.global_step, values="")
        self._progress.start()

    def on_train_batch_end(self, trainer: Trainer, task: Task, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if not self._enabled:
            return
        if self._progress is None:
            if step % max(trainer.max_steps // 10, 1) == 0 and step != self._printed:  # a step may have several batches
                self._printed = step
                self._console.print(f"step {step}/{trainer.max_steps}  {self._values(trainer, task)}", highlight=False)
        elif step % self.refresh_every_n_steps == 0 or step == trainer.max_steps:
            self._progress.update(self._bar, completed=step, values=self._values(trainer, task))

    def _values(self, trainer: Trainer, task: Task) -> str:
        metrics = self.get_metrics(trainer, task)
        return "  ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in metrics.items() if k != "v_num"
        )

    def on_train_end(self, trainer: Trainer, task: Task) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, task: Task, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def print(self, *args: Any, **kwargs: Any) -> None:
        self._console.print(*args)
