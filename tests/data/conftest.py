import numpy as np
import pytest
from PIL import Image

from oboro.data import ImageFolder


@pytest.fixture
def pictures(tmp_path):
    """Write n different 8 × 8 grey PNG files and return a factory of data modules on them."""

    def make(count=10, **keywords):
        root = tmp_path / "pictures"
        root.mkdir(exist_ok=True)
        for i in range(count):
            pixels = np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"{i}.png")
        keywords = {"channels": 1, "resolution": 8, "batch_size": 4, "validation": 0, **keywords}
        data = ImageFolder(root=str(root), cache_dir=str(tmp_path / "cache"), **keywords)
        data.prepare_data()
        data.setup()
        return data

    return make
