"""How ``InDomain`` learns: its network, what it learns to tell apart, and the training."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oboro.base.seeding import derive_seed, generator
from oboro.extractor.extractor import Samples

THREADS = 1  # a constant: how many share the sum over a batch changes its last bits
BATCH, RATE, WEIGHT_DECAY, DROPOUT, WARM_UP = 128, 3e-3, 0.05, 0.2, 50
ROTATIONS = 4
STATISTICS = 10_000  # pictures, at most, of which the mean and the spread of pixels are taken


@dataclass(frozen=True)
class Recipe:
    """All that decides what is learned from given pictures.

    ``side``: the length that pictures (C, side, side) are brought to. ``classes``: how many the labels name, 0 to learn
    rotations. ``views``: pictures seen, with repetitions. ``flip``: whether mirror images are pictures, too.
    """

    channels: int
    side: int
    dim: int
    classes: int
    views: int
    flip: bool
    seed: int

    @property
    def outputs(self) -> int:
        return self.classes or ROTATIONS


class InDomainNetwork(nn.Module):
    """Standardised pixels (B, C, S, S) -> features (B, dim) >= 0; ``head`` maps these to logits (B, outputs).

    3x3 convolutions with batch normalisation: S² -> (S/2)² x 32 -> (S/4)² x 48, twice -> (S/8)² x 96, from 33 pixels on
    once more -> (S/16)² x 96. The last map, 3² or 4², is flattened and not averaged, so that features see
    *where* things are. ``mean`` and ``std`` (C,) are those of the training pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, recipe: Recipe):
        super().__init__()
        self.side = recipe.side
        self.register_buffer("mean", torch.zeros(recipe.channels))
        self.register_buffer("std", torch.ones(recipe.channels))
        widths = [(recipe.channels, 32, 2), (32, 48, 2), (48, 48, 1), (48, 96, 2), *[(96, 96, 2)] * (self.side > 32)]
        layers: list[nn.Module] = []
        side = self.side
        for before, after, stride in widths:
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            side = -(-side // stride)
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.feature = nn.Sequential(
            nn.Linear(96 * side**2, recipe.dim, bias=False), nn.BatchNorm1d(recipe.dim), nn.ReLU()
        )
        self.head = nn.Linear(recipe.dim, recipe.outputs)

    def standardise(self, images: Tensor) -> Tensor:
        """Stored images (B, C, H, W), uint8, as the network sees them: (B, C, S, S), float32."""
        x = images.float()
        if x.shape[-2:] != (self.side, self.side):
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True, align_corners=False)
        return (x - self.mean[:, None, None]) / self.std[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return self.feature(self.body(x))


def train(
    recipe: Recipe, images: Samples, labels: Tensor | None, done: Callable[[int], None] = lambda seen: None
) -> InDomainNetwork:
    """The network that has learned ``labels`` (n,) of ``images``, or how far images are turned, in evaluation mode.

    Rotations are learned beside labels, too, on half as many images: what tells two classes apart may be too little to
    see a damage by. AdamW, a short warm-up, then a cosine to zero. All draws are functions of ``recipe.seed``, and the
    global generator is as before; on the CPU whatever the run computes on, so that the weights of one machine are the
    same bits each time. ``done`` gets how many pictures were seen.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
            torch.random.fork_rng(devices=[]),
        ):
            torch.manual_seed(derive_seed(recipe.seed, "in-domain features"))
            return _trained(recipe, images, labels, done)
    finally:
        torch.set_num_threads(threads)


def _trained(recipe: Recipe, images: Samples, labels: Tensor | None, done: Callable[[int], None]) -> InDomainNetwork:
    network = InDomainNetwork(recipe).to(memory_format=torch.channels_last)
    _measure_pixels(network, images)
    turns = network.head if labels is None else nn.Linear(recipe.dim, ROTATIONS)
    weights = {id(p): p for part in (network, turns) for p in part.parameters()}.values()
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=WEIGHT_DECAY)
    steps = -(-recipe.views // BATCH)
    g = generator(recipe.seed, "in-domain features")
    for step, rows in zip(range(steps), _batches(len(images), g), strict=False):
        rate = RATE * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = rate
        x = network.standardise(images[rows])
        if recipe.flip:
            x = torch.where(torch.rand(len(x), 1, 1, 1, generator=g) < 0.5, x.flip(-1), x)
        x = _shifted(x, g)
        turned, angle = rotated(x if labels is None else x[: BATCH // 2])
        seen = turned if labels is None else torch.cat([_erased(x, g), turned])
        features = F.dropout(network(seen.contiguous(memory_format=torch.channels_last)), DROPOUT)
        loss = F.cross_entropy(turns(features[-len(turned) :]), angle)
        if labels is not None:
            loss = loss + F.cross_entropy(network.head(features[: len(x)]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        done((step + 1) * BATCH)
    return network.eval().to(memory_format=torch.contiguous_format)


@torch.no_grad()
def accuracy(network: InDomainNetwork, images: Samples, labels: Tensor | None) -> float | None:
    """Share of ``images`` whose largest logit is the label, or the rotation where there are no labels; None of none."""
    right = count = 0
    for rows in torch.arange(len(images)).split(250):
        x, target = network.standardise(images[rows]), None if labels is None else labels[rows]
        if target is None:
            turned = [torch.rot90(x, k, (2, 3)) for k in range(ROTATIONS)]
            x, target = torch.cat(turned), torch.arange(ROTATIONS).repeat_interleave(len(rows))
        right += (network.head(network(x)).argmax(1) == target).sum().item()
        count += len(target)
    return right / count if count else None


def _measure_pixels(network: InDomainNetwork, images: Samples) -> None:
    """Mean and standard deviation of each channel, over some of the images, spread evenly."""
    n = len(images)
    rows = torch.arange(min(n, STATISTICS)) * n // min(n, STATISTICS)
    parts = [network.standardise(images[part]).double() for part in rows.split(250)]
    count = sum(x[:, 0].numel() for x in parts)
    mean = sum(x.sum((0, 2, 3)) for x in parts) / count
    square = sum(x.square().sum((0, 2, 3)) for x in parts) / count
    network.mean.copy_(mean)
    network.std.copy_((square - mean**2).clamp(min=1).sqrt())  # at least one of 255 steps: a flat channel is no noise


def _batches(n: int, g: torch.Generator) -> Iterator[Tensor]:
    """Rows in batches without end: one permutation after the other."""
    left = torch.empty(0, dtype=torch.int64)
    while True:
        while len(left) < BATCH:
            left = torch.cat([left, torch.randperm(n, generator=g)])
        rows, left = left[:BATCH], left[BATCH:]
        yield rows


def rotated(x: Tensor) -> tuple[Tensor, Tensor]:
    """A quarter of the images (B, C, S, S) turned by each of 0, 90, 180 and 270 degrees, and by how many right angles
    (Gidaris et al. 2018, arXiv:1803.07728, where every image is turned in all four ways)."""
    parts = [x[k::ROTATIONS] for k in range(ROTATIONS)]
    turned = torch.cat([torch.rot90(part, k, (2, 3)) for k, part in enumerate(parts)])
    return turned, torch.arange(ROTATIONS).repeat_interleave(torch.tensor([len(part) for part in parts]))


def _shifted(x: Tensor, g: torch.Generator) -> Tensor:
    """Each image (B, C, S, S) moved by up to S / 14 pixels, its edge repeated."""
    n, _, side, _ = x.shape
    reach = max(1, side // 14)
    padded = F.pad(x, [reach] * 4, mode="replicate")
    dy, dx = torch.randint(0, 2 * reach + 1, (2, n, 1), generator=g)
    rows, columns = torch.arange(side) + dy, torch.arange(side) + dx
    moved = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous()


def _erased(x: Tensor, g: torch.Generator) -> Tensor:
    """A square of 2/7 of the side set to the mean, wherever it falls (DeVries & Taylor 2017, arXiv:1708.04552)."""
    n, _, side, _ = x.shape
    size, place = 2 * side // 7, torch.arange(side)
    y, x0 = torch.randint(-size, side, (2, n, 1), generator=g)
    inside = ((place >= y) & (place < y + size))[:, :, None] & ((place >= x0) & (place < x0 + size))[:, None, :]
    return x.masked_fill(inside[:, None], 0)
