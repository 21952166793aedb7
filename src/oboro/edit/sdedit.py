"""Editing by noise that hides the details."""

from torch import Tensor

from oboro.base.ranges import Share
from oboro.edit.edit import Edit, Model, Pictures, walked
from oboro.lesson import Lesson


class SDEdit(Edit):
    """The walk from x_{t0} = alpha x + sigma eps to the data under the target, t0 = ``strength``.

    Meng et al. 2022 (arXiv:2108.01073, algorithm 2). Any sampler will do, and takes the part of its steps below t0.
    What is smaller than the noise of t0 is drawn anew, the rest stays. Strength 0 is the picture itself, strength 1 is
    sampling: nothing of the picture is left, also on schedules with some signal at t = 1.
    """

    asks_source = False

    def __init__(self, strength: Share = 0.6):
        super().__init__()
        self.strength = strength

    def __call__(self, model: Model, pictures: Pictures) -> Tensor:
        x = pictures.x if self.strength < 1 else None
        return walked(model, pictures, pictures.target, model.guidance, x=x, start=self.strength)

    def can_ask(self, lesson: Lesson, drawn: bool) -> bool:
        """A jump to the data is enough, where it begins at a noise level that is known."""
        return lesson.time is None and (self.strength == 0 or lesson.knows(self.strength))

    def evaluations(self, model: Model) -> int:
        return model.evaluations(self.strength)
