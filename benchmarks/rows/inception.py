"""Inception's features of 64 pictures of 32 pixels, with weights drawn at random."""

import tempfile
from pathlib import Path

import torch
from metric_parity import random_weights

from oboro.extractor import Inception
from rows.row import Contender, Row

row = Row("Inception's 2,048 features of 64 pictures of 32 pixels", 6)


def pictures() -> torch.Tensor:
    return torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def weights() -> str:
    path = Path(tempfile.gettempdir()) / "oboro-speed-inception.pt"
    if not path.exists():
        random_weights(path)
    return str(path)


@row.contender
def torch_fidelity() -> Contender:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=weights()).eval()
    x = pictures()

    @torch.no_grad()
    def look() -> None:
        network(x)

    return look


@row.contender
def oboro() -> Contender:
    extractor, x = Inception(weights_path=weights()), pictures()
    extractor.load("cpu")
    return lambda: extractor(x)
