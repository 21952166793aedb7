"""Training of CLIP on images and their captions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from oboro.base import distributed
from oboro.base.compiled import compile_in_place
from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.ranges import Seed
from oboro.base.seeding import generator
from oboro.codec import Codec
from oboro.conditioner.encoded_texts import remark_unread
from oboro.data import DataModule
from oboro.divergence import Divergence
from oboro.ema import EMA
from oboro.loss import PairLoss, Pairs
from oboro.modality import Image
from oboro.model.clip import CLIP as Network
from oboro.optimizer import Optimizer
from oboro.task.retrieval import recall
from oboro.task.task import Task

PAIRS = 256  # that the loss of validation is among


class CLIP(Task):
    """``clip`` trained by ``loss`` on ``codec.encode(x)`` and the image's caption, averaged by ``ema``.

    The tokenizer learns from the captions of the training images before the first step, on rank 0 for all, and not
    again on resume. Validation sees every held-out pair:

    - ``loss`` among random groups of 256 pairs, the same at each validation;
    - ``image_to_text_r1`` and ``_r5``: whether the caption of an image is the first, or among the first five, of the
      held-out captions, where captions that are equal are one. k / D for D captions by chance;
    - ``text_to_image_r1`` and ``_r5``: whether an image with that caption is among the first of the held-out images;
      an image with an equal caption is as right as its own. k / N by chance where all N captions differ;
    - ``accuracy``, with ``prompts`` (one text for each class): whether the nearest prompt is that of the label.
      1 / num_classes by chance if classes are as frequent.

    Captions are equal where their tokens are. ``compile`` compiles both towers in place.
    """

    measures = ("loss", "image_to_text_r1", "accuracy")

    def __init__(
        self,
        clip: Network,
        codec: Codec,
        loss: PairLoss,
        ema: EMA,
        optimizer: Optimizer,
        prompts: Sequence[str] | None = None,
        seed: Seed = 0,
        compile: bool = False,
        divergence: Divergence | None = None,
    ):
        super().__init__(codec, loss, ema, optimizer, seed, divergence=divergence)
        self.clip = clip
        self.prompts = prompts
        if compile:
            compile_in_place(self.clip.image, self.clip.text)

    @property
    def learned(self) -> Network:
        return self.clip

    @property
    def sharded(self) -> Sequence[nn.Module]:
        return [self.clip.image, self.clip.text]

    @property
    def description(self) -> str:
        return f"{type(self.clip.image).__name__} and text tower of {self.clip.text.tokenizer.length} tokens"

    def check(self, data: DataModule) -> None:
        """Raises ``UserError`` for images that the tower cannot divide, prompts that are not one for each class, and a
        bias of the logits that the loss lacks or cannot learn."""
        if not isinstance(data.modality, Image):
            raise UserError(f"CLIP learns from images and the data are {data.modality.noun}; choose other data.")
        sides, multiple = self.codec.latent_shape(data.modality.shape)[1:], self.clip.image.multiple
        if any(side % multiple for side in sides):
            raise UserError(
                f"the image tower needs sides that are multiples of {multiple} and these are {sides[0]}×{sides[1]}; "
                f"set data.resolution to a multiple of {multiple}, or model.image.patch to a divisor."
            )
        if self.prompts is not None and len(self.prompts) != data.num_classes:
            raise UserError(
                f"there are {counted(len(self.prompts), 'prompts')} for {counted(data.num_classes, 'classes')}; set "
                "task.prompts to one for each class, or to null."
            )
        if self.loss.needs_bias and self.clip.bias is None:
            raise UserError("loss=siglip learns a bias of the logits; set model.bias=-10 model.scale=10.")
        if self.clip.bias is not None and not self.loss.needs_bias:
            raise UserError("a softmax does not see a bias of its logits; set model.bias=null or choose loss=siglip.")

    def on_fit_start(self) -> None:
        """Raises ``UserError`` for data without captions."""
        super().on_fit_start()
        data, tokenizer = self.trainer.datamodule, self.clip.text.tokenizer
        if data.train.captions is None:
            raise UserError(
                f"CLIP learns from captions and {type(data).__name__} has none; choose data=fashion_captions, or a "
                "folder whose metadata.jsonl has texts."
            )
        if not tokenizer.fitted:

            def fit() -> Tensor:
                tokenizer.fit(data.train.captions)
                return tokenizer.merges.cpu()

            tokenizer.merges.copy_(distributed.from_first(fit))
        remark_unread(self.clip.text, data.train.captions, "captions of the data")

    def objective(self, batch: dict[str, Tensor], x: Tensor, generator: torch.Generator) -> Tensor:
        ids, mask = self.clip.tokenize(batch["caption"])
        return self.loss(*self.clip(x, ids, mask), ids, self.clip.scale(), self.clip.bias)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        ids, _ = self.clip.tokenize(self.trainer.datamodule.validation.captions)
        self._captions = ids.unique(dim=0, return_inverse=True)[1]

    def measure(self, batch: dict[str, Tensor], x: Tensor) -> Tensor:
        """The embeddings of image and text, the number of the caption among those that differ, and the label or -1."""
        caption = self._captions[batch["index"]]
        label = batch.get("label", torch.full_like(caption, -1))
        columns = [self.clip.encode_image(x), self.clip.encode_text(batch["caption"]), caption[:, None], label[:, None]]
        return torch.cat([column.float() for column in columns], 1)

    def summary(self, rows: Tensor) -> dict[str, float]:
        if not len(rows):
            return {}
        image, text = rows[:, :-2].chunk(2, 1)
        caption, label = rows[:, -2:].long().unbind(1)
        with torch.no_grad():  # the averaged weights are in place
            numbers = {"loss": self.held_out_loss(image, text, caption)}
            prompts = self.clip.encode_text(self.prompts).cpu().double() if self.prompts else None
        each, first = distinct(caption)
        for k in (1, 5):
            numbers[f"image_to_text_r{k}"] = recall(image, caption, text[first], each, k)
        for k in (1, 5):
            numbers[f"text_to_image_r{k}"] = recall(text, caption, image, caption, k)
        if prompts is not None:
            numbers["accuracy"] = ((image @ prompts.T).argmax(1) == label).double().mean().item()
        return numbers

    def held_out_loss(self, image: Tensor, text: Tensor, caption: Tensor) -> float:
        """The mean over groups of ``PAIRS`` pairs, drawn without return; pairs that fill no group are left out."""
        scale, bias = (None if p is None else p.detach().cpu() for p in (self.clip.scale(), self.clip.bias))
        order = torch.randperm(len(image), generator=generator(self.seed, "pairs"))
        losses = []
        for group in order[: max(len(order) // PAIRS * PAIRS, min(len(order), PAIRS))].split(PAIRS):
            pairs = Pairs(image[group], text[group], caption[group, None])
            losses.append(self.loss.among(pairs, pairs, 0, scale, bias).mean())
        return torch.stack(losses).mean().item()


def distinct(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The different values of ``keys`` (n,), and where each comes first."""
    values, number = keys.unique(return_inverse=True)
    places = torch.arange(len(keys))
    return values, torch.full_like(values, len(keys)).scatter_reduce(0, number, places, "amin")
