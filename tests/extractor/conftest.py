import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

import oboro.data

ASSETS = Path(oboro.data.__file__).parent / "assets"


def read_idx(name: str, header: int) -> torch.Tensor:
    return torch.from_numpy(
        np.frombuffer(gzip.decompress((ASSETS / name).read_bytes()), np.uint8, offset=header).copy()
    )


@pytest.fixture(scope="session")
def fashion_images() -> torch.Tensor:
    """The 10,000 test images of Fashion-MNIST, uint8 (10000, 1, 28, 28)."""
    return read_idx("t10k-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28)


@pytest.fixture(scope="session")
def fashion_labels() -> torch.Tensor:
    return read_idx("t10k-labels-idx1-ubyte.gz", 8).long()


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)
