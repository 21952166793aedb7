"""Few images of one thing beside many of its kind: the data of DreamBooth."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Unpack

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.paths import LocalPath
from oboro.base.ranges import NonNegative, Share
from oboro.base.seeding import derive_seed
from oboro.data.cache import Block, Source
from oboro.data.image_data import ImageData, ImageSettings
from oboro.data.image_folder import ImageFolder
from oboro.data.stream import Mixture, Selection, Shuffled, TrainStream, places

INSTANCE, PRIOR = 0, 1


class DreamBooth(ImageData):
    """Images of one thing (the folder ``root``) called ``prompt``, and of its kind (``prior_root``): Ruiz et al. 2022
    (arXiv:2208.12242, eq. 2).

    The mean of batch["weight"] times the loss of each image is

        mean over instances of L + ``prior_weight`` · mean over prior images of L

    with the weights 1 / (1 - s) and ``prior_weight`` / s; s = ``prior_share`` is the share of prior images in every
    batch, on every device. Both kinds have an order of their own, and small folders come round more often.

    The prior images keep the model from forgetting what else the words mean; they are its own, drawn by ``sample.py``
    before training. Their text is ``prior_prompt``, or those in the ``metadata.jsonl`` that ``sample.py`` wrote.

    Raises ``UserError`` where a folder or the texts are missing, where a batch does not divide into such shares, and
    where no image of the thing is left to train on. The rest is as in ``ImageFolder``.
    """

    defaults: ClassVar[ImageSettings] = {"batch_size": 8, "validation": 0}

    def __init__(
        self,
        *,
        root: LocalPath,
        prompt: str,
        prior_root: LocalPath,
        prior_prompt: str | None = None,
        prior_share: Share = 0.5,
        prior_weight: NonNegative = 1.0,
        **settings: Unpack[ImageSettings],
    ):
        settings = self.complete(settings)
        if settings["num_classes"]:
            raise UserError("data=dreambooth has texts and no classes; leave data.num_classes at 0.")
        super().__init__(**settings)
        if not 0 < prior_share < 1:
            raise UserError(
                f"data.prior_share={prior_share} leaves out a kind of images; set a number between 0 and 1."
            )
        self.parts = (ImageFolder(root=root, **settings), ImageFolder(root=prior_root, **settings))
        self.prompt, self.prior_prompt = prompt, prior_prompt
        self.prior_share, self.prior_weight = prior_share, prior_weight

    def source(self) -> Source:
        root = self.parts[PRIOR].root
        if not root.is_dir():
            raise UserError(
                f"data.prior_root={root} is no folder; draw images of the kind of thing with sample.py and set it to "
                "their folder."
            )
        sources = [part.source() for part in self.parts]
        content = [*(source.key for source in sources), self.prompt, self.prior_prompt]
        return Source(
            hashlib.sha256(repr(content).encode()).hexdigest(),
            0,  # to a model; the stored labels are those of the two kinds
            lambda: self._blocks(sources),
            left_out=[item for source in sources for item in source.left_out],
            count=sum(source.count or 0 for source in sources),
        )

    def _blocks(self, sources: list[Source]) -> Iterator[Block]:
        for kind, (source, text) in enumerate(zip(sources, (self.prompt, self.prior_prompt), strict=True)):
            for block in source.blocks():
                captions = block.captions if text is None else [text] * len(block.samples)
                if captions is None:
                    raise UserError(
                        f"the images in {self.parts[kind].root} have no texts; set data.prior_prompt to one for all."
                    )
                yield replace(block, labels=np.full(len(block.samples), kind), captions=captions)

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        kind = torch.from_numpy(self._store.labels[self.train.samples.rows])
        self._rows = [torch.nonzero(kind == k).flatten() for k in (INSTANCE, PRIOR)]
        if not all(len(rows) for rows in self._rows):
            raise UserError(f"data.validation={self.held_out} holds out all images of a kind; set data.validation=0.")
        share = torch.tensor([1 - self.prior_share, self.prior_share])
        self._weights = (torch.tensor([1.0, self.prior_weight]) / share)[kind]

    def train_dataloader(self) -> DataLoader:
        world, rank = self._place()
        parts = world * self._accumulate
        prior = self.batch_size * self.prior_share
        if abs(prior - round(prior)) > 1e-6 or round(prior) % parts or self.batch_size % parts:
            raise UserError(
                f"data.batch_size={self.batch_size} does not divide into data.prior_share={self.prior_share} and the "
                f"rest on {counted(world, 'devices')} times {counted(self._accumulate, 'micro-batches')}; change "
                "data.batch_size."
            )
        streams = [
            TrainStream(
                Shuffled(len(rows), derive_seed(self.seed, "mixture", kind)),
                size,
                flip=self.flip,
                world=world,
                rank=rank,
                accumulate=self._accumulate,
                start=self._consumed,
            )
            for kind, (rows, size) in enumerate(zip(self._rows, self._sizes, strict=True))
        ]
        return self._loader(_Weighted(self.train, self._weights), Mixture(streams, self._rows))

    @property
    def _sizes(self) -> tuple[int, int]:
        """How many images of each kind a batch has."""
        prior = round(self.batch_size * self.prior_share)
        return self.batch_size - prior, prior

    def rows(self, micro_batch: int) -> Tensor:
        """One process has all images of the first kind before those of the second, as each micro-batch has."""
        world, rank = self._place()
        first, second = (places(size, world, rank, self._accumulate, micro_batch) for size in self._sizes)
        return torch.cat([first, self._sizes[0] + second])


class _Weighted(Dataset):
    """Batches with the weight of each image."""

    def __init__(self, batches: Dataset, weights: Tensor):
        self._batches, self._weights = batches, weights

    def __len__(self) -> int:
        return len(self._batches)

    def __getitems__(self, selection: Selection) -> dict[str, Tensor | list[str]]:
        return {**self._batches.__getitems__(selection), "weight": self._weights[selection[0]]}
