"""The text encoder of another run."""

from dataclasses import dataclass

from oboro.stored import TrainedPart


@dataclass(frozen=True)
class TrainedCLIP(TrainedPart):
    """The two towers of a checkpoint of ``task=clip``."""

    @property
    def task(self) -> str:
        return "clip"
