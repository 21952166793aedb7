"""What one sample of a checkpoint is, so that sampling needs no data."""

from typing import Any

from hydra.utils import instantiate

from oboro.modality import Image, Modality


def modality_of(checkpoint: dict[str, Any]) -> Modality:
    """The modality that training wrote into a checkpoint, whose ``_target_`` was trusted when it was loaded.

    Checkpoints of version 0.1 have none and are of images: of the channels and the resolution of their data.
    """
    if "modality" in checkpoint:
        return instantiate(checkpoint["modality"], _convert_="all")
    data = checkpoint["config"]["data"]
    size = data["resolution"]
    return Image(data["channels"], *((size, size) if isinstance(size, int) else size))
