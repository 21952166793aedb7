"""Train the Fashion-MNIST classifier that the `fashion` feature extractor ships.

    python benchmarks/train_fashion_classifier.py --root /usr/share/datasets/fashion-mnist

reads the four gzipped idx files in --root, trains on the 60,000 training images (minutes on one CPU thread), prints the
accuracy on the 10,000 test images after every epoch and writes the weights, batch normalisation folded, float16.
The test images choose nothing: the weights of the last epoch are the ones written.
"""

import argparse
import gzip
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from oboro.base.seeding import generator
from oboro.extractor.fashion import WEIGHTS, FashionNetwork, standardise


def read_idx(path: Path, header: int) -> Tensor:
    """The bytes of a gzipped idx file after its header (16 bytes for images, 8 for labels), uint8."""
    return torch.from_numpy(np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header).copy())


class TrainingNetwork(nn.Module):
    """``FashionNetwork`` with batch normalisation before each rectifier and dropout before the head."""

    def __init__(self, dropout: float):
        super().__init__()
        self.plain = FashionNetwork()
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in (32, 48, 48, 96))
        self.feature_norm = nn.BatchNorm1d(self.plain.feature.out_features)
        self.dropout = nn.Dropout(dropout)

    def convolutions(self) -> list[nn.Conv2d]:
        return [self.plain.conv1, self.plain.conv2, self.plain.conv3, self.plain.conv4]

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convolutions(), self.norms, strict=True):
            x = F.relu(norm(conv(x)))
        x = F.relu(self.feature_norm(self.plain.feature(self.dropout(x.flatten(1)))))
        return self.plain.head(x)

    @torch.no_grad()
    def fold(self) -> FashionNetwork:
        """The same function in evaluation mode without normalisation: w' = w g/s, b' = (b - mean) g/s + beta."""
        folded = FashionNetwork().eval()
        folded.load_state_dict(self.plain.state_dict())
        layers = [folded.conv1, folded.conv2, folded.conv3, folded.conv4, folded.feature]
        for layer, norm in zip(layers, [*self.norms, self.feature_norm], strict=True):
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
            layer.bias.copy_((layer.bias - norm.running_mean) * scale + norm.bias)
        return folded


def augment(images: Tensor, rng: torch.Generator, shift: int, erase: int) -> Tensor:
    """Flip each image (B, 1, 28, 28) with probability 1/2, shift it by up to ``shift`` pixels, blacken one square."""
    n, _, height, width = images.shape
    pad = F.pad(images, [shift] * 4)
    dy, dx = torch.randint(0, 2 * shift + 1, (2, n, 1), generator=rng)
    columns = torch.arange(width).expand(n, width)
    flip = torch.rand(n, 1, generator=rng) < 0.5
    columns = torch.where(flip, columns.flip(1), columns) + dx
    rows = torch.arange(height).expand(n, height) + dy
    out = pad[torch.arange(n)[:, None, None], 0, rows[:, :, None], columns[:, None, :]]
    y0, x0 = torch.randint(-erase, height, (2, n, 1), generator=rng)
    inside_y = (torch.arange(height) >= y0) & (torch.arange(height) < y0 + erase)
    inside_x = (torch.arange(width) >= x0) & (torch.arange(width) < x0 + erase)
    return out.masked_fill(inside_y[:, :, None] & inside_x[:, None, :], 0).unsqueeze(1)


@torch.no_grad()
def accuracy(network: FashionNetwork, images: Tensor, labels: Tensor) -> float:
    """Fraction of ``images`` whose largest logit is the label."""
    logits = torch.cat([network.head(network(standardise(chunk))) for chunk in images.split(1000)])
    return (logits.argmax(1) == labels).double().mean().item()


def train(images: Tensor, labels: Tensor, args: argparse.Namespace, report) -> FashionNetwork:
    """AdamW, one-epoch linear warm-up, cosine to zero; every random draw is a function of ``(seed, epoch)``."""
    torch.manual_seed(args.seed)
    model = TrainingNetwork(args.dropout).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    per_epoch = len(images) // args.batch_size
    total, step = per_epoch * args.epochs, 0
    for epoch in range(args.epochs):
        rng = generator(args.seed, "fashion classifier", epoch)
        order = torch.randperm(len(images), generator=rng)
        model.train()
        for batch in order[: per_epoch * args.batch_size].split(args.batch_size):
            warm = min(1.0, (step + 1) / per_epoch)
            optimizer.param_groups[0]["lr"] = args.lr * warm * 0.5 * (1 + math.cos(math.pi * step / total))
            x = standardise(augment(images[batch], rng, args.shift, args.erase))
            loss = F.cross_entropy(model(x.contiguous(memory_format=torch.channels_last)), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        model.eval()
        report(epoch, model.fold(), loss.item())
    return model.fold()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--shift", type=int, default=1)
    parser.add_argument("--erase", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    images = read_idx(args.root / "train-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28)
    labels = read_idx(args.root / "train-labels-idx1-ubyte.gz", 8).long()
    test_images = read_idx(args.root / "t10k-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28)
    test_labels = read_idx(args.root / "t10k-labels-idx1-ubyte.gz", 8).long()
    start = time.perf_counter()

    def report(epoch: int, network: FashionNetwork, loss: float) -> None:
        reached = accuracy(network, test_images, test_labels)
        print(
            f"epoch {epoch + 1:2d}  loss {loss:.3f}  test {reached:.4f}  {time.perf_counter() - start:.0f} s",
            flush=True,
        )

    network = train(images, labels, args, report)
    stored = {key: value.half().contiguous() for key, value in network.state_dict().items()}
    network.load_state_dict({key: value.float() for key, value in stored.items()})
    reached = accuracy(network, test_images, test_labels)
    settings = ("epochs", "batch_size", "lr", "weight_decay", "dropout", "shift", "erase", "seed")
    command = " ".join(f"--{name.replace('_', '-')} {getattr(args, name)}" for name in settings)
    origin = {
        "dataset": "Fashion-MNIST, 60,000 training images",
        "test_accuracy": round(reached, 4),
        "command": f"python benchmarks/train_fashion_classifier.py {command}",
        "layers": "oboro.extractor.fashion.FashionNetwork, batch normalisation folded, float16",
    }
    metadata = {"origin": json.dumps(origin)}  # one key: safetensors writes several in random order
    save_file(stored, args.out, metadata)
    print(f"test accuracy {reached:.4f} (float16 weights), {args.out} {args.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
