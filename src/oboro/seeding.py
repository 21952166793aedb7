"""Every random draw is a pure function of ``(seed, what, indices)``.

Nothing reads the global generator but dropout, and the Task seeds it for every batch.

So a resumed run needs no saved generator state, evaluation cannot change training, and generated sample ``i`` is the
same on one device or eight.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def derive_seed(seed: int, what: str, *indices: int) -> int:
    """63-bit seed from the SHA-256 of ``(seed, what, *indices)``; equal on every platform and Python version."""
    text = f"{int(seed)}/{what}/" + "/".join(str(int(i)) for i in indices)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, what: str, *indices: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh ``torch.Generator`` on ``device`` seeded with ``derive_seed(seed, what, *indices)``."""
    return torch.Generator(device).manual_seed(derive_seed(seed, what, *indices))


class SampleNoise:
    """Standard normal noise where row ``i`` depends on ``(seed, ids[i])`` and the number of earlier draws alone.

    One CPU generator per sample id, so the draws do not depend on the batch, the rank or the type of the device.
    """

    def __init__(self, seed: int, ids: Sequence[int]):
        self._generators = [generator(seed, "sample", i) for i in ids]

    def __call__(self, like: Tensor) -> Tensor:
        """Noise of the shape, type and device of ``like`` (B, ...), with B = number of ids."""
        if len(like) != len(self._generators):
            raise ValueError(f"{len(self._generators)} sample ids cannot fill a batch of {len(like)}")
        rows = [torch.randn(like.shape[1:], generator=g) for g in self._generators]
        return torch.stack(rows).to(like)


def low_discrepancy(ids: Tensor) -> Tensor:
    """frac((i + 1/2) / golden ratio) in [0, 1), float64 on the CPU, for int64 ``ids`` of any shape.

    The points of any run of n ids spread evenly, with discrepancy O(log n / n), and point i depends on i alone.
    """
    return (ids.cpu().double() + 0.5) * 0.6180339887498949 % 1.0
