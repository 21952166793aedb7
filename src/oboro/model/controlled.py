"""A trained network that stays as it is, and what is trained beside it to follow a picture."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from oboro.condition import Control, Signal, Signals
from oboro.model.layers import over_space

HOLE = -3.0  # of unknown pixels: -1 where black is 0 and white 1, as published networks for inpainting have it


class Added(NamedTuple):
    """What is added to a base: ``residuals`` and ``features`` of its ``forward``."""

    residuals: list[Tensor]
    features: dict[int, Tensor]

    def __add__(self, other: "Added") -> "Added":
        longer, shorter = sorted((self.residuals, other.residuals), key=len, reverse=True)
        features = dict(self.features)
        for i, feature in other.features.items():
            features[i] = features[i] + feature if i in features else feature
        return Added([a + b for a, b in zip(longer, shorter, strict=True)] if shorter else longer, features)


class Branch(nn.Module, ABC):
    """What is trained beside a base that stays as it is.

    (x, c_noise, signals) ↦ what is added to the base for the picture ``signal``: times its strength, and nothing for
    samples without it.
    """

    in_parts = True  # ranks gather its stages one by one (oboro.base.shards)

    def __init__(self, signal: str):
        super().__init__()
        self.signal = signal

    def forward(self, x: Tensor, c_noise: Tensor, signals: Signals) -> Added:
        control = signals[self.signal]
        assert isinstance(control, Control)
        scale = (control.strength.to(x) * control.known.view(len(x), -1).any(1).to(x))[:, None]
        picture = torch.where(control.known, control.x, HOLE) if control.has_hole else control.x
        whole = self.added(x, c_noise, signals, picture.to(x))
        # In the precision of what they are: under autocast a float32 would make that of the base another one.
        residuals = [r * over_space(scale.to(r), r) for r in whole.residuals]
        return Added(residuals, {i: f * over_space(scale.to(f), f) for i, f in whole.features.items()})

    def begin(self, base: nn.Module) -> None:
        """Take weights of the base, after these were loaded."""
        return None

    @abstractmethod
    def added(self, x: Tensor, c_noise: Tensor, signals: Signals, picture: Tensor) -> Added:
        """That of strength 1."""


class Controlled(nn.Module):
    """F(x, c_noise, signals) = base(x, c_noise, signals, what the branches add): ``base`` is frozen, the branches are
    trained.

    At first they add nothing and F is the base, bit for bit; so it is for samples without a picture, at strength 0 and
    without the signal. The picture of the first is the signal ``control``, ``condition.Control``. Sampling may have
    several branches, whose additions are added up, each with a picture of its own (``add``). With ``checkpointing``
    stages of the base are computed again in the backward pass.
    """

    def __init__(self, base: nn.Module, branch: Branch, checkpointing: bool):
        super().__init__()
        self.base = base.requires_grad_(False).eval()
        self.branches = nn.ModuleList([branch])
        if checkpointing:
            base.checkpointing = True
        self.dims, self.min_size = base.dims, base.min_size
        self.image_channels = getattr(base, "image_channels", 0)

    @property
    def reads(self) -> dict[str, type[Signal]]:
        return {**self.base.reads, **{branch.signal: Control for branch in self.branches}}

    @property
    def frozen(self) -> Mapping[str, nn.Module]:
        """Parts that came trained and stay as they are, by their names."""
        return {"base": self.base}

    def begin(self) -> None:
        """Branches that copy the base take its weights, after these were loaded."""
        for branch in self.branches:
            branch.begin(self.base)

    def add(self, branch: Branch, signal: str) -> None:
        """``branch`` of another network on the same base acts beside those that are here, for the picture
        ``signal``."""
        branch.signal = signal
        self.branches.append(branch)

    def train(self, mode: bool = True) -> Self:
        """The base stays in evaluation mode."""
        super().train(mode)
        self.base.eval()
        return self

    def forward(self, x: Tensor, c_noise: Tensor, signals: Signals) -> Tensor:
        """Raises ``UserError`` for a picture of another size."""
        added = Added([], {})
        for branch in self.branches:
            if branch.signal in signals:
                added = added + branch(x, c_noise, signals)
        further = (added.features,) if added.features else ()
        return self.base(x, c_noise, signals, added.residuals, *further)
