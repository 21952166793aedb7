"""The text encoder of another run."""

from dataclasses import dataclass
from typing import Any

from oboro.restore.part import State, TrainedPart


@dataclass(frozen=True)
class TrainedCLIP(TrainedPart):
    """The text tower of a checkpoint of ``task=clip``, with the average ``profile`` of its weights."""

    profile: str | None = None

    @property
    def average(self) -> str | None:
        return self.profile

    @property
    def task(self) -> str:
        return "clip"

    def part(self) -> tuple[dict[str, Any], State]:
        config, state = super().part()
        tower = "text."
        return config["text"], {k.removeprefix(tower): v for k, v in state.items() if k.startswith(tower)}
