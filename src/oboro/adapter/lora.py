"""Low-rank updates of frozen layers."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Len
from torch import Tensor, nn

from oboro.adapter.adapter import Adapter
from oboro.base.errors import UserError
from oboro.base.ranges import NonNegative, Width
from oboro.model import dit, ldm_unet
from oboro.model.layers import SelfAttention, conv
from oboro.model.text import CrossAttention

ATTENTION = (dit.Attention, ldm_unet.Attention, CrossAttention, SelfAttention)
LINEAR, CONVOLUTION = (nn.Linear,), (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d

Targets = Annotated[Sequence[Literal["attention", "linear", "convolution"]], Len(1)]


class LowRank(nn.Module):
    """W x + b + scale B A x with W and b of the frozen ``base``: Hu et al. 2021 (arXiv:2106.09685, eq. 3).

    Of a linear layer A is (rank, in) and B (out, rank). Of a convolution A is one to ``rank`` channels with the kernel,
    stride and padding of ``base``, and B a 1×1 convolution, so that B A is a convolution of the shape of ``base``. B
    starts at zero; A as torch starts such a layer, where the paper has a normal distribution.
    """

    def __init__(self, base: nn.Linear | Convolution, A: nn.Module, B: nn.Module, scale: float):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.A = A.to(base.weight)
        self.B = B.to(base.weight)
        nn.init.zeros_(self.B.weight)
        self.scale = scale

    @classmethod
    def of_linear(cls, base: nn.Linear, rank: int, scale: float) -> "LowRank":
        A = nn.Linear(base.in_features, rank, bias=False)
        return cls(base, A, nn.Linear(rank, base.out_features, bias=False), scale)

    @classmethod
    def of_convolution(cls, base: Convolution, rank: int, scale: float) -> "LowRank":
        place = {"stride": base.stride, "padding": base.padding, "dilation": base.dilation}
        A = type(base)(base.in_channels, rank, base.kernel_size, bias=False, padding_mode=base.padding_mode, **place)
        return cls(base, A, conv(base.weight.ndim - 2, rank, base.out_channels, 1, bias=False), scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * self.B(self.A(x))

    @property
    def update(self) -> Tensor:
        """scale B A, of the shape of W."""
        return product(self.A.weight, self.B.weight, self.scale).view_as(self.base.weight)


def product(A: Tensor, B: Tensor, scale: float) -> Tensor:
    """scale B A (out, in), with the kernel of a convolution counted to ``in``."""
    return scale * (B.flatten(1) @ A.flatten(1))


class LoRA(Adapter):
    """Trains a ``LowRank`` beside each chosen layer and freezes everything else; scale = ``alpha`` / ``rank``.

    ``targets`` are any of "attention" (the linear layers and 1×1 convolutions that make queries, keys, values and
    outputs of attention), "linear" and "convolution" (all such layers). Raises ``UserError`` for other words, a rank
    below 1, and a network without such layers, as those of weights that are kept at magnitude 1 are.
    """

    needs_start = True

    def __init__(
        self,
        rank: Width = 8,
        alpha: NonNegative = 8.0,
        targets: Targets = ("attention",),
    ):
        unknown = set(targets) - {"attention", "linear", "convolution"}
        if unknown or not targets:
            raise UserError(
                f"adapter.targets={list(targets)} names no layers; choose of attention, linear and convolution."
            )
        if rank < 1:
            raise UserError(f"adapter.rank={rank} leaves nothing to train; set adapter.rank to 1 or more.")
        self.rank = rank
        self.alpha = alpha
        self.targets = list(targets)

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def __call__(self, network: nn.Module) -> None:
        if getattr(network, "frozen", None):
            raise UserError(
                f"adapter=lora adapts a whole network and {type(network).__name__} trains a part beside one that stays "
                "as it is; leave adapter out."
            )
        layers = self.chosen(network)
        if not layers:
            raise UserError(
                f"{type(network).__name__} has no layers for adapter.targets={self.targets}; choose "
                "adapter.targets=[linear,convolution], or adapter=full for networks of unit weights."
            )
        network.requires_grad_(False)
        for name, layer in layers.items():
            made = LowRank.of_linear if isinstance(layer, LINEAR) else LowRank.of_convolution
            network.set_submodule(name, made(layer, self.rank, self.scale))

    def chosen(self, network: nn.Module) -> dict[str, nn.Module]:
        """The layers that get an update, by their names in ``network``."""
        inside = [f"{name}." for name, module in network.named_modules() if type(module) in ATTENTION]
        types = {"linear": LINEAR, "convolution": CONVOLUTION}
        anywhere = tuple(kind for target in self.targets for kind in types.get(target, ()))
        return {
            name: layer
            for name, layer in network.named_modules()
            if isinstance(layer, anywhere)
            or (
                "attention" in self.targets
                and isinstance(layer, LINEAR + CONVOLUTION)
                and name.startswith(tuple(inside))
            )
        }


def low_rank_layers(module: nn.Module) -> Iterator[tuple[str, LowRank]]:
    """Those inside of ``module``, with their names."""
    return ((name, layer) for name, layer in module.named_modules() if type(layer) is LowRank)


@torch.no_grad()
def relative_update(module: nn.Module) -> float:
    """|scale B A| / |W| over all adapted layers of ``module`` together; 0 where there are none."""
    pairs = [(layer.update.norm(), layer.base.weight.norm()) for _, layer in low_rank_layers(module)]
    if not pairs:
        return 0.0
    update, weight = (torch.stack(column).norm() for column in zip(*pairs, strict=True))
    return float(update / weight)


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of ``module`` without its adapters, under the names that it has without them. Not a copy."""
    state = module.state_dict()
    for name, layer in low_rank_layers(module):
        for key in layer.state_dict():
            tensor = state.pop(f"{name}.{key}")
            if key.startswith("base."):
                state[f"{name}.{key.removeprefix('base.')}"] = tensor
    return state


@torch.no_grad()
def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module without adapters that computes the same: W + scale B A in the place of W."""
    updates = {f"{name}.weight": layer.update for name, layer in low_rank_layers(module)}
    return {key: w + updates[key] if key in updates else w for key, w in plain_state(module).items()}
