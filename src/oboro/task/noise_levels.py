"""What the tasks share that learn from noisy images: validation by noise level, and how network and data fit."""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call

from oboro.base.errors import UserError
from oboro.base.seeding import SampleNoise, low_discrepancy
from oboro.data import ImageData
from oboro.task.task import Task

LEVELS = 4


class NoiseLevels(Task):
    """A task whose ``learned`` has a ``network`` that sees noisy images; validation tells its numbers by noise level.

    Image i is looked at with a quantile of p(t) and an eps of its own, functions of (seed, i) and so frozen over a run.
    """

    @abstractmethod
    def errors(self, batch: dict[str, Tensor], x: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        """The numbers (B, len(measures)) at the quantiles ``u`` (B,) of p(t) and the noise ``eps``."""

    @property
    def network(self) -> nn.Module:
        return self.learned.network

    @property
    def columns(self) -> int:
        return len(self.measures) + 1

    def measure(self, batch: dict[str, Tensor], x: Tensor) -> Tensor:
        index = batch["index"]
        u = low_discrepancy(index)
        eps = SampleNoise(self.seed, (index + 2**32).tolist())(x)
        numbers = self.errors(batch, x, u.to(x), eps)
        level = (u * LEVELS).long().to(numbers.device)
        return torch.cat([numbers.float(), level.float()[:, None]], 1)

    def summary(self, rows: Tensor) -> dict[str, float]:
        """``<measure>`` over all images, and ``<measure>_noise<k>`` over those in quarter k of p(t)."""
        *columns, level = rows.unbind(1)
        means = {}
        for name, numbers in zip(self.measures, columns, strict=True):
            means[name] = numbers.mean().item()
            present = [k for k in range(LEVELS) if (level == k).any()]
            means |= {f"{name}_noise{k}": numbers[level == k].mean().item() for k in present}
        return means

    def check_network(self, data: ImageData, answers: Sequence[tuple[int, ...]], option: str) -> None:
        """Raises ``UserError`` where images are too small for the network, or its answer has none of the shapes.

        ``option`` is a model that gives the first of ``answers`` for one image.
        """
        network, shape = self.learned.network, self.codec.latent_shape(data.image_shape)
        if min(shape[1:]) < network.min_size:
            raise UserError(
                f"the network halves images down to 1/{network.min_size} and {shape[1]}×{shape[2]} cannot be halved "
                f"that often; set data.resolution to {network.min_size} or more, or fewer levels with "
                "model.channel_mult."
            )
        given = answer_shape(network, shape)
        if given not in answers:
            raise UserError(
                f"{type(network).__name__} makes {sides(given)} of an image and {type(self).__name__} needs "
                f"{sides(answers[0])}; choose model={option} or another one of its kind."
            )


def sides(shape: tuple[int, ...]) -> str:
    """``1×28×28``."""
    return "×".join(map(str, shape))


def answer_shape(network: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what a network makes of one image (C, H, W) = ``shape``, without computing anything."""
    state = {name: v.to("meta") for name, v in chain(network.named_parameters(), network.named_buffers())}
    x, c_noise = torch.empty(1, *shape, device="meta"), torch.empty(1, device="meta")
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        return tuple(functional_call(network, state, (x, c_noise, {})).shape[1:])
