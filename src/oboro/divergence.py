"""What follows a step whose loss or gradient is no number, before it has changed a weight."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from math import inf, isfinite
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NoReturn

from annotated_types import Gt, Interval

from oboro.base.errors import UserError
from oboro.base.ranges import Count
from oboro.base.remark import remark

Factor = Annotated[float, Gt(1)]
TANGENT = "tangent"  # its place among the norms
HISTORY = 100  # steps whose gradient norms are remembered
ENOUGH = 20  # of them, before a norm is called a spike


class Diverged(UserError):
    """Training ends."""


class LeftOut(Exception):
    """The step changes nothing, and training goes on with the next."""


class GoBack(Exception):
    """Training goes on from ``checkpoint``, of the step ``step``."""

    def __init__(self, checkpoint: Path, step: int):
        super().__init__(f"go back to {checkpoint}")
        self.checkpoint, self.step = checkpoint, step


@dataclass(frozen=True)
class Event:
    """A step that diverged, counted from 1; all ranks have the same.

    Attributes:
        what: the reason, in words that follow "in step 7".
        listed: the file that lists the samples of the step, if it could be written.
        checkpoint: the last one of the run and its step, if there is any.
        remedies: what to change, in words that follow a semicolon.
    """

    step: int
    what: str
    listed: Path | None
    checkpoint: tuple[Path, int] | None
    remedies: str

    def __str__(self) -> str:
        samples = f"; {self.listed} lists its samples" if self.listed else ""
        return f"in step {self.step} {self.what}{samples}"

    @property
    def saved(self) -> str:
        if self.checkpoint is None:
            return "there is no checkpoint yet"
        return f"the last checkpoint is {self.checkpoint[0]} of step {self.checkpoint[1]}"


@dataclass
class Record:
    """What a run remembers of the steps before, in its checkpoints, too.

    Attributes:
        skipped: steps that were left out, ``in_a_row`` of them without a good one since.
        rollbacks: how often the run has gone back to a checkpoint.
        rate: the factor of the learning rate that this has led to.
        norms: of the last gradients, by network; only where spikes are looked for.
    """

    skipped: int = 0
    in_a_row: int = 0
    rollbacks: int = 0
    rate: float = 1.0
    norms: dict[str, list[float]] = field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        """Nothing for a run in which nothing has happened."""
        return asdict(self) if self != Record() else {}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what a checkpoint remembers; how often the run has gone back to it, the file cannot know."""
        before = Record(**state)
        self.skipped, self.rollbacks = max(self.skipped, before.skipped), max(self.rollbacks, before.rollbacks)
        self.rate = min(self.rate, before.rate)
        self.in_a_row, self.norms = before.in_a_row, before.norms

    def good(self, norms: dict[str, float]) -> None:
        """A step that did not diverge, with the ``norms`` that are to be remembered."""
        self.in_a_row = 0
        for name, norm in ((name, norm) for name, norm in norms.items() if isfinite(norm)):
            self.norms[name] = [*self.norms.get(name, []), norm][-HISTORY:]


class Divergence(ABC):
    """A step diverges where a loss or a gradient is NaN or infinite on any rank: all ranks see it before the optimizer
    steps, and weights, averages and the optimizer's state stay as they are.

    With ``spike`` it diverges, too, where the norm of a network's gradient, before it is clipped, is more than
    ``spike`` times the median of its last 100 norms, of which there have to be 20; and with ``tangent_spike`` where the
    tangent of a loss that takes a derivative of the network is that much longer than before: gradients do not show it
    where it is normalised. The samples of the step, with their losses, are a line of ``diverged.jsonl`` in the folder
    of the run.

    Attributes:
        keeps_buffers: whether buffers that a forward pass has written to have to be as before.
        goes_back: whether it needs checkpoints.
    """

    keeps_buffers: bool = False
    goes_back: bool = False

    def __init__(self, spike: Factor | None = None, tangent_spike: Factor | None = 1e3):
        self.spike = spike
        self.tangent_spike = tangent_spike

    def longest(self, name: str) -> float | None:
        """How much longer than before the gradient of the network ``name`` may be, or ``TANGENT``."""
        return self.tangent_spike if name == TANGENT else self.spike

    @abstractmethod
    def meet(self, event: Event, record: Record) -> NoReturn:
        """What follows ``event``: ``Diverged``, ``LeftOut`` or ``GoBack`` is raised."""

    def spiked(self, norms: dict[str, float], record: Record) -> dict[str, float]:
        """The medians of those networks whose norm is a spike."""
        found = {}
        for name, before in record.norms.items():
            factor = self.longest(name)
            if factor is not None and name in norms and len(before) >= ENOUGH:
                usual = median(before)
                if 0 < factor * usual < norms[name] < inf:
                    found[name] = usual
        return found


class Raise(Divergence):
    """Training ends with an error that names the step, the reason and the last checkpoint."""

    def meet(self, event: Event, record: Record) -> NoReturn:
        raise Diverged(
            f"{event}; training has stopped before the weights took it up; {event.saved}; {event.remedies}, or "
            "choose divergence=skip or divergence=rollback."
        )


class Skip(Divergence):
    """The step is left out: neither weights nor averages nor the optimizer's state change, and the next step comes
    with its own samples and noise. Its number counts. After ``most`` in a row one more ends training."""

    keeps_buffers = True

    def __init__(self, most: Count = 10, spike: Factor | None = None, tangent_spike: Factor | None = 1e3):
        super().__init__(spike, tangent_spike)
        self.most = most

    def meet(self, event: Event, record: Record) -> NoReturn:
        if record.in_a_row >= self.most:
            raise Diverged(
                f"{event}; {record.in_a_row} steps in a row before it were left out (divergence.most); {event.saved}; "
                f"{event.remedies}, or choose divergence=rollback."
            )
        record.skipped, record.in_a_row = record.skipped + 1, record.in_a_row + 1
        remark(f"{event}; the step is left out, {record.skipped} of the run so far.")
        raise LeftOut


class Rollback(Divergence):
    """Training goes back to the last checkpoint of the run, as ``resume`` does, with the learning rate times
    ``factor``, at most ``most`` times in a run.

    Weights, averages, optimizer and the position in the data are those of the checkpoint. Samples and noise are a
    function of the step, so the same ones come again: what changes is the learning rate, for the rest of the run.
    Against single bad samples choose ``Skip``.
    """

    goes_back = True

    def __init__(
        self,
        most: Count = 3,
        factor: Annotated[float, Interval(gt=0, lt=1)] = 0.5,
        spike: Factor | None = None,
        tangent_spike: Factor | None = 1e3,
    ):
        super().__init__(spike, tangent_spike)
        self.most = most
        self.factor = factor

    def meet(self, event: Event, record: Record) -> NoReturn:
        if event.checkpoint is None:
            raise Diverged(
                f"{event}; there is no checkpoint to go back to; {event.remedies}, or keep callbacks.checkpoints."
            )
        if record.rollbacks >= self.most:
            raise Diverged(
                f"{event}; the run has gone back {record.rollbacks} times already (divergence.most); "
                f"{event.saved}; {event.remedies}."
            )
        record.rollbacks, record.rate = record.rollbacks + 1, record.rate * self.factor
        path, step = event.checkpoint
        remark(
            f"{event}; rollback {record.rollbacks} of {self.most}: training goes back to step {step} ({path}) with "
            f"{record.rate:.3g} of optimizer.lr."
        )
        raise GoBack(path, step)
