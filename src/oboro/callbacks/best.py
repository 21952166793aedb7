"""When the best checkpoint is chosen, and the order of callbacks that makes it so."""

import time
from collections.abc import Sequence
from typing import Any

from lightning import Callback, Trainer

from oboro.callbacks.checkpoints import Checkpoints
from oboro.callbacks.evaluation import Evaluation, MetricEvaluation
from oboro.task import Task


class Best(Callback):
    """The moment at which the best checkpoint is chosen: after what measures."""

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints

    def on_train_batch_end(self, trainer: Trainer, task: Task, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._keep(trainer)

    def on_train_end(self, trainer: Trainer, task: Task) -> None:
        self._keep(trainer)

    def _keep(self, trainer: Trainer) -> None:
        start = time.perf_counter()
        self.checkpoints.keep_best(trainer)
        self.checkpoints.seconds += time.perf_counter() - start


def in_order(callbacks: Sequence[Callback]) -> list[Callback]:
    """``callbacks`` with those that write checkpoints no later than the first one that looks at weights, behind those
    that change what is written, and with the choice of the best one behind the last one that measures."""
    rest = [callback for callback in callbacks if not isinstance(callback, Checkpoints)]
    first = next((i for i, c in enumerate(rest) if isinstance(c, Evaluation) and not c.changes), len(rest))
    changed = max((i + 1 for i, c in enumerate(rest) if isinstance(c, Evaluation) and c.changes), default=0)
    measured = max((i + 1 for i, c in enumerate(rest) if isinstance(c, MetricEvaluation)), default=0)
    checkpoints = [callback for callback in callbacks if isinstance(callback, Checkpoints)]
    own = min((callbacks.index(callback) for callback in checkpoints), default=0)
    place = max(changed, min(first, own))
    end = max(place, measured)
    chosen = [Best(callback) for callback in checkpoints]
    return [*rest[:place], *checkpoints, *rest[place:end], *(chosen if measured else []), *rest[end:]]
