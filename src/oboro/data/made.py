"""Images that another program made, as they are: to be measured, not to be trained on."""

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from oboro.base.errors import UserError
from oboro.data.decode import SUFFIXES
from oboro.data.image_folder import ImageFolder

NAMES = {"images": ("images", "arr_0"), "labels": ("labels", "arr_1")}  # ours, and those of guided-diffusion


def read_images(
    path: str | Path, image_shape: tuple[int, int, int], num_classes: int, cache_dir: Path
) -> tuple[Tensor, Tensor | None, str]:
    """Images (n, C, H, W), uint8, their labels (n,) if all have one, and a fingerprint of the pixels.

    ``path`` is a folder that ``ImageFolder`` reads, or an ``.npz`` with ``images`` (n, H, W, C), uint8, and perhaps
    ``labels``. Nothing is resized: raises ``UserError`` unless they have the size of the data they are compared with,
    since a resize would be measured too.
    """
    path = Path(path).expanduser()
    if path.suffix == ".npz":
        images, labels = _from_archive(path)
    elif path.is_dir():
        _check_sizes(path, image_shape)
        folder = ImageFolder(
            root=str(path),
            channels=image_shape[0],
            resolution=image_shape[1:],
            num_classes=num_classes if any(child.is_dir() for child in path.iterdir()) else 0,
            validation=0,
            cache_dir=str(cache_dir),
        )
        folder.prepare_data()
        folder.setup()
        images, labels = folder.train_images[:], folder.train_labels
    else:
        raise UserError(f"there are no images at {path}; give a folder of pictures or an .npz file.")
    if tuple(images.shape[1:]) != image_shape:
        raise UserError(
            f"the images of {path} are {_size(images.shape[1:])} and those of the data {_size(image_shape)}; set "
            "data.resolution and data.channels to those of the images."
        )
    return images, labels, _fingerprint(images, labels)


def _from_archive(path: Path) -> tuple[Tensor, Tensor | None]:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {k: next((file[n] for n in names if n in file.files), None) for k, names in NAMES.items()}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read ({error}); write it with numpy.savez.") from error
    images, labels = found["images"], found["labels"]
    if images is None or images.dtype != np.uint8 or images.ndim != 4:
        raise UserError(f"{path} has no images; save uint8 pixels (n, H, W, C) under the name images.")
    return torch.from_numpy(images).permute(0, 3, 1, 2), None if labels is None else torch.from_numpy(labels).long()


def _check_sizes(folder: Path, image_shape: tuple[int, int, int]) -> None:
    """Before anything is decoded."""
    for file in folder.rglob("*"):
        if file.suffix.lower() in SUFFIXES:
            with Image.open(file) as image:
                if (image.height, image.width) != image_shape[1:]:
                    raise UserError(
                        f"{file} is {image.height}×{image.width} and the data {image_shape[1]}×{image_shape[2]}; set "
                        "data.resolution to the size of the images."
                    )


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(str(s) for s in shape)


def _fingerprint(images: Tensor, labels: Tensor | None) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(images.numpy()).tobytes())
    if labels is not None:
        digest.update(labels.numpy().tobytes())
    return digest.hexdigest()
