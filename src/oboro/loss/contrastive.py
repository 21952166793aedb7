"""Losses of pairs of images and texts: the right one among all of the batch, on all ranks."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oboro.base import distributed


@dataclass(frozen=True)
class Pairs:
    """Unit vectors ``image`` and ``text`` (B, E) and ``captions`` (B, L), int64, whose rows are equal where captions
    are."""

    image: Tensor
    text: Tensor
    captions: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def of_all_ranks(self) -> "Pairs":
        """The pairs of all ranks in the order of the ranks, with gradients; B is the same on all."""
        vectors = torch.cat([self.image, self.text], 1)
        image, text = distributed.gather_with_gradients(vectors).chunk(2, 1)
        return Pairs(image, text, distributed.gather_with_gradients(self.captions))


class PairLoss(nn.Module, ABC):
    """One number for each pair, from its logits with the images and texts of all pairs.

    A logit is ``scale cos(image, text) + bias``. Pair i is positive with itself, and, with ``equal_captions``, with
    every pair of the same caption: captions that repeat in a batch would else be pushed away from their own images.
    """

    needs_bias: bool  # whether a bias of the logits changes the loss

    def __init__(self, equal_captions: bool = True):
        super().__init__()
        self.equal_captions = equal_captions

    @abstractmethod
    def of_logits(self, image: Tensor, text: Tensor, positive: Tensor) -> Tensor:
        """The loss (B,) of logits (B, N) of B images with N texts and of B texts with N images.

        ``positive`` (B, N), bool, is the same for both.
        """

    def forward(self, image: Tensor, text: Tensor, captions: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """The loss (B,) of unit vectors ``image`` and ``text`` (B, E) among those of all ranks.

        ``captions`` (B, L), int64: rows are equal where captions are. B is the same on all ranks. The mean over all
        ranks' pairs, and its gradient, are those of one rank that has all pairs.
        """
        pairs = Pairs(image, text, captions)
        return self.among(pairs, pairs.of_all_ranks(), distributed.rank() * len(pairs), scale, bias)

    def among(self, pairs: Pairs, others: Pairs, first: int, scale: Tensor, bias: Tensor | None) -> Tensor:
        """The loss (B,) of B ``pairs`` which are number ``first`` … ``first`` + B - 1 of the N ``others``.

        In the precision of the vectors, whatever the run trains in: a logit of 100 has no room in half of it.
        """
        device = pairs.image.device
        with torch.autocast(device.type, enabled=False):
            shift = 0.0 if bias is None else bias
            own = first + torch.arange(len(pairs), device=device)[:, None]
            positive = torch.arange(len(others), device=device) == own
            if self.equal_captions:
                positive = positive | (pairs.captions[:, None] == others.captions).all(2)
            image = scale * pairs.image @ others.text.T + shift
            text = scale * pairs.text @ others.image.T + shift
            return self.of_logits(image, text, positive)


class Contrastive(PairLoss):
    """Symmetric InfoNCE: -1/2 (log p(text_i | image_i) + log p(image_i | text_i)), p a softmax of the logits over N.

    van den Oord et al. 2018 (arXiv:1807.03748, eq. 4), both ways as in CLIP (arXiv:2103.00020, fig. 3). Of m positives
    each has the target 1/m, so the loss is log m at least; where all captions differ it is InfoNCE.
    """

    needs_bias = False

    def of_logits(self, image: Tensor, text: Tensor, positive: Tensor) -> Tensor:
        target = positive.to(image) / positive.sum(1, keepdim=True)
        ways = (-(target * logits.log_softmax(1)).sum(1) for logits in (image, text))
        return sum(ways) / 2  # type: ignore[return-value]  # a sum of tensors, not of none


class SigLIP(PairLoss):
    """-sum_j log sigmoid(z_ij logit_ij) with z = 1 for positives and -1 for others (Zhai et al. 2023, arXiv:2303.15343,
    eq. 1), image i with all N texts; the mean over i is the loss of the paper."""

    needs_bias = True

    def of_logits(self, image: Tensor, text: Tensor, positive: Tensor) -> Tensor:
        return -F.logsigmoid(torch.where(positive, image, -image)).sum(1)
