"""Loggers that fail without ending the run: a service that does not answer, a full disk, a missing library."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_only

from oboro.base.errors import UserError
from oboro.base.remark import remark
from oboro.logger.jsonl import JSONL

log = logging.getLogger(__name__)
T = TypeVar("T")
MISTAKES = (UserError, TypeError, ValueError)  # of the configuration: these end the run before it trains
METHODS = ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize", "after_save_checkpoint")
LONGEST_PAUSE = 1024  # calls


class Guard:
    """Calls a logger that may fail: the first failure is a remark, and after the k-th in a row 2^k calls are left out.

    ``spare`` gets the numbers that the logger does not, where nothing else keeps them.
    """

    def __init__(self, name: str, spare: JSONL | None):
        self.name, self.spare = name, spare
        self.failures = self.pause = self.missed = 0
        self.inside = False  # a method of the logger asks for its own experiment

    def __call__(self, f: Callable[[], T], otherwise: Callable[[], T]) -> T:
        if self.inside:
            return f()
        if self.pause:
            self.pause -= 1
            return otherwise()
        self.inside = True
        try:
            result = f()
        except UserError:
            raise
        except Exception as error:
            self.failed(error)
            return otherwise()
        finally:
            self.inside = False
        self.failures = 0
        return result

    def failed(self, error: BaseException) -> None:
        if not self.missed and not self.failures:
            kept = "metrics.jsonl has all numbers" if self.spare is None else f"its numbers go to {self.spare.path}"
            remark(f"{self.name} fails ({described(error)}): training goes on without it, and {kept}")
        self.failures += 1
        self.pause = min(2**self.failures, LONGEST_PAUSE)

    def miss(self, metrics: Mapping[str, Any], step: int | None) -> None:
        self.missed += 1
        if self.spare is not None:
            self.spare.log_metrics(metrics, step)


def described(error: BaseException) -> str:
    """The error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__


def guarded(logger: Logger, spare: JSONL | None = None) -> Logger:
    """``logger`` itself, still an instance of its class, whose failures are passed over as ``Guard`` says."""
    kind, guard = type(logger), Guard(type(logger).__name__, spare)

    def method(name: str) -> Callable[..., Any]:
        whole = getattr(kind, name)

        def called(self: Logger, *args: Any, **kwargs: Any) -> Any:
            return guard(lambda: whole(self, *args, **kwargs), lambda: None)

        return called

    def log_metrics(self: Logger, metrics: Mapping[str, Any], step: int | None = None) -> None:
        guard(lambda: kind.log_metrics(self, metrics, step), lambda: guard.miss(metrics, step))  # type: ignore[arg-type]

    def finalize(self: Logger, status: str) -> None:
        guard.pause = 0
        guard(lambda: kind.finalize(self, status), lambda: None)
        if guard.missed:
            log.info("%s lacks %d rows", guard.name, guard.missed)

    def experiment(self: Logger) -> Any:
        return guard(lambda: kind.experiment.fget(self), lambda: DummyLogger().experiment)  # type: ignore[attr-defined]

    body: dict[str, Any] = {name: method(name) for name in METHODS}
    body |= {"log_metrics": log_metrics, "finalize": finalize, "__module__": kind.__module__, "guard": guard}
    if isinstance(getattr(kind, "experiment", None), property):
        body["experiment"] = property(experiment)
    logger.__class__ = type(kind.__name__, (kind,), body)
    return logger


def attempt(logger: Logger, f: Callable[[Any], None]) -> None:
    """``f(logger)``, under its guard if it has one."""
    guard = getattr(logger, "guard", None)
    if isinstance(guard, Guard):
        guard(lambda: f(logger), lambda: None)
    else:
        f(logger)


def built(
    nodes: Mapping[str, Mapping[str, Any]],
    folder: Path,
    images_per_step: int,
    step: int | None = None,
    former: Path | None = None,
) -> list[Logger]:
    """The loggers that ``nodes`` configure, of a run that goes on after ``step``, with the files of ``former``; of a
    new run without ``step``.

    One that cannot be built, because its library or its place is missing, is left out with a remark; a mistake in its
    configuration raises. TensorBoard drops what it has after ``step``, and a CSV file of before stays beside the new.
    """
    quiet_threads()
    loggers: dict[str, Logger] = {}
    broken: dict[str, BaseException] = {}
    for name, node in nodes.items():
        kind = str(node["_target_"]).rpartition(".")[2]
        if kind == TensorBoardLogger.__name__ and step is not None:
            node = {"purge_step": step + 1, **node}
        try:
            loggers[name] = instantiate(node, _convert_="all")
        except InstantiationException as error:
            reason = error.__cause__
            if reason is None or isinstance(reason, MISTAKES) or "locating target" in str(error):
                raise
            broken[kind] = reason
    records = [logger for logger in loggers.values() if isinstance(logger, JSONL)]
    spare = None if records else JSONL(str(folder), images_per_step)
    for record in records if spare is None else [spare]:
        if step is not None:
            record.go_on_from(step, former)
    for kind, reason in broken.items():
        Guard(kind, spare).failed(reason)
    if spare is not None and broken:
        loggers["spare"], spare = spare, None
    for logger in loggers.values():
        if not isinstance(logger, JSONL):
            if isinstance(logger, CSVLogger) and step is not None:
                set_aside(Path(logger.log_dir) / "metrics.csv", step)
            guarded(logger, spare)
    return list(loggers.values())


def rewind(loggers: Sequence[Logger], step: int) -> None:
    """What was logged after ``step``, to which training goes back, is no part of the run: rows of ``metrics.jsonl`` are
    set aside, TensorBoard hides its own. Other loggers keep them."""
    spares = [guard.spare for logger in loggers if isinstance(guard := getattr(logger, "guard", None), Guard)]
    for record in {id(record): record for record in (*loggers, *spares) if isinstance(record, JSONL)}.values():
        record.go_on_from(step)
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):  # whose writer is closed, and looks at this when it opens again
            attempt(logger, lambda board: setattr(board.experiment, "purge_step", step + 1))


@rank_zero_only
def set_aside(path: Path, step: int) -> None:
    """Lightning's CSV logger deletes the file that it meets."""
    if path.is_file():
        kept = path.with_name(f"{path.stem}.until-{step}{path.suffix}")
        path.rename(kept)
        log.info("%s is %s now", path, kept.name)


def quiet_threads() -> None:
    """What fails in TensorBoard's thread is raised once more where it is called: no traceback besides."""
    shown = threading.excepthook

    def hook(args: Any) -> None:
        if not type(args.thread).__module__.startswith("tensorboard."):
            shown(args)

    threading.excepthook = hook
