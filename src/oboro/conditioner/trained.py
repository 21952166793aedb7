"""The text encoder of another run."""

from dataclasses import dataclass
from typing import Any

from oboro.stored import State, TrainedPart


@dataclass(frozen=True)
class TrainedCLIP(TrainedPart):
    """The text tower of a checkpoint of ``task=clip``."""

    @property
    def task(self) -> str:
        return "clip"

    def part(self) -> tuple[dict[str, Any], State]:
        config, state = super().part()
        tower = "text."
        return config["text"], {k.removeprefix(tower): v for k, v in state.items() if k.startswith(tower)}
