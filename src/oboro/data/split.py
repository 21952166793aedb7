"""The two parts of a data set: what is trained on, and what is held out for validation."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.seeding import generator
from oboro.data.cache import SampleArray
from oboro.data.latents import Latents
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

    samples: SampleArray
    labels: Tensor | None = None
    captions: list[str] | None = None
    hints: Mapping[str, SampleArray] = field(default_factory=dict)
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


def held_out_count(validation: int | float, count: int) -> int:
    """How many of ``count`` samples are held out. Raises ``UserError`` where none are left to train on."""
    held_out = round(validation * count) if isinstance(validation, float) else validation
    if not 0 <= held_out < count:
        raise UserError(
            f"data.validation={validation} holds out {held_out} of {counted(count, 'samples')} and has to leave at "
            f"least one to train on; set a number from 0 to {count - 1}, or a fraction below 1"
        )
    return held_out


def split_rows(
    count: int, validation: int | float, groups: np.ndarray | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows for training and for validation, each ascending: a fixed permutation of the seed, cut in two.

    With ``groups`` (count,) each group is one element of the permutation, and held out if all of it still fits.
    """
    held_out = held_out_count(validation, count)
    if groups is None:
        order = torch.randperm(count, generator=generator(seed, "split")).numpy()
        return np.sort(order[held_out:]), np.sort(order[:held_out])
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    chosen, room = np.zeros(len(sizes), dtype=bool), held_out
    for i in torch.randperm(len(sizes), generator=generator(seed, "split")).tolist():
        if sizes[i] <= room:
            chosen[i], room = True, room - sizes[i]
    if held_out and not chosen.any():
        raise UserError(
            f"data.validation={validation} holds out {held_out} of {counted(count, 'samples')}, fewer than any group "
            f"that belongs together; set data.validation={sizes.min()} or more"
        )
    return np.flatnonzero(~chosen[group]), np.flatnonzero(chosen[group])
