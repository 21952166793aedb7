"""When validation sees the averaged weights."""

from contextlib import ExitStack
from typing import Any

from lightning import Callback


class AveragedValidation(Callback):
    """The averaged weights of a task are in place from the first batch of validation to its last number.

    A callback, since Lightning gives an exception to callbacks alone: the raw weights come back then, too.
    """

    def __init__(self) -> None:
        self._averaged = ExitStack()

    def on_validation_epoch_start(self, trainer: Any, task: Any) -> None:
        self._averaged.enter_context(task.averaged())

    def on_validation_end(self, trainer: Any, task: Any) -> None:
        self._averaged.close()

    def on_exception(self, trainer: Any, task: Any, exception: BaseException) -> None:
        self._averaged.close()
