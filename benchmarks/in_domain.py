"""Whether ``extractor=in_domain`` orders sets of pictures as the shipped classifier of Fashion-MNIST does.

    python benchmarks/in_domain.py --seeds 3

27 sets of 2,000 pictures, real ones spoiled in known ways, and Spearman's rank correlation of the Fréchet distances in
both spaces. ``--grids FOLDER`` does the same for the checkpoints of a run, from its pictures of many samples:

    python train.py trainer.max_steps=800 callbacks.sample_grid.n=1000 callbacks.sample_grid.every_n_steps=50
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor

from oboro.data import FashionMNIST
from oboro.extractor import Fashion
from oboro.extractor.in_domain_training import Recipe, train
from oboro.metrics import FeatureStatistics, frechet_distance

N, LEARNED = 2000, 5000
SIDE, BORDER, ZOOM = 28, 2, 3  # of a sample in a grid, in pixels, and how often each is repeated
Features = Callable[[Tensor], Tensor]


def pictures() -> tuple[Tensor, Tensor]:
    """(10000, 1, 28, 28), uint8, and their classes."""
    data = FashionMNIST(part="test", num_classes=10, validation=0)
    data.prepare_data()
    data.setup()
    return torch.as_tensor(np.asarray(data.train.samples[range(len(data.train))])), data.train.labels


def blurred(x: Tensor, std: float) -> Tensor:
    kernel = torch.exp(-(torch.arange(-6, 7.0) ** 2) / 2 / std**2)
    kernel /= kernel.sum()
    across = F.conv2d(x, kernel.view(1, 1, 1, -1), padding=(0, 6))
    return F.conv2d(across, kernel.view(1, 1, -1, 1), padding=(6, 0))


def spoiled(x: Tensor, labels: Tensor, learned: Tensor) -> dict[str, Tensor]:
    """Sets of ``N`` pictures made of ``x``, which the extractor has not seen, or of ``learned``, which it has."""
    g = torch.Generator().manual_seed(0)
    real = x[:N].float()
    noise = torch.randn(real.shape, generator=g)
    sets = {"real": real}
    sets |= {f"noise {std}": real + std * noise for std in (5, 10, 20, 40, 80)}
    sets |= {f"blur {std}": blurred(real, std) for std in (0.5, 0.8, 1.2, 2.0)}
    sets |= {f"{c} classes": x[torch.isin(labels, torch.arange(c))][:N].float() for c in (9, 7, 5, 2, 1)}
    for ratio in (2, 5, 10):
        weights = torch.where(labels < 5, float(ratio), 1.0)
        sets[f"shares 1:{ratio}"] = x[torch.multinomial(weights, N, generator=g)].float()
    sets |= {f"{n} repeated": learned[:n].repeat(N // n, 1, 1, 1).float() for n in (10, 100, 1000)}
    sets |= {f"shift {n}": real.roll(n, 3) for n in (1, 3)} | {f"contrast {c}": real * c for c in (0.8, 0.5)}
    sets["blend"] = 0.75 * real + 0.25 * real.roll(1, 0)
    sets["halves"] = torch.cat([real[..., : SIDE // 2], real.roll(1, 0)[..., SIDE // 2 :]], -1)
    return {name: each.round().clamp(0, 255).to(torch.uint8) for name, each in sets.items()}


def of_grid(path: Path) -> Tensor:
    """The samples (n, 1, 28, 28) in a picture of many."""
    grid = torch.from_numpy(np.array(Image.open(path).convert("L")))[BORDER:, BORDER:]
    cell = SIDE * ZOOM + BORDER
    rows, columns = (side // cell for side in grid.shape)
    inner = grid[: rows * cell, : columns * cell].view(rows, cell, columns, cell).permute(0, 2, 1, 3)
    return inner[:, :, : SIDE * ZOOM : ZOOM, : SIDE * ZOOM : ZOOM].reshape(-1, 1, SIDE, SIDE)[:1000]


@torch.no_grad()
def distances(features: Features, sets: list[Tensor], reference: Tensor) -> list[float]:
    def statistics(x: Tensor) -> FeatureStatistics:
        return FeatureStatistics.from_features(torch.cat([features(part) for part in x.split(500)]))

    real = statistics(reference)
    return [frechet_distance(statistics(each), real) for each in sets]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--grids", type=Path, help="the folder samples of a run")
    arguments = parser.parse_args()
    x, labels = pictures()
    learned, unseen = x[:LEARNED], x[LEARNED:]
    groups = {"spoiled sets": list(spoiled(unseen, labels[LEARNED:], learned).values())}
    if arguments.grids:
        groups["checkpoints"] = [of_grid(path) for path in sorted(arguments.grids.glob("step-*.png"))]
    shipped = Fashion()
    expected = {name: distances(lambda part: shipped(part)["features"], sets, learned) for name, sets in groups.items()}
    for seed in range(arguments.seeds):
        for classes in (10, 0):
            start = time.perf_counter()
            recipe = Recipe(1, SIDE, 128, classes, 60000, False, seed)
            network = train(recipe, learned, labels[:LEARNED] if classes else None)
            seconds = time.perf_counter() - start
            found = {
                name: distances(lambda part, net=network: net(net.standardise(part)), sets, learned)
                for name, sets in groups.items()
            }
            ranks = ", ".join(f"{name} {spearmanr(found[name], expected[name])[0]:.3f}" for name in groups)
            print(f"seed {seed}, labels={bool(classes)}: {ranks}; {seconds:.0f} s to learn", flush=True)


if __name__ == "__main__":
    main()
