"""Samples of which it is known whether they are anomalous."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

GOOD = "good"  # the kind of every normal sample


@dataclass(frozen=True)
class TestSet:
    """n held-out samples, normal and anomalous.

    Attributes:
        samples: (n, C, *size), as they are stored.
        anomalous: (n,) bool.
        masks: (n, *size) bool, the anomalous places; None where they are not known.
        kinds: n texts: "good" of normal samples, of others what is wrong, "scratch".
        names: n different texts, a path below the root where a sample is a file.

    Raises ``ValueError`` where these do not belong together, and for a mask on a normal sample or none on an anomalous.
    """

    __test__: ClassVar[bool] = False  # for pytest

    samples: Tensor
    anomalous: Tensor
    masks: Tensor | None
    kinds: Sequence[str]
    names: Sequence[str]

    def __post_init__(self) -> None:
        n = len(self.samples)
        if self.anomalous.shape != (n,) or self.anomalous.dtype != torch.bool:
            raise ValueError(f"{n} samples and anomalous {tuple(self.anomalous.shape)} {self.anomalous.dtype}")
        if len(self.kinds) != n or len(self.names) != n or len(set(self.names)) != n:
            raise ValueError(f"{n} samples, {len(self.kinds)} kinds and {len(set(self.names))} different names")
        if [kind != GOOD for kind in self.kinds] != self.anomalous.tolist():
            raise ValueError(f"the kind of normal samples, and of no others, is {GOOD}")
        if self.masks is not None:
            if self.masks.shape != (n, *self.samples.shape[2:]) or self.masks.dtype != torch.bool:
                raise ValueError(f"samples {tuple(self.samples.shape)} and masks {tuple(self.masks.shape)}")
            marked = self.masks.flatten(1).any(1)
            if not torch.equal(marked, self.anomalous):
                odd = int((marked != self.anomalous).nonzero()[0])
                raise ValueError(f"{self.names[odd]} is {self.kinds[odd]} and its mask says something else")

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of samples, flags, masks, kinds and names: what a measurement was made on."""
        digest = hashlib.sha256(repr((tuple(self.samples.shape), list(self.kinds), list(self.names))).encode())
        for part in (self.samples, self.anomalous, self.masks):
            if part is not None:
                digest.update(np.ascontiguousarray(part.numpy()).tobytes())
        return digest.hexdigest()

    def taken(self, rows: Tensor) -> "TestSet":
        """Those of ``rows``, (k,) int64."""
        masks = None if self.masks is None else self.masks[rows]
        kinds, names = ([texts[i] for i in rows.tolist()] for texts in (self.kinds, self.names))
        return TestSet(self.samples[rows], self.anomalous[rows], masks, kinds, names)
