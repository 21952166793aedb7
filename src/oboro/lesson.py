"""What a trained network knows, and so what it can be asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isclose
from typing import Any

from hydra.utils import get_class

from oboro.base.counted import counted

SAME = 1e-6  # of two times


@dataclass(frozen=True)
class Lesson:
    """What a loss teaches: the mean of the data at every noise level, unless one of these says otherwise.

    Attributes:
        jumps: the end of the flow through x_t, in the place of the mean.
        steps: so many steps of the uniform grid, and nothing between them.
        time: one noise level alone.
        times: those of the steps that a student was trained to draw with, and no others.
        lowest: the least time that is taught.
    """

    jumps: bool = False
    steps: int | None = None
    time: float | None = None
    times: tuple[float, ...] | None = None
    lowest: float | None = None

    def knows(self, t: float) -> bool:
        """Whether the noise level at ``t`` is one of those that were taught."""
        if self.steps is not None:
            return isclose(t * self.steps, round(t * self.steps), abs_tol=SAME)
        only = self.times if self.time is None else (self.time,)
        if only is not None:
            return any(isclose(t, one, abs_tol=SAME) for one in only)
        return self.lowest is None or t >= self.lowest - SAME

    @property
    def generates_alone(self) -> bool:
        """Whether it makes samples of noise in one step, and knows no other time."""
        return self.steps == 1

    @property
    def limit(self) -> str | None:
        """Why it is no denoiser of all noise levels, in words that follow its name; None where it is one."""
        if self.generates_alone:
            return "makes samples of pure noise in one step, and restores none"
        if self.steps is not None:
            return f"makes {counted(self.steps, 'steps')} of the uniform grid and knows nothing between them"
        if self.time is not None:
            return f"knows the noise level t={self.time:g} alone"
        if self.times is not None:
            return f"has learned to draw at t={', '.join(f'{t:.3g}' for t in self.times)} alone"
        if self.lowest is not None:
            return f"jumps to the end of the flow, from t={self.lowest:.3g} and above"
        return "jumps to the end of the flow and knows no means" if self.jumps else None


def lesson_of(loss: Any) -> Lesson:
    """What ``loss`` teaches by what it declares: ``teaches_jumps``, ``teaches_steps``, ``teaches_time``."""
    return Lesson(
        bool(getattr(loss, "teaches_jumps", False)),
        getattr(loss, "teaches_steps", None),
        getattr(loss, "teaches_time", None),
    )


def lesson_in(task: Mapping[str, Any]) -> Lesson:
    """The same of the configuration of a checkpoint's task."""
    loss = task["loss"]
    declared = get_class(loss["_target_"])
    steps = getattr(declared, "teaches_steps", None)
    time = loss.get("time") or {}
    fixed = bool(time.get("_target_")) and get_class(time["_target_"]).__name__ == "Fixed"
    return Lesson(
        bool(getattr(declared, "teaches_jumps", False)),
        loss["steps"] if isinstance(steps, property) else steps,
        time.get("t", 0.5) if fixed else None,
    )
