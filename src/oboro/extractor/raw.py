"""No network: the numbers of a sample are its features."""

import hashlib
import json
from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from oboro.extractor.extractor import Extractor
from oboro.extractor.pretrained import Lengths
from oboro.modality import Modality


class Raw(Extractor):
    """The D = C · … numbers of a sample in the range of the model, as features: ``fd_raw`` is the Fréchet distance of
    the data space. For samples of any modality, without weights; final.

    Series count in units of their standard deviation, so no channel outweighs the others. For pictures larger than some
    ten thousand numbers a covariance is out of reach, and neighbours in pixels mean little: choose a network there.
    """

    name = "raw"
    resize = "none"

    def __init__(self) -> None:
        super().__init__()
        self._modality: Modality | None = None
        self.outputs = Lengths(lambda: prod(self._modality.shape))

    def accept(self, modality: Modality) -> None:
        """Any modality; its numbers become features by its own ``to_model``."""
        self._modality = modality

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of how numbers become features: there are no weights."""
        return hashlib.sha256(json.dumps(self._modality.spec(), sort_keys=True).encode()).hexdigest()

    def prepare(self) -> None:
        """There is nothing to fetch."""

    def build(self) -> nn.Module:
        return nn.Flatten()

    def require(self, samples: Tensor) -> None:
        """Raises ``ValueError`` unless the samples are of the accepted modality."""
        if samples.dtype != self._modality.dtype or tuple(samples.shape[1:]) != self._modality.shape:
            raise ValueError(f"expected {self._modality.dtype} {self._modality}, got {samples.dtype} {samples.shape}")

    def forward(self, network: nn.Module, samples: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        return {"features": network(self._modality.to_model(samples))}
