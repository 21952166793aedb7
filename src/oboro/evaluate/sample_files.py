"""Samples that another program made, as they are: to be measured, not to be trained on."""

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from oboro.base.errors import UserError
from oboro.data.folder import list_files
from oboro.modality import Modality

LABELS = ("labels", "arr_1")  # names in an archive: ours, and those of guided-diffusion
FIRST = "arr_0"


def read_samples(path: str | Path, modality: Modality, num_classes: int) -> tuple[Tensor, Tensor | None, str]:
    """Stored samples (n, C, ...), their labels (n,) if all have one, and a fingerprint of the numbers.

    ``path`` is a folder of files that ``modality`` reads, whose sub-folders are classes where ``num_classes`` > 0, or
    an ``.npz`` with ``images`` (n, H, W, C), uint8, or what else ``modality`` calls its samples, and perhaps
    ``labels``. Nothing is resized: raises ``UserError`` unless they have the shape of the data they are compared with,
    since a resize would be measured too.
    """
    path = Path(path).expanduser()
    if path.suffix == ".npz":
        samples, labels = _from_archive(path, modality)
    elif path.is_dir():
        samples, labels = _from_folder(path, modality, num_classes)
    else:
        raise UserError(f"there are no {modality.noun} at {path}; give a folder of files or an .npz file.")
    return samples, labels, _fingerprint(samples, labels)


def _from_folder(path: Path, modality: Modality, num_classes: int) -> tuple[Tensor, Tensor | None]:
    files, classes = list_files(path, modality.suffixes, f"images=<folder of {modality.noun}>")
    samples = torch.stack([modality.read(path / name) for name, _ in files])
    if not (classes and num_classes):
        return samples, None
    if classes != num_classes:
        raise UserError(
            f"{path} has {classes} folders of classes and the data {num_classes} classes; give one of each."
        )
    return samples, torch.tensor([label for _, label in files])


def _from_archive(path: Path, modality: Modality) -> tuple[Tensor, Tensor | None]:
    try:
        with np.load(path, allow_pickle=False) as file:
            samples, labels = (
                next((file[name] for name in names if name in file.files), None)
                for names in ((modality.noun, FIRST), LABELS)
            )
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read ({error}); write it with numpy.savez.") from error
    try:
        if samples is None:
            raise ValueError(modality.layout)
        stored = modality.from_array(samples)
    except ValueError as error:
        raise UserError(f"{path} has no {modality.noun}; save {error} under the name {modality.noun}.") from error
    return stored, None if labels is None else torch.from_numpy(labels).long()


def _fingerprint(samples: Tensor, labels: Tensor | None) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(samples.numpy()).tobytes())
    if labels is not None:
        digest.update(labels.numpy().tobytes())
    return digest.hexdigest()
