"""Our metrics beside those of torch-fidelity and torchmetrics: the same weights file, the same images.

    python benchmarks/metric_parity.py [--weights FILE] [--real 300] [--generated 200]

Prints the table of docs/metrics.md. Without ``--weights`` the Inception network gets random weights of the right
shapes: the numbers then mean nothing, but every implementation has to agree on them. Real images are pictures of
Fashion-MNIST in colour, generated ones are shifted and noisy copies of others.
"""

import argparse
import gzip
import io
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from oboro import data
from oboro.extractor import Inception
from oboro.metrics import FeatureStatistics, frechet_distance
from oboro.metrics.inception_score import inception_score
from oboro.metrics.kernel import kernel_distance, kernel_distance_subsets
from oboro.metrics.manifold import precision_recall

SUBSET = 100


class Images(Dataset):
    """What torch-fidelity takes: one uint8 image (C, H, W) at an index."""

    def __init__(self, images: Tensor):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def random_weights(path: Path) -> None:
    """A state dict under which signals keep their size through the depth."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Network

    load, Network.load_state_dict = Network.load_state_dict, lambda self, state: None
    try:
        empty = io.BytesIO()
        torch.save({}, empty)
        empty.seek(0)
        network = Network("x", ["2048"], feature_extractor_weights_path=empty)
    finally:
        Network.load_state_dict = load
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    nn.init.normal_(network.fc.weight, std=0.05)
    torch.save(network.state_dict(), path)


def pictures(count: int, first: int) -> Tensor:
    """Colour pictures (count, 3, 28, 28), uint8, from the embedded data set on."""
    raw = gzip.decompress((Path(data.__file__).parent / "assets" / "t10k-images-idx3-ubyte.gz").read_bytes())
    grey = torch.from_numpy(np.frombuffer(raw, np.uint8, offset=16).copy()).view(-1, 1, 28, 28)[first : first + count]
    tint = torch.rand(count, 3, 1, 1, generator=torch.Generator().manual_seed(first)) * 0.5 + 0.5
    return (grey * tint).round().to(torch.uint8)


def ours(weights: Path, real: Tensor, generated: Tensor) -> dict[str, float]:
    extractor = Inception(str(weights))
    looked = [[extractor(part, ["features", "logits"]) for part in images.split(50)] for images in (real, generated)]
    a, b = (torch.cat([part["features"] for part in parts]) for parts in looked)
    score = inception_score(torch.cat([part["logits"] for part in looked[1]]))
    kid = kernel_distance_subsets(b, a, subsets=100, size=SUBSET)
    precision, recall = precision_recall(b, a, k=3)
    exact = kernel_distance(b, a)
    print(f"KID from all pairs: {exact.value:.6g}, 95 % interval {exact.interval[0]:.6g} to {exact.interval[1]:.6g}\n")
    return {
        "FID": frechet_distance(*(FeatureStatistics.from_features(x) for x in (b, a))),
        "KID mean of subsets": kid[0],
        "KID std of subsets": kid[1],
        "IS mean": score[0],
        "IS std": score[1],
        "precision": precision,
        "recall": recall,
    }


def torch_fidelity(weights: Path, real: Tensor, generated: Tensor) -> dict[str, float]:
    from torch_fidelity import calculate_metrics

    found = calculate_metrics(
        input1=Images(generated),
        input2=Images(real),
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        kid_subset_size=SUBSET,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights),
        cuda=False,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
        batch_size=50,
    )
    return {
        "FID": found["frechet_inception_distance"],
        "KID mean of subsets": found["kernel_inception_distance_mean"],
        "KID std of subsets": found["kernel_inception_distance_std"],
        "IS mean": found["inception_score_mean"],
        "IS std": found["inception_score_std"],
        "precision": found["precision"],
        "recall": found["recall"],
    }


def torchmetrics_fid(weights: Path, real: Tensor, generated: Tensor, antialias: bool) -> float:
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature_extractor_weights_path=str(weights), antialias=antialias)
    metric.set_dtype(torch.float64)
    for images, is_real in ((real, True), (generated, False)):
        for part in images.split(50):
            metric.update(part, real=is_real)
    return metric.compute().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--real", type=int, default=300)
    parser.add_argument("--generated", type=int, default=200)
    args = parser.parse_args()
    real, generated = pictures(args.real, 0), pictures(args.generated, 5000)
    noise = torch.randn(generated.shape, generator=torch.Generator().manual_seed(1)) * 12
    generated = (generated.roll(1, 3) + noise).round().clamp(0, 255).to(torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        weights = args.weights or Path(folder) / "random.pth"
        if args.weights is None:
            random_weights(weights)
        rows = ours(weights, real, generated)
        theirs = torch_fidelity(weights, real, generated)
        plain = torchmetrics_fid(weights, real, generated, antialias=False)
        default = torchmetrics_fid(weights, real, generated, antialias=True)
    print(f"{args.generated} generated and {args.real} real images, {args.weights or 'random weights'}\n")
    print("| number | oboro | other | implementation | relative difference |\n|---|---|---|---|---|")
    for name, value in rows.items():
        line(name, value, theirs[name], "torch-fidelity")
    line("FID", rows["FID"], plain, "torchmetrics, antialias=False")
    line("FID", rows["FID"], default, "torchmetrics, its default antialias=True")


def line(name: str, value: float, other: float, implementation: str) -> None:
    print(f"| {name} | {value:.9g} | {other:.9g} | {implementation} | {abs(value / other - 1):.1e} |")


if __name__ == "__main__":
    main()
