"""Which weights of a network a run trains."""

from abc import ABC, abstractmethod

from torch import nn


class Adapter(ABC):
    """Changes a network in place before training; what then requires a gradient is trained, averaged and counted.

    Attributes:
        needs_start: whether the run has to start from the weights of another one.
    """

    needs_start: bool

    @abstractmethod
    def __call__(self, network: nn.Module) -> None:
        """``UserError`` where the network has nothing to adapt."""


class Full(Adapter):
    """Every weight is trained."""

    needs_start = False

    def __call__(self, network: nn.Module) -> None:
        """The network stays as it is."""
