"""The codec of another run."""

from dataclasses import dataclass

from oboro.restore.part import TrainedPart


@dataclass(frozen=True)
class Trained(TrainedPart):
    """The autoencoder of a checkpoint of ``task=autoencoder``, with the first average of its weights: the statistics of
    its latents are those of that one. ``channels`` of its latents is told to the network."""

    channels: int | None = None

    @property
    def task(self) -> str:
        return "autoencoder"
