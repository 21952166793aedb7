"""What changes over a run, as functions of its step."""

from math import exp

from oboro.base.errors import UserError
from oboro.base.ranges import BelowOne, CountOrNone, Positive


class Annealing:
    """From 1 to 0 between the steps ``first`` and ``last``: 1 - sigmoid((s - 1/2) gamma), s = (step - first) / (last -
    first) within [0, 1].

    Less than ``clamp`` away from an end it is that end. alpha of alpha-Flow (arXiv:2510.20771, sec. 4), whose
    curriculum has gamma = 25 and clamp = 0.005. Raises ``UserError`` unless ``first`` < ``last``.
    """

    def __init__(self, first: CountOrNone, last: CountOrNone, gamma: Positive = 25.0, clamp: BelowOne = 0.005):
        if first >= last:
            raise UserError(
                f"annealing from step {first} to {last} has no steps; set loss.alpha.last above loss.alpha.first."
            )
        self.first, self.last, self.gamma, self.clamp = first, last, gamma, clamp

    def __call__(self, step: int) -> float:
        s = min(max((step - self.first) / (self.last - self.first), 0.0), 1.0)
        value = 1 / (1 + exp((s - 0.5) * self.gamma))
        return 1.0 if value > 1 - self.clamp else 0.0 if value < self.clamp else value
