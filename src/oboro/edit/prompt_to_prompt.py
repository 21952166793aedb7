"""Editing by the attention maps of another walk."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.ranges import PositiveShare, Share
from oboro.condition import Condition, Signal, kinds_read
from oboro.denoiser import Denoises
from oboro.edit.attention import Attention, Control, Controlled, with_map_of
from oboro.edit.edit import Model, Pictures, TokenReader, walked
from oboro.edit.inversion import Inverting
from oboro.edit.words import Correspondence, check_weights, correspondence, factors, read_words
from oboro.guidance import Guidance
from oboro.guidance.guidance import DenoiserWrapper
from oboro.lesson import Lesson
from oboro.sampler import Node

WORDS = "words"  # the name of the correspondence in ``Condition.sampling``


class PromptToPrompt(Inverting):
    """Two walks from one noise, of source and target, where the target attends as the source does.

    Hertz et al. 2022 (arXiv:2208.01626, algorithm 1). In the first ``cross_steps`` of the steps, a share, the attention
    maps to the text are the source's for all words that the texts share, and for words in the place of others if
    ``swap`` (the paper's word swap; else they attend by themselves, as added words do, its refinement). In the first
    ``self_steps`` the maps among pixels are the source's. ``weights`` multiplies the attention to words of the target
    at all steps, its re-weighting: {red: 3}. Under guidance this is done where the model sees the condition, and the
    branch without is left alone, as in the authors' code.

    The noise is that which the source was drawn from, for pictures that the model draws, with the guidance of the model
    for both walks. A photograph is inverted under the source, up to ``strength``, and its own walk has the scale
    ``source_scale``, so that it leads back to the picture without the optimisation of null-text inversion.

    Attention is taken to be to a text where it has a mask or another number of keys than queries (``Attention``).
    Raises ``UserError`` for networks in which there is none where it is asked for.
    """

    draws = True
    words = True

    def __init__(
        self,
        cross_steps: Share = 0.8,
        self_steps: Share = 0.4,
        swap: bool = True,
        weights: Mapping[str, float] | None = None,
        strength: PositiveShare = 1.0,
        source_scale: float = 1.0,
    ):
        super().__init__(strength, source_scale)
        self.cross_steps = cross_steps
        self.self_steps = self_steps
        self.swap = swap
        self.weights = {str(word).lower(): weight for word, weight in (weights or {}).items()}

    def __call__(self, model: Model, pictures: Pictures) -> Tensor:
        start = 1.0 if pictures.drawn else self.strength
        x_t = None if pictures.drawn else torch.cat([self.inverted(model, pictures)] * 2)
        twice = replace(pictures, ids=[*pictures.ids, *pictures.ids])
        beside = Beside(self, model.guidance, model.guidance if pictures.drawn else self.source_guidance, pictures)
        return walked(model, twice, pictures.target, beside, x_t=x_t, start=start)[len(pictures.x) :]

    def can_ask(self, lesson: Lesson, drawn: bool) -> bool:
        return drawn or super().can_ask(lesson, drawn)  # drawing is what the model was trained for

    def check(self, model: Model, drawn: bool) -> None:
        if not model.sampler.walks_grid:
            raise UserError(
                f"edit=prompt_to_prompt means steps of a time grid and {type(model.sampler).__name__} as set takes "
                "others; choose a sampler with fixed steps, such as sampler=ddim."
            )
        network = getattr(model.denoiser, "network", None)
        if network is not None and self.cross_steps > 0 and "text" not in kinds_read(network):
            raise UserError(
                "edit=prompt_to_prompt takes over the attention to a text, and this model reads none; set "
                "edit.cross_steps=0 for the attention among pixels alone, or choose another edit, such as flow_edit."
            )
        if not drawn:
            super().check(model, drawn)

    def read(self, reader: TokenReader, sources: Sequence[str], targets: Sequence[str]) -> Mapping[str, Signal]:
        read = [
            [read_words(*row) for row in zip(texts, reader.spans(texts), strict=True)] for texts in (sources, targets)
        ]
        check_weights(self.weights, read[1])
        maps = [correspondence(source, target, self.swap) for source, target in zip(*read, strict=True)]
        factor = [factors(target, self.weights) for target in read[1]]
        return {WORDS: Correspondence(torch.stack(maps), torch.stack(factor))}


class Beside:
    """Source and target beside each other in one batch, the first half and the second, each under its own guidance."""

    def __init__(self, edit: PromptToPrompt, guidance: Guidance, source_guidance: Guidance, pictures: Pictures):
        self.edit = edit
        self.guidance = guidance
        self.source_guidance = source_guidance
        self.pictures = pictures

    def __call__(self, denoiser: Denoises, grid: Sequence[Node]) -> Denoises:
        source, target = self.pictures.source, self.pictures.target
        maps = Maps(self.edit, grid, target.sampling.get(WORDS))
        first = self.source_guidance(Recorded(denoiser, source, maps), grid)
        return BesideDenoiser(first, source, self.guidance(Injected(denoiser, target, maps), grid), target)


class BesideDenoiser(DenoiserWrapper):
    """The denoiser that ``Beside`` makes. It has conditions of its own and takes none; the source goes first."""

    def __init__(self, source: Denoises, source_cond: Condition, target: Denoises, target_cond: Condition):
        super().__init__(target)
        self.source = source
        self.source_cond = source_cond
        self.target_cond = target_cond

    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        (x, y), (t_x, t_y) = x_t.chunk(2), t.chunk(2)
        first = self.source(x, t_x, self.source_cond)
        return torch.cat([first, self.denoiser(y, t_y, self.target_cond)])

    def with_variance(self, x_t: Tensor, t: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        (x, y), (t_x, t_y) = x_t.chunk(2), t.chunk(2)
        first = self.source.with_variance(x, t_x, self.source_cond)
        second = self.denoiser.with_variance(y, t_y, self.target_cond)
        return torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])

    def towards(self, alpha: float | Tensor, sigma: float | Tensor) -> Self:
        other, source = super().towards(alpha, sigma), self.source.towards(alpha, sigma)
        if source is not self.source:
            other = copy(other) if other is self else other
            other.source = source
        return other


class Maps:
    """The attention of the source at the noise level that was evaluated last, and what the target takes of it."""

    def __init__(self, edit: PromptToPrompt, grid: Sequence[Node], words: Signal | None):
        self.edit = edit
        self.words = words if isinstance(words, Correspondence) else None
        self.cross_until, self.self_until = (until(grid, share) for share in (edit.cross_steps, edit.self_steps))
        self.kept: list[Attention] = []

    def recording(self) -> Control:
        """Keeps every attention of an evaluation and leaves it as it is."""
        self.kept = []

        def control(attention: Attention) -> Tensor:
            self.kept.append(attention)
            return attention.answer()

        return control

    def injecting(self, t: float) -> Control:
        """Answers with the maps of the source where the step of ``t`` is one of theirs."""
        self.check()
        kept = iter(self.kept)
        cross, among = t >= self.cross_until - 1e-6, t >= self.self_until - 1e-6

        def control(attention: Attention) -> Tensor:
            other = next(kept)
            if not attention.crosses:
                return with_map_of(attention, other) if among else attention.answer()
            if self.words is not None:
                return attended(attention, other if cross else None, self.words)
            return with_map_of(attention, other) if cross and same_keys(attention, other) else attention.answer()

        return control

    def check(self) -> None:
        """Raises ``UserError`` where the network has not the attention that is asked for."""
        edit, kinds = self.edit, {attention.crosses for attention in self.kept}
        if self.words is not None and True not in kinds:
            raise UserError(
                "edit=prompt_to_prompt needs a network that attends to a text, and this one does not; choose another "
                "edit, such as edit=flow_edit."
            )
        if edit.self_steps > 0 and False not in kinds:
            raise UserError(
                "edit=prompt_to_prompt needs a network with attention among pixels, and this one has none; set "
                "edit.self_steps=0, or choose another edit, such as edit=flow_edit."
            )


def same_keys(a: Attention, b: Attention) -> bool:
    return a.k.shape == b.k.shape


def until(grid: Sequence[Node], share: float) -> float:
    """The time at which the last of the first ``share`` of the steps begins; above all times where there is none."""
    count = round(share * (len(grid) - 1))
    return grid[count - 1].t if count else 2.0


def attended(own: Attention, source: Attention | None, words: Correspondence) -> Tensor:
    """The attention of a target to its text, with the maps of ``source`` for the words that correspond."""
    weights, more = own.map(), own.k.shape[-2] - words.factor.shape[-1]
    factor = F.pad(words.factor, (0, more), value=1.0).to(weights)
    if source is not None:
        shares = F.pad(words.shares, (0, more, 0, more)).to(weights)
        filled = torch.arange(words.factor.shape[-1], own.k.shape[-2])  # keys that a network fills texts up with
        shares[:, filled, filled] = 1
        weights = torch.where((shares > 0).any(1)[:, None, None], source.map() @ shares[:, None], weights)
    return (weights * factor[:, None, None]).to(own.v) @ own.v


class Recorded(DenoiserWrapper):
    """The same denoiser; ``maps`` keeps its attention where it sees the ``cond`` of the source."""

    def __init__(self, denoiser: Denoises, cond: Condition, maps: Maps):
        super().__init__(denoiser)
        self.cond = cond
        self.maps = maps

    def __call__(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        if not sees(cond, self.cond):
            return self.denoiser(x_t, t, cond)
        with Controlled(self.control(t)):
            return self.denoiser(x_t, t, cond)

    def with_variance(self, x_t: Tensor, t: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        if not sees(cond, self.cond):
            return self.denoiser.with_variance(x_t, t, cond)
        with Controlled(self.control(t)):
            return self.denoiser.with_variance(x_t, t, cond)

    def control(self, t: Tensor) -> Control:
        return self.maps.recording()


class Injected(Recorded):
    """The denoiser with the attention of ``maps`` where it sees the ``cond`` of the target."""

    def control(self, t: Tensor) -> Control:
        return self.maps.injecting(float(t[0]))


def sees(cond: Condition, whole: Condition) -> bool:
    """Whether ``cond`` has the signals of ``whole``, and is not what guidance compares it with."""
    return all(cond.signals.get(name) is signal for name, signal in whole.signals.items())
