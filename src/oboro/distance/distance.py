"""What all distances of samples share."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from oboro.modality import Modality


class Distance(nn.Module, ABC):
    """(x, y) (B, C, ...) in the range of the model ↦ a map (B, ...) of the places of x, at least 0, and 0 for equal
    samples."""

    def check(self, modality: Modality) -> None:
        """Read what has to be read. Raises ``UserError`` for samples that it cannot compare."""
        return None

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor) -> Tensor: ...
