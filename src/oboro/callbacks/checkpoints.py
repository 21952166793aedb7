"""Weights on disk."""

import logging
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Any

from lightning import Trainer

from oboro.base import distributed
from oboro.base.errors import UserError
from oboro.base.interrupt import Interrupted
from oboro.base.ranges import CountOrNone, NonNegative
from oboro.base.remark import remark
from oboro.base.whole_file import clear_partial, link
from oboro.callbacks.disk_space import Room
from oboro.callbacks.evaluation import Evaluation, MetricEvaluation, evaluations, spared
from oboro.restore import frozen
from oboro.restore.evaluated import FILE, Outcomes, going_on_from, read_outcomes, write_outcomes
from oboro.restore.lightning_file import Way, use_checkpoint_file
from oboro.restore.sharded import remove_unnamed
from oboro.task import Task

log = logging.getLogger(__name__)
LAST, BEST, NUMBERED = "last.ckpt", "best.ckpt", "step-*.ckpt"
PATIENCE = 60.0  # seconds in which a run that fails writes what it has begun


class Checkpoints(Evaluation):
    """``folder/last.ckpt`` every so many steps, and ``folder/best.ckpt`` whenever the first of the metrics is the best
    so far: at the step and with the weights that are measured, however often ``last.ckpt`` is written. The last
    ``keep_last`` of those are kept as ``step-00001000.ckpt``, too; files of one step are one file with several names.

    A frozen part of the task of ``separate_from`` megabytes or more is not written again and again: it lies once in
    ``folder/frozen``, and the checkpoints name its digest (``oboro.restore.frozen``). With ``self_contained`` every
    checkpoint holds all that it needs; so do those of runs without such parts.

    With ``sharded`` every rank writes what it has, as safetensors files in ``folder/shards`` that a small ``last.ckpt``
    names (``oboro.restore.sharded``): under trainer.strategy=fsdp2 nothing is gathered. With ``asynchronous`` a
    checkpoint is copied to the memory of the host, and written while training goes on; what is measured, and what ends
    a run, waits for it, and the next one does. What could not be written is said then.

    A new file takes the place of the old one in one rename, after it has reached the disk. ``last.ckpt`` of a step is
    written before that step is measured, so that a metric that fails costs nothing; what is done after it stands in
    ``folder/evaluated.json`` (``oboro.restore.evaluated``), and a run that goes on makes up the rest. Must come after
    ``LatentStatistics`` and before what measures, and ``Best`` after that (``oboro.callbacks.best.in_order``).

    Raises ``UserError`` for both ``sharded`` and ``self_contained``, and before training where the disk has no room for
    one file. Where one cannot be written later, it
    is said, training goes on, and the one before stays whole; at the end of training ``UserError``.
    """

    def __init__(
        self,
        folder: str,
        every_n_steps: CountOrNone,
        separate_from: NonNegative = 100.0,
        self_contained: bool = False,
        keep_last: CountOrNone = 0,
        sharded: bool = False,
        asynchronous: bool = False,
    ):
        super().__init__(every_n_steps)
        if sharded and self_contained:
            raise UserError(
                "a checkpoint in shards is several files; leave out callbacks.checkpoints.self_contained, or "
                "callbacks.checkpoints.sharded."
            )
        self.folder = Path(folder)
        self.separate_from = separate_from
        self.self_contained = self_contained
        self.keep_last = keep_last
        self.way = Way(sharded, asynchronous)
        self.best: float = float("inf")
        self.measure: str | None = None  # what ``best`` is a value of
        self._compared_at = -1
        self._current: tuple[int, Path] | None = None  # the step of a file that holds the weights of that step
        self._begun: int | None = None  # the step of a last.ckpt whose end is not known yet
        self._file: Any = None  # what writes, known from ``setup`` on
        self._missing_at = -1  # the step of a checkpoint that could not be written
        self._file_at = -1  # the last step of which a run could go on from a file here
        self._outcomes: Outcomes = {}
        self._outcome: dict[str, Any] = {}  # of the checkpoint that the run goes on from
        self._unwritten = False  # whether the outcomes hold more than their file
        self._digests: dict[str, tuple[tuple, str]] = {}

    def setup(self, trainer: Trainer, task: Task, stage: str) -> None:
        """Raises ``UserError`` where another than ours writes checkpoints in a way that it does not know."""
        self._file = use_checkpoint_file(trainer.strategy)
        if self._file is None and self.way != Way():
            raise UserError(
                f"{type(trainer.strategy.checkpoint_io).__name__} writes the checkpoints of this run; leave out "
                "callbacks.checkpoints.sharded and callbacks.checkpoints.asynchronous, or that plugin."
            )
        task.finish_checkpoint = lambda: self.settle(trainer, task)

    def on_fit_start(self, trainer: Trainer, task: Task) -> None:
        super().on_fit_start(trainer, task)
        if trainer.is_global_zero:
            clear_partial(self.folder)
            remove_unnamed(self.folder)

    def on_load_checkpoint(self, trainer: Trainer, task: Task, checkpoint: dict[str, Any]) -> None:
        path, step = Path(trainer.ckpt_path), checkpoint["global_step"]
        outcomes = distributed.from_all(read_outcomes(path.parent))[0]
        if path.parent.absolute() == self.folder.absolute():
            self._current, self._file_at = (step, path), step
            self._outcomes = distributed.from_all(going_on_from(self.folder, step, outcomes))[0]
        else:
            self._outcomes = {step: outcomes[step]} if step in outcomes else {}
        self._outcome = self._outcomes.get(step, {})

    def on_train_start(self, trainer: Trainer, task: Task) -> None:
        super().on_train_start(trainer, task)
        self._compared_at = -1  # a run that has gone back comes by its steps again
        with distributed.together():
            if trainer.is_global_zero:
                room = Room.of(trainer, task, float("inf") if self.self_contained else self.separate_from)
                measures = any(isinstance(c, MetricEvaluation) for c in trainer.callbacks)
                room.check(self.folder, files=max(1, self.keep_last) + measures)
                if read_outcomes(self.folder).keys() - self._outcomes.keys():  # of a course that the run has left
                    self._write_outcomes()
        if task.guard.divergence.goes_back and task.last_checkpoint is None:
            self.evaluate(trainer, task)  # the first is that of the start where a run may have to go back to it

    def on_train_batch_end(self, trainer: Trainer, task: Task, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(trainer, task, outputs, batch, batch_idx)
        self.keep_best(trainer)  # where it comes after what measures

    def on_train_end(self, trainer: Trainer, task: Task) -> None:
        """Raises ``UserError`` where the last checkpoint cannot be written now either."""
        super().on_train_end(trainer, task)
        self.settle(trainer, task)
        if self._missing_at != trainer.global_step:
            return
        self.evaluate(trainer, task)
        self.settle(trainer, task)
        if self._missing_at == trainer.global_step:
            raise UserError(
                f"the last checkpoint, of step {trainer.global_step}, could not be written to {self.folder}; make room "
                "and go on from the one before with resume=<the folder of the run>."
            )

    def on_exception(self, trainer: Trainer, task: Task, exception: BaseException) -> None:
        """What is being written is not lost with what has failed; other ranks may not know of that. A thread that waits
        for one of them may not be left to the end of the interpreter, which it would abort."""
        if self._file is None or isinstance(exception, Interrupted):  # after which one more is written
            return
        step, self._begun = self._begun, None
        with suppress(Exception):  # the one that is raised already counts
            if self._file.wait(PATIENCE) and self._file.failure is None and step is not None:
                self._number(trainer, step)

    def evaluate(self, trainer: Trainer, task: Task) -> None:
        self.settle(trainer, task)
        self._begin(trainer, LAST, self.way)
        self._begun = trainer.global_step
        if not self.way.asynchronous:
            self.settle(trainer, task)

    def settle(self, trainer: Trainer, task: Task) -> None:
        """Wait for the ``last.ckpt`` that is being written, and see how that ended. All ranks."""
        if self._begun is None:
            return
        step, failure = self._begun, self._end()
        self._begun = None  # not before: a signal may come first, after which this is asked again
        if failure is None:
            self._current, self._missing_at = (step, self.folder / LAST), -1
            task.last_checkpoint = self.folder / LAST, step
            self._number(trainer, step)
            if self._unwritten and trainer.is_global_zero:
                self._write_outcomes()
        else:
            self._missing_at = step
            remark(
                f"the checkpoint of step {step} could not be written to {self.folder} ({failure}); the one before is "
                "whole, training goes on and tries again at the next; make room meanwhile."
            )

    def noted(self, trainer: Trainer, name: str, outcome: dict[str, Any]) -> None:
        step, known = trainer.global_step, trainer.global_step == self._file_at
        if isinstance(evaluations(trainer).get(name), Checkpoints) or not (known or "numbers" in outcome):
            return  # nothing goes on from a step without a file
        self._outcomes.setdefault(step, {}).setdefault("done", {})[name] = outcome
        self._unwritten = True
        if known and trainer.is_global_zero:
            self._write_outcomes()

    def numbers(self, trainer: Trainer, name: str) -> dict[str, float]:
        """What ``name`` has measured at this step, also before the run went on from there."""
        return self._outcomes.get(trainer.global_step, {}).get("done", {}).get(name, {}).get("numbers", {})

    def keep_best(self, trainer: Trainer) -> None:
        """Compare what was measured at this step, once."""
        step = trainer.global_step
        done = self._outcomes.get(step, {}).get("done", {})
        measured = [done[name] for name in evaluations(trainer) if "numbers" in done.get(name, {})]
        if not measured or step == self._compared_at:
            return
        self._compared_at = step
        objective = next((outcome["objective"] for outcome in measured if outcome.get("objective")), None)
        if objective is not None:
            self._compare(trainer, *objective)
        self._outcomes[step] |= {"best": self.best, "measure": self.measure}
        if trainer.is_global_zero:
            self._write_outcomes()

    def _write_outcomes(self) -> None:
        with spared(str(self.folder / FILE)):
            write_outcomes(self.folder, self._outcomes)
            self._unwritten = False

    def _compare(self, trainer: Trainer, name: str, value: float) -> None:
        before = self.best, self.measure
        if self.measure not in (None, name):  # values of another metric are no rivals
            self.best = float("inf")
        self.measure = name
        if not isfinite(value) or value >= self.best:
            return
        self.settle(trainer, trainer.lightning_module)
        self.best = value
        step, path = self._current or (-1, self.folder)
        if step == trainer.global_step:
            failure = self._name(path)
        else:
            self._begin(trainer, BEST, Way(self.way.sharded))
            failure = self._end()
        if failure is not None:  # the file is still the one before
            self.best, self.measure = before
            remark(f"the best checkpoint could not be written to {self.folder} ({failure}); the one before is whole.")

    def _begin(self, trainer: Trainer, name: str, way: Way) -> None:
        """All ranks take part."""
        self._file_at = trainer.global_step
        trainer.save_checkpoint(self.folder / name, weights_only=False, storage_options=way if self._file else None)

    def _end(self) -> str | None:
        """What went wrong with the file that was begun, on all ranks. Raises ``UserError`` for numbers that are not
        finite. A signal that came while one was written at once ends the run here; what is written in the background
        is waited for at moments of its own, and a run that is done by then has come to its end."""
        with distributed.together(ends=not self.way.asynchronous):
            failure = None
            if self._file:
                self._file.wait()
                failure = self._file.failure
            if isinstance(failure, UserError):
                raise failure
        return distributed.from_all(failure and (failure.strerror or str(failure)))[0]

    def _name(self, path: Path) -> str | None:
        """The file ``path`` is the best, too."""

        def linked() -> str | None:
            try:
                link(path, self.folder / BEST)
                remove_unnamed(self.folder)
            except OSError as error:
                return error.strerror or str(error)
            return None

        return distributed.from_first(linked) if path.name != BEST else None

    def _number(self, trainer: Trainer, step: int) -> None:
        """Keep the last of the files by their steps; later ones are of a course that the run has left and go first."""
        if not self.keep_last or not trainer.is_global_zero:
            return
        new = self.folder / NUMBERED.replace("*", f"{step:08d}")
        with spared(str(new)):
            link(self.folder / LAST, new)
            steps = {p: int(p.stem[5:]) for p in self.folder.glob(NUMBERED) if p.stem[5:].isdecimal()}
            files = sorted(steps, key=lambda path: (steps[path] <= step, steps[path]))
            for path in files[: -self.keep_last]:
                path.unlink(missing_ok=True)
            frozen.remove_unnamed(self.folder)
            remove_unnamed(self.folder)

    def on_save_checkpoint(self, trainer: Trainer, task: Task, checkpoint: dict[str, Any]) -> None:
        """Take the large frozen parts out of ``checkpoint``, after they were written; where they cannot be, they stay
        in it."""
        if self.self_contained:
            return
        with distributed.together():
            for place in task.frozen:
                part = frozen.part_of(checkpoint["state_dict"], place)
                large = sum(w.nbytes for w in part.values()) >= self.separate_from * 1e6
                if part and large and trainer.is_global_zero:
                    digest = self._digest(place, part)
                    try:
                        frozen.write(part, digest, self.folder)
                    except OSError as error:
                        log.warning("%s cannot be written beside the checkpoints: %s", place, error)
                        continue
                    checkpoint.setdefault("frozen", {})[place] = digest
                    for name in part:
                        del checkpoint["state_dict"][f"{place}.{name}"]

    def _digest(self, place: str, part: frozen.State) -> str:
        """Computed anew only where a tensor was replaced or written to since the last time."""
        versions = tuple((w.data_ptr(), w._version) for w in part.values())
        if self._digests.get(place, (None,))[0] != versions:
            self._digests[place] = (versions, frozen.digest(part))
        return self._digests[place][1]

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "measure": self.measure}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state = {**state, **self._outcome}
        self.best, self.measure = state["best"], state.get("measure")
