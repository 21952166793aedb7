"""An objective of several terms, and what is told of them."""

from typing import NamedTuple

from torch import Tensor


class Terms(NamedTuple):
    """The objective (B,) and what it is made of, as numbers to be logged."""

    objective: Tensor
    numbers: dict[str, Tensor]
