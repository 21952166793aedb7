"""Conditioners: batch ↦ condition, with signals dropped for each sample on its own."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from oboro.base.counted import counted
from oboro.base.draws import rand
from oboro.base.errors import UserError
from oboro.base.ranges import Share
from oboro.base.seeding import low_discrepancy
from oboro.condition import Condition, Image, Signal
from oboro.data import Population

Batch = Mapping[str, Any]


class Conditioner(nn.Module, ABC):
    """What a network reads of a sample beside its noisy version: ``Single`` signals, each made of one batch entry.

    Attributes:
        num_classes: how many classes samples may be asked for; 0 where there is no label.
        prompts: the texts that pictures show.
    """

    num_classes: int = 0
    prompts: Sequence[str] = ()

    @property
    @abstractmethod
    def singles(self) -> Sequence["Single"]:
        """Its signals, one by one."""

    @property
    def gives(self) -> dict[str, type[Signal]]:
        """The names of its signals and their kinds: what the network has to read."""
        return {single.name: single.kind for single in self.singles}

    @property
    def entries(self) -> set[str]:
        """The entries of a batch that it reads."""
        return {single.entry for single in self.singles}

    @property
    def dropped(self) -> set[str]:
        """The names of the signals that training drops now and then."""
        return {single.name for single in self.singles if single.dropout > 0}

    def forward(self, batch: Batch, generator: torch.Generator) -> Condition:
        """For training: signals with dropout drawn from ``generator``, in the order of ``singles``."""
        return Condition({s.name: s.drop(s.drawn(batch, generator), generator) for s in self.singles})

    def keep(self, batch: Batch) -> Condition:
        """For evaluation: every signal."""
        return Condition({single.name: single.signal(batch) for single in self.singles})

    @abstractmethod
    def metadata(self, ids: Sequence[int], population: Population | None) -> dict[str, Any]:
        """What is known of generated samples, "label" and "caption": a function of their ids alone.

        ``None``: in turn, for pictures. With the ``population`` of training images: as they are distributed, so that
        any run of ids has their classes in proportion.
        """

    def sample_batch(self, ids: Sequence[int], population: Population | None) -> dict[str, Any]:
        """The batch, without the samples themselves, that the conditions of generated samples are made of."""
        return self.metadata(ids, population)

    def for_samples(self, ids: Sequence[int], population: Population | None) -> Condition:
        """The condition of generated samples."""
        return self.keep(self.sample_batch(ids, population))

    def pictures(self, ids: Sequence[int]) -> Condition:
        """Of ``for_samples(ids, None)`` what is pictures: the rest may take long."""
        readers = [single for single in self.singles if issubclass(single.kind, Image)]
        return Condition({single.name: single.signal(single.sample_batch(ids, None)) for single in readers})

    def known(self, population: Population) -> set[str]:
        """What is known of samples of ``population`` before they are drawn: "label", "caption"."""
        return set(self.metadata([0], population))

    def cache(self, texts: Sequence[str], folder: Path, done: Callable[[int], None] | None = None) -> None:
        """Encode ``texts`` once for all runs, in ``folder``; ``done`` is called with how many are finished.

        Raises ``UserError`` where conditions are not made of texts.
        """
        raise UserError("this conditioner encodes no texts; leave callbacks.text_cache out.")

    def check(self, population: Population) -> None:
        """Raises ``UserError`` where the data do not have what the condition is made of."""

    def unread(self, population: Population) -> list[str]:
        """One line for each thing that the data have and no condition reads."""
        kinds = (
            ("label", population.labels, f"labels of {counted(population.num_classes, 'classes')}", "label"),
            ("caption", population.captions, "captions", "text"),
        )
        lines = [
            f"the data have {what} that no condition reads; conditioner={option} does"
            for entry, known, what, option in kinds
            if known is not None and entry not in self.entries
        ]
        return lines + [
            f"the data have second pictures ({entry}) that no condition reads; conditioner=image "
            f"conditioner.entry={entry} does"
            for entry in population.hints
            if entry not in self.entries
        ]


class Single(Conditioner):
    """One signal, called ``name``, of ``kind``, made of the batch ``entry``.

    ``dropout`` is the chance, independent for each sample of a training batch, that the signal is dropped: the training
    of classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598, algorithm 1).
    """

    name: str
    kind: type[Signal]
    entry: str

    def __init__(self, dropout: Share):
        super().__init__()
        self.dropout = share(dropout)

    @property
    def singles(self) -> Sequence["Single"]:
        return [self]

    @abstractmethod
    def signal(self, batch: Batch) -> Signal:
        """The signal of every sample."""

    def drawn(self, batch: Batch, generator: torch.Generator) -> Signal:
        """The same for training, what is random of it drawn from ``generator``."""
        return self.signal(batch)

    def drop(self, signal: Signal, generator: torch.Generator) -> Signal:
        """``signal`` without that of some samples; one number is drawn for each sample."""
        mask = rand((len(signal),), generator) < self.dropout
        return signal.drop(mask.to(signal.device))


def share(dropout: float) -> float:
    """Raises ``UserError`` unless ``dropout`` is a share."""
    if not 0 <= dropout <= 1:
        raise UserError(f"dropout={dropout} of a condition is no share of the samples; set it to 0.1, or from 0 to 1.")
    return dropout


def training_rows(ids: Sequence[int], population: Population) -> Tensor:
    """The training images that generated samples take their condition from, (len(ids),) int64.

    Those at ``low_discrepancy(i)`` of all, ordered by class: any run of ids has the classes in proportion.
    """
    n, labels = len(population), population.labels
    order = torch.arange(n) if labels is None else torch.argsort(labels, stable=True)
    return order[(low_discrepancy(torch.tensor(list(ids), dtype=torch.int64)) * n).long()]


def training_metadata(ids: Sequence[int], population: Population) -> dict[str, Any]:
    """Caption and class, where there are any, of ``training_rows``."""
    rows = training_rows(ids, population)
    known: dict[str, Any] = {}
    if population.captions is not None:
        known["caption"] = [population.captions[i] for i in rows.tolist()]
    if population.labels is not None:
        known["label"] = population.labels[rows]
    return known


def width(key: str, name: str | None = None, *, _root_: DictConfig) -> int | dict[str, int]:
    """``${condition:num_classes}`` in YAML: the value of ``key`` of the run's conditioner, or of the part of a joint
    one that has it; 0 where none has.

    ``${condition:image_channels}`` is how many channels a network reads of the picture ``image``, those of the codec
    where it is encoded, and a mapping where pictures have other names or are several;
    ``${condition:image_channels,control}`` that of the picture ``control`` alone.
    """
    node = _root_.conditioner
    parts = [part for part in (node, *node.get("parts", {}).values()) if key in part]
    if key != "image_channels":
        return next((part[key] for part in parts), 0)
    pictures = {
        part.get("name", "image"): _root_.codec.channels if part.get("latent", False) else part[key] for part in parts
    }
    if name is not None:
        return pictures.get(name, 0)
    return pictures if set(pictures) - {"image"} else pictures.get("image", 0)


OmegaConf.register_new_resolver("condition", width, replace=True)
