"""What the tasks share that learn from noisy images: validation by noise level, and how network and data fit."""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call

from oboro.base.errors import UserError
from oboro.base.seeding import low_discrepancy
from oboro.data import DataModule
from oboro.loss.noise import Gaussian
from oboro.modality.modality import sizes
from oboro.task.task import Task

LEVELS = 4
GAUSSIAN = Gaussian()
MODELS = {1: "model=unet_1d", 2: "model=unet"}  # for samples with so many axes beside their channels


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
    def sharded(self) -> Sequence[nn.Module]:
        return [self.network]

    def measure(self, batch: dict[str, Tensor], x: Tensor) -> Tensor:
        index = batch["index"]
        u = low_discrepancy(index)
        noise = getattr(self.loss, "noise", GAUSSIAN)
        eps = noise.of_samples(self.seed, (index + 2**32).tolist(), x)
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

    def check_network(self, data: DataModule, answers: Sequence[tuple[int, ...]], option: str) -> None:
        """Raises ``UserError`` where samples are too small for the network or have other axes, or its answer has none
        of the shapes.

        ``option`` is a model that gives the first of ``answers`` for one sample.
        """
        network, shape = self.learned.network, self.codec.latent_shape(data.modality.shape)
        dims = getattr(network, "dims", 2)
        if len(shape) != dims + 1:
            raise UserError(
                f"{type(network).__name__} reads samples with {dims} axes beside their channels and these are "
                f"{sizes(shape)}; choose {MODELS.get(len(shape) - 1, 'a model of your own')}."
            )
        if min(shape[1:]) < network.min_size:
            raise UserError(
                f"the network halves samples down to 1/{network.min_size} and {sizes(shape[1:])} cannot be halved that "
                f"often; set {data.modality.size_option} to {network.min_size} or more, or fewer levels with "
                "model.channel_mult."
            )
        try:
            given = answer_shape(network, shape)
        except RuntimeError as error:  # of torch, for samples of other channels than the network's first layer
            raise UserError(
                f"{type(network).__name__} does not read samples of {sizes(shape)} ({str(error).splitlines()[0]}); "
                "leave out data.channels and data.resolution, or set them to what the model was made for."
            ) from error
        if given not in answers:
            raise UserError(
                f"{type(network).__name__} makes {sizes(given)} of a sample and {type(self).__name__} needs "
                f"{sizes(answers[0])}; choose model={option} or another one of its kind."
            )


def takes(network: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether the network answers a sample (C, ...) of ``shape`` with one of its size."""
    try:
        return min(shape[1:]) >= network.min_size and answer_shape(network, shape)[1:] == shape[1:]
    except RuntimeError:  # of torch, where sizes do not match
        return False


def answer_shape(network: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what a network makes of one sample (C, ...) = ``shape``, found without computing anything."""
    state = {name: v.to("meta") for name, v in chain(network.named_parameters(), network.named_buffers())}
    x, c_noise = torch.empty(1, *shape, device="meta"), torch.empty(1, device="meta")
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        return tuple(functional_call(network, state, (x, c_noise, {})).shape[1:])
