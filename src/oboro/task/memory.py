"""What training keeps in memory for the weights of a module."""

from dataclasses import dataclass

from torch import nn

MOMENTS = 2  # of each trained parameter in Adam and AdamW


@dataclass(frozen=True)
class Footprint:
    """Numbers of parameters, all and those that are trained, and bytes.

    ``weights`` are the parameters' own, ``gradients`` those of the trained ones, ``moments`` the optimizer's and
    ``averages`` the averaged weights'. Activations come on top and grow with the batch.
    """

    parameters: int
    trained: int
    weights: int
    gradients: int
    moments: int
    averages: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.moments + self.averages


def footprint(module: nn.Module, profiles: int = 2, moment_bytes: float = 4) -> Footprint:
    """P parameters of b bytes of which T are trained: P b + T (b + ``MOMENTS`` moment_bytes + 4 profiles) bytes.

    ``profiles`` is the number of averages, in float32; ``moment_bytes`` is 4 of AdamW, and 1 of ``AdamW8bit`` (its
    scales, one float32 for 256 values, are left out, and it keeps tensors below 4096 values in 32 bits).
    """
    parameters = list(module.parameters())
    trained = [p for p in parameters if p.requires_grad]
    count = sum(p.numel() for p in trained)
    return Footprint(
        parameters=sum(p.numel() for p in parameters),
        trained=count,
        weights=sum(p.nbytes for p in parameters),
        gradients=sum(p.nbytes for p in trained),
        moments=int(MOMENTS * moment_bytes * count),
        averages=4 * profiles * count,
    )
