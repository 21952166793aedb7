"""The difference of numbers."""

from torch import Tensor

from oboro.base.ranges import Positive
from oboro.distance.distance import Distance


class Pixel(Distance):
    """The mean over channels of |x - y|^power; 2 is the squared error."""

    def __init__(self, power: Positive = 2.0):
        super().__init__()
        self.power = power

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x.float() - y.float()).abs().pow(self.power).mean(1)
