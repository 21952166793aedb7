"""Control of a trained network by a copy of its encoder: ControlNet."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Tensor, nn

from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.ranges import Width, Widths
from oboro.condition import Signals
from oboro.model.controlled import Added, Branch, Controlled
from oboro.model.dit import DiT
from oboro.model.layers import conv, run, zero
from oboro.model.unet_skeleton import UNetSkeleton

WIDTHS = (16, 32, 96, 256)  # of the published ControlNets, for latents at an eighth of the resolution


class HintEmbedding(nn.Module):
    """silu(conv(…)) of a picture (B, C, ...) from [-1, 1], which it sees as [0, 1], ↦ (B, widths[-1], ...).

    A convolution to ``widths[0]`` channels, then for each further width two, of which the second changes the channels
    and halves the resolution, upwards, until it is 1/``factor`` (arXiv:2302.05543, sec. 3.2: four layers of 16, 32, 64,
    128 channels; here those of the published weights, ``WIDTHS``). Raises ``UserError`` for a factor that is no power
    of two, or that takes more halvings than ``widths`` has.
    """

    def __init__(self, channels: int, factor: int, widths: Sequence[int], dims: int):
        super().__init__()
        self.channels = channels
        halvings = factor.bit_length() - 1
        if 2**halvings != factor or halvings >= len(widths):
            raise UserError(
                f"model.hint_factor={factor} and model.hint_widths={list(widths)} do not fit: the factor is a power of "
                "two and takes one more width than it has halvings; leave model.hint_widths out."
            )
        layers = [conv(dims, channels, widths[0])]
        for i, (c_in, c) in enumerate(pairwise(widths)):
            layers += [conv(dims, c_in, c_in), conv(dims, c_in, c, stride=2 if i < halvings else 1)]
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Raises ``UserError`` for a picture of other channels."""
        if x.shape[1] != self.channels:
            raise UserError(
                f"the ControlNet was made for hints of {counted(self.channels, 'channels')} and was given one of "
                f"{x.shape[1]}; set model.hint_channels and image_channels of conditioner=control to the same number."
            )
        h = (x + 1) / 2
        for layer in self.layers:
            h = nn.functional.silu(layer(h))
        return h


def published_widths(factor: int) -> list[int]:
    """Those of the published networks, one more than the halvings to 1/``factor``, and two at least."""
    halvings = max(factor.bit_length() - 1, 1)
    return [*WIDTHS, *[WIDTHS[-1]] * halvings][: halvings + 1]


class CopyBranch(Branch):
    """What is trained of a ControlNet: ``copy``, a copy of the encoder of its base, ``hint`` and zero layers."""

    def __init__(self, base: UNetSkeleton | DiT, signal: str, hint: HintEmbedding):
        super().__init__(signal)
        self.copy = base.encoder().requires_grad_(True).train()
        self.copy.in_parts = True
        self.hint = hint

    def begin(self, base: nn.Module) -> None:
        names = self.copy.state_dict()
        self.copy.load_state_dict({name: w for name, w in base.state_dict().items() if name in names})

    def added(self, x: Tensor, c_noise: Tensor, signals: Signals, picture: Tensor) -> Added:
        return Added(self.residuals(x, c_noise, signals, picture), {})

    @abstractmethod
    def residuals(self, x: Tensor, c_noise: Tensor, signals: Signals, picture: Tensor) -> list[Tensor]:
        """What the way up sees, or the blocks behind."""


