"""What a trained network knows, and so what it can be asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hydra.utils import get_class

from oboro.base.counted import counted


@dataclass(frozen=True)
class Lesson:
    """What a loss teaches: the mean of the data at every noise level, unless one of these says otherwise.

    Attributes:
        jumps: the end of the flow through x_t, in the place of the mean.
        steps: so many steps of the uniform grid, and nothing between them.
        time: one noise level alone.
    """

    jumps: bool = False
    steps: int | None = None
    time: float | None = None

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
