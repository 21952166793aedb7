"""The parts of a data set: what is trained on, and what is held out for validation and for a test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.seeding import generator
from oboro.data.cache import Source
from oboro.data.latents import Latents
from oboro.data.store import Samples, Store
from oboro.data.stream import Selection


@dataclass
class Split(Dataset):
    """n samples and what is known of each; also the data set that reads the whole batch that a sampler selects at once.

    Attributes:
        samples: (n, C, ...), as they are stored.
        labels: (n,) int64, None without classes.
        captions: n texts, None without.
        hints: by entry, further pictures (n, C', H, W), uint8, that belong to each sample.
        latents: of the samples, once they are cached; a batch then holds these instead.
        keeps_samples: whether it holds the samples, too, where latents are cached.
        hint_latents: by entry, those of further pictures, which a batch holds beside them, as entry + "_latent".
    """

    samples: Samples
    labels: Tensor | None = None
    captions: Sequence[str] | None = None
    hints: Mapping[str, Samples] = field(default_factory=dict)
    latents: Latents | None = None
    keeps_samples: bool = False
    hint_latents: Mapping[str, Latents] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, selection: Selection) -> dict[str, Tensor | list[str]]:
        """As stored: ``DataModule.on_after_batch_transfer`` makes of it what a network sees.

        The index -1 stands for no sample (``Chunks``); the first one fills its place.
        """
        index, flip = selection
        batch: dict[str, Tensor | list[str]] = {"index": index}
        index = index.clamp(min=0)
        if self.latents is not None:
            batch["latent"] = self.latents(index, flip)
        batch |= {f"{entry}_latent": latents(index, flip) for entry, latents in self.hint_latents.items()}
        if self.latents is None or self.keeps_samples:
            batch["x"] = self.samples[index]
        batch |= {entry: pictures[index] for entry, pictures in self.hints.items()}
        if self.labels is not None:
            batch["label"] = self.labels[index]
        if self.captions is not None:
            batch["caption"] = [self.captions[i] for i in index.tolist()]
        if flip is not None and ("x" in batch or self.hints):
            batch["flip"] = flip
        return batch


class Rows(NamedTuple):
    """Which samples each part has, ascending."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def held_out_counts(count: int, validation: int | float, test: int | float) -> tuple[int, int]:
    """How many of ``count`` samples are held out for validation and for the test; a fraction is one of ``count``.
    Raises ``UserError`` where none are left to train on."""
    numbers = [round(part * count) if isinstance(part, float) else part for part in (validation, test)]
    if min(numbers) < 0 or sum(numbers) >= count:
        given = f"data.validation={validation}" + (f" and data.test={test} hold" if test else " holds")
        remedy = "set less of both" if test else f"set a number from 0 to {count - 1}, or a fraction below 1"
        raise UserError(
            f"{given} out {sum(numbers)} of {counted(count, 'samples')} and has to leave at least one to train on; "
            f"{remedy}"
        )
    return numbers[0], numbers[1]


def split_rows(count: int, validation: int | float, test: int | float, groups: np.ndarray | None, seed: int) -> Rows:
    """A fixed permutation of the seed, cut in three: validation, test, and the rest for training. ``validation`` alone
    decides which rows are for validation.

    With ``groups`` (count,) each group is one element of the permutation, and held out if all of it still fits.
    """
    held_out, tested = held_out_counts(count, validation, test)
    if groups is None:
        order = torch.randperm(count, generator=generator(seed, "split")).numpy()
        return Rows(*map(np.sort, (order[held_out + tested :], order[:held_out], order[held_out : held_out + tested])))
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    part, room = np.zeros(len(sizes), dtype=np.int64), [count, held_out, tested]
    for i in torch.randperm(len(sizes), generator=generator(seed, "split")).tolist():
        part[i] = next((k for k in (1, 2) if sizes[i] <= room[k]), 0)
        room[part[i]] -= sizes[i]
    for k, key, given, wanted in ((1, "validation", validation, held_out), (2, "test", test, tested)):
        if wanted and not (part == k).any():
            raise UserError(
                f"data.{key}={given} holds out {wanted} of {counted(count, 'samples')}, fewer than any group "
                f"that belongs together; set data.{key}={sizes.min()} or more"
            )
    return Rows(*(np.flatnonzero(part[group] == k) for k in range(3)))


def split_classes(left_out: Sequence[int], source: Source, store: Store) -> tuple[np.ndarray, np.ndarray]:
    """The rows of classes that are not ``left_out`` and of those that are. ``UserError`` where there is no such class,
    or no other."""
    if not left_out:
        return np.arange(store.shape[0]), np.arange(0)
    shown = ",".join(map(str, left_out))
    if not source.classes or store.labels is None:
        raise UserError(f"data.left_out=[{shown}] are classes and the samples have no labels; set data.left_out=[]")
    present = np.unique(store.labels)
    if missing := sorted(set(left_out) - set(present.tolist())):
        raise UserError(
            f"data.left_out=[{shown}] has {missing[0]} and no sample is of that class; set numbers from 0 to "
            f"{source.classes - 1}"
        )
    if not set(present.tolist()) - set(left_out):
        raise UserError(f"data.left_out=[{shown}] leaves no class to train on; set fewer")
    out = np.isin(store.labels, left_out)
    return np.flatnonzero(~out), np.flatnonzero(out)