class UNetBranch(CopyBranch):
    """z_i(skip_i) and z_m(middle) of the copy, whose first activation has the embedding of the picture added.

    z are 1×1 convolutions that start at zero, as does the last layer of the embedding (arXiv:2302.05543, eq. 2 to 4).
    """

    def __init__(self, base: UNetSkeleton, signal: str, hint: HintEmbedding, width: int):
        super().__init__(base, signal, hint)
        channels, dims = base.skip_channels, base.dims
        self.enter = zero(conv(dims, width, channels[0]))
        self.zeros = nn.ModuleList(zero(conv(dims, c, c, 1)) for c in (*channels, channels[-1]))

    def residuals(self, x: Tensor, c_noise: Tensor, signals: Signals, picture: Tensor) -> list[Tensor]:
        arguments = self.copy.arguments(c_noise, signals)
        embedded = self.enter(self.hint(picture))
        check_as_large(embedded, x, picture)
        added = dict(self.copy.beside(x, signals))
        h, skips = self.copy.encode(x, arguments, {**added, 0: added[0] + embedded if 0 in added else embedded})
        return [z(s) for z, s in zip(self.zeros, [*skips, h], strict=True)]


class DiTBranch(CopyBranch):
    """z_i(h_i) of the first half of the blocks, copied, with the embedding of the picture added to the tokens.

    z are linear layers that start at zero, as does the last layer of the embedding: ControlNet-Transformer of
    PixArt-δ (Chen et al. 2024, arXiv:2401.05252, sec. 3.2), where it is the first 13 of 28 blocks.
    """

    def __init__(self, base: DiT, signal: str, hint: HintEmbedding, width: int):
        super().__init__(base, signal, hint)
        dim = base.first.out_features
        self.enter = zero(nn.Linear(width * base.patch**base.dims, dim))
        self.zeros = nn.ModuleList(zero(nn.Linear(dim, dim)) for _ in self.copy.blocks)

    def residuals(self, x: Tensor, c_noise: Tensor, signals: Signals, picture: Tensor) -> list[Tensor]:
        copy = self.copy
        embedding, text, mask = copy.arguments(c_noise, signals)
        features = self.hint(picture)
        check_as_large(features, x, picture)
        h, positions = copy.enter(x, signals)
        h, angle = copy.placed(h + self.enter(copy.tokens(features)), positions)
        found = []
        for z, block in zip(self.zeros, copy.blocks, strict=True):
            h = run(block, h, embedding, angle, text, mask, recompute=copy.checkpointing)
            found.append(z(h))
        return found


def check_as_large(embedded: Tensor, x: Tensor, picture: Tensor) -> None:
    if embedded.shape[2:] != x.shape[2:]:
        raise UserError(
            f"a hint of {tuple(picture.shape[2:])} becomes {tuple(embedded.shape[2:])} and the network sees samples of "
            f"{tuple(x.shape[2:])}; give hints as large as the data, and set model.hint_factor to how many pixels "
            "along an axis the codec makes one."
        )


BRANCHES: Mapping[type[nn.Module], type[UNetBranch] | type[DiTBranch]] = {UNetSkeleton: UNetBranch, DiT: DiTBranch}


class ControlNet(Controlled):
    """F(x, c_noise, signals) = base(x, c_noise, signals, residuals of the branches): Zhang et al. 2023
    (arXiv:2302.05543).

    ``base`` is any U-Net of ours or a DiT, and the branch a copy of its encoder that also sees the picture, with
    ``hint_channels`` channels and ``hint_factor`` times as long along each axis as x: the factor of a codec.
    ``hint_widths`` are those of ``HintEmbedding``, by default the published ones.

    Raises ``UserError`` for a base of another kind.
    """

    def __init__(
        self,
        base: nn.Module,
        hint_channels: Width,
        hint_factor: Width = 1,
        hint_widths: Widths | None = None,
        checkpointing: bool = False,
    ):
        kind = next((kind for cls, kind in BRANCHES.items() if isinstance(base, cls)), None)
        if kind is None:
            raise UserError(
                f"model=controlnet cannot control a {type(base).__name__}; set model.base.path to the checkpoint of a "
                "U-Net or a DiT, without a ControlNet (several are added up when samples are drawn)."
            )
        widths = list(hint_widths or published_widths(hint_factor))
        hint = HintEmbedding(hint_channels, hint_factor, widths, base.dims)
        branch = kind(base, "control", hint, widths[-1])
        super().__init__(base, branch, checkpointing)
        if checkpointing:
            branch.copy.checkpointing = True
