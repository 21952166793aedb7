"""Latents of all samples, computed once and memory-mapped ever after."""

import hashlib
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from oboro.base import distributed
from oboro.base.checksums import WrittenArray, create_array, open_checked
from oboro.base.finite import check_finite
from oboro.base.memory import Parts
from oboro.data.cache import check_room, writing
from oboro.data.computed import compute_together
from oboro.data.mapped import Mapped
from oboro.data.store import Samples
from oboro.modality import Modality


def module_digest(module: nn.Module) -> str:
    """SHA-256 (hex) of all that ``module`` computes with: its structure, the numbers and words that its parts were made
    with (public attributes), its parameters and its buffers."""
    digest = hashlib.sha256(repr(module).encode())
    for name, part in module.named_modules():
        for key, value in sorted(vars(part).items()):
            if isinstance(value, bool | int | float | str) and key != "training" and not key.startswith("_"):
                digest.update(f"{name}.{key}={value!r}".encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


class Latents:
    """Of n samples the latents (C, ...), float32, and those of the mirrored samples: ``latents(index, flip)``.

    The file is mapped on first use and not pickled.
    """

    def __init__(self, path: Path):
        self.path = path
        self._array = Mapped(path, axes=2)

    def __call__(self, index: Tensor, flip: Tensor | None) -> Tensor:
        """(B, C, ...) of the samples ``index`` (B,), mirrored where ``flip`` (B,) is true."""
        mirrored = np.zeros(len(index), dtype=np.int64) if flip is None else flip.cpu().numpy().astype(np.int64)
        return torch.from_numpy(self._array.take(mirrored, index.cpu().numpy()))


def cache_latents(
    samples: Samples,
    modality: Modality,
    codec: nn.Module,
    folder: Path,
    *,
    flips: bool,
    device: torch.device,
    chunk: int = 100,
    done: Callable[[int], None] | None = None,
) -> Latents:
    """``codec.encode(modality.to_model(samples))``, read from ``folder``, or computed by all ranks together.

    The file is named after the samples, the digest of the codec and whether mirrored samples are in it (``flips``), and
    holds (1 or 2, n, C, ...) float32. All ranks must see ``folder``. Chunks of samples have one shape, so a latent does
    not depend on the number of ranks. ``done`` gets the number of samples that are finished.
    Raises ``UserError`` where the disk is full, or cannot be written to, before anything is computed.
    """
    key = hashlib.sha256(f"1 {samples.fingerprint} {module_digest(codec)} {flips}".encode()).hexdigest()[:32]
    path = folder / f"{key}.npy"
    shape = (1 + flips, len(samples), *codec.latent_shape(samples.shape[1:]))
    compute_together(
        path,
        lambda: whole(path, shape),
        lambda partial: create(partial, shape),
        lambda partial: fill(partial, samples, modality, codec, device, chunk, done),
    )
    return Latents(path)


def whole(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether ``path`` is an array of ``shape``, and not damaged."""
    try:
        array = open_checked(path, axes=2).array
        return array.shape == shape and array.dtype == np.float32
    except (OSError, ValueError, EOFError):
        return False


def create(partial: Path, shape: tuple[int, ...]) -> None:
    """An empty array. ``UserError`` where there is no room for it."""
    with writing(partial.parent):
        check_room(partial.parent, 4 * prod(shape), "latents", "callbacks.latent_cache")
        create_array(partial, shape, axes=2)


@torch.no_grad()
def fill(
    partial: Path,
    samples: Samples,
    modality: Modality,
    codec: nn.Module,
    device: torch.device,
    chunk: int,
    done: Callable[[int], None] | None,
) -> None:
    """The chunks of this rank."""
    array = WrittenArray(partial, axes=2)
    chunk, finished, parts = min(chunk, len(samples)), 0, Parts()

    def encode(part: list[int]) -> Tensor:
        x = modality.to_model(samples[torch.tensor(part)].to(device))
        mirrored = range(len(array.array))
        return torch.stack([codec.encode(modality.mirror(x) if m else x).float().cpu() for m in mirrored], 1)

    for ids in distributed.chunks(len(samples), chunk):
        own = [i for i in ids if i >= 0]
        finished += chunk * distributed.world_size()
        if own:
            z = parts.rows(encode, [*own, *[own[-1]] * (chunk - len(own))])[: len(own)]
            check_finite(z, "latents", "the codec has diverged; give codec.path an earlier checkpoint")
            array[:, own[0] : own[-1] + 1] = z.transpose(0, 1).numpy()
        if done is not None:
            done(min(finished, len(samples)))
    array.flush()
