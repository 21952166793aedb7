"""Samples that another program made, as they are: to be measured, not to be trained on."""

import hashlib
import os
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from oboro.base.arrays import NPY, FileArray, array_in, arrays_in, first_bytes
from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.data.folder import natural, numbered
from oboro.modality import Modality

LABELS = ("labels", "arr_1")  # names in an archive: ours, and those of guided-diffusion
FIRST = "arr_0"
SKIPPED = "__MACOSX"


@dataclass(frozen=True)
class SampleFiles:
    """Stored samples (n, C, ...), their labels (n,) if they are known, a fingerprint of both, where the labels are from
    in words (``"10 class folders"``), and the names of files in the folder that are no samples."""

    samples: Tensor
    labels: Tensor | None
    fingerprint: str
    labels_from: str
    passed_over: Sequence[str] = ()


@dataclass(frozen=True)
class Folder:
    """The files of a folder in natural order, each with the number of its sub-folder, and the names of these."""

    files: list[tuple[Path, int | None]]
    names: list[str]
    passed_over: list[str]

    @property
    def groups(self) -> dict[str, list[str]]:
        """The files of each sub-folder."""
        return {name: [file.name for file, k in self.files if k == i] for i, name in enumerate(self.names)}


def read_samples(path: str | Path, modality: Modality, num_classes: int, labelled: Sequence[str] = ()) -> SampleFiles:
    """The samples at ``path``, all of them or ``UserError``: one that is missing would change the number.

    ``path`` is a folder of files that ``modality`` reads, an ``.npz`` with ``images`` (n, H, W, C), uint8, or what else
    ``modality`` calls its samples, and perhaps ``labels`` (n,), or an ``.npy`` of the samples alone. Nothing is resized
    or converted: raises ``UserError`` unless they have the shape of the data they are compared with.

    Sub-folders of a folder are the ``num_classes`` classes if there are as many, in natural order (2 before 10), and no
    samples lie beside them. They are parts, without a label, if their names number the files in them (000000/ has
    000000.png … 000999.png, 001000/ has 001000.png …), as EDM's generator writes. ``labelled`` names the metrics that
    need labels: without any, other sub-folders are parts too.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        folder = list_samples(path, modality)
        samples = torch.stack([modality.read(file) for file, _ in folder.files])
        labels, source = classes_of(folder, num_classes)
    else:
        folder = Folder([], [], [])
        samples, labels, source = _from_file(path, modality, num_classes)
    if labels is None and labelled:
        raise UserError(
            f"{', '.join(labelled)} needs the class of every sample and {path} has none ({source}); leave it out of "
            f"metrics=[...], or give {_labels_wanted(num_classes)}."
        )
    return SampleFiles(samples, labels, _fingerprint(samples, labels), source, folder.passed_over)


def read_truth(path: str | Path, images: str | Path, modality: Modality) -> SampleFiles:
    """The samples at ``path`` that those at ``images`` belong to, in their order: of folders the files of the same
    names, whatever their kinds, and of arrays the rows.

    Raises ``UserError`` where one is missing: a pair less would be another number.
    """
    path, images = Path(path).expanduser(), Path(images).expanduser()
    if not path.exists():
        raise UserError(f"there are no {modality.noun} at truth={path}; give a folder of files or an .npz file.")
    if path.is_dir() != images.is_dir():
        raise UserError(f"truth={path} and images={images} are not of one kind; give two folders, or two arrays.")
    if not path.is_dir():
        samples, _, _ = _from_file(path, modality, 0, "truth")
        count = len(read_samples(images, modality, 0).samples)
        if count != len(samples):
            raise UserError(f"truth={path} has {len(samples)} {modality.noun} and images={images} {count}; give pairs.")
        return SampleFiles(samples, None, _fingerprint(samples, None), "")
    places = [file.relative_to(images).with_suffix("") for file, _ in list_samples(images, modality).files]
    files: dict[Path, Path] = {}
    for file, _ in list_samples(path, modality, "truth").files:
        other = files.setdefault(file.relative_to(path).with_suffix(""), file)
        if other != file:
            raise UserError(f"{other} and {file} have one name; take one of them out of truth={path}.")
    if missing := [place for place in places if place not in files]:
        lacks = f"{missing[0].as_posix()}{modality.suffixes[0]}, one of {counted(len(missing), 'files')}"
        raise UserError(
            f"truth={path} has no {lacks} of images={images} that it lacks; give each its picture, of the same name."
        )
    samples = torch.stack([modality.read(files[place]) for place in places])
    return SampleFiles(samples, None, _fingerprint(samples, None), "")


def _labels_wanted(num_classes: int) -> str:
    if not num_classes:
        return "data with classes, data.num_classes=..."
    return f"a folder for each of the {counted(num_classes, 'classes')}, or labels (n,) in an .npz file"


def classes_of(folder: Folder, num_classes: int) -> tuple[Tensor | None, str]:
    """The labels (n,) that sub-folders make, or None, and the reason."""
    classes, count = [number for _, number in folder.files], len(folder.names)
    if not count:
        return None, "no class folders"
    folders, one = counted(count, "sub-folders"), count == 1  # a part of the protocol: these texts stay as they are
    are_parts = "is a part" if one else "are parts"
    if None in classes:
        return None, f"{folders} beside samples {are_parts}"
    if numbered(folder.groups):
        return None, f"{folders} that {'numbers its' if one else 'number their'} files {are_parts}"
    if not num_classes:
        return None, f"{folders} {are_parts}, since the data have no classes"
    if count != num_classes:
        return None, f"{folders} {'is' if one else 'are'} not the {counted(num_classes, 'classes')} of the data"
    return torch.tensor(classes), f"{counted(count, 'class folders')}, {folder.names[0]} to {folder.names[-1]}"


def list_samples(path: Path, modality: Modality, key: str = "images") -> Folder:
    """The files below ``path``, the value of ``key``, without hidden ones. Raises ``UserError`` where there is none,
    and for what may be a sample and is not read."""
    found = sorted(_below(path, modality.suffixes), key=lambda file: _order(file.relative_to(path)))
    files = [file for file in found if file.suffix.lower() in modality.suffixes]
    others = [file for file in found if file.suffix.lower() not in modality.suffixes]
    for file in files:
        if not file.is_file():
            what = "a folder" if file.is_dir() else "a broken link" if file.is_symlink() else "no file"
            raise UserError(f"{file} is {what} and not one of the {modality.noun}; take it out of {key}={path}.")
    kinds = PIL.Image.registered_extensions()
    if unread := next((file for file in others if file.suffix.lower() in kinds), None):
        raise UserError(
            f"{unread} is not read, since {modality.noun} are {', '.join(modality.suffixes)} files; convert it, or "
            f"take it out of {key}={path}."
        )
    if not files:
        kinds_read = ", ".join(modality.suffixes)
        raise UserError(f"{key}={path} holds no {kinds_read} files; give a folder of {modality.noun}.")
    places = [file.relative_to(path).parts for file in files]
    names = list(dict.fromkeys(parts[0] for parts in places if len(parts) > 1))
    numbers = {name: i for i, name in enumerate(names)}
    return Folder(
        [(file, numbers.get(parts[0]) if len(parts) > 1 else None) for file, parts in zip(files, places, strict=True)],
        names,
        [file.relative_to(path).as_posix() for file in others],
    )


def _below(root: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    """Files, links, and folders that are called like a sample. Linked folders are followed, hidden ones left out."""
    for parent, folders, files in os.walk(root, followlinks=True):
        place = Path(parent).resolve()
        above = {place, *place.parents}  # a link to one of them would never end
        visible = [f for f in folders if not f.startswith(".") and f != SKIPPED and (place / f).resolve() not in above]
        folders[:] = [f for f in visible if Path(f).suffix.lower() not in suffixes]
        named = [f for f in visible if f not in folders]
        yield from (Path(parent, name) for name in (*files, *named) if not name.startswith("."))


def _order(place: Path) -> tuple:
    """What lies in the folder itself first, then sub-folder by sub-folder."""
    first = (natural(place.parts[0]),) if len(place.parts) > 1 else ()
    return bool(first), first, natural(place.as_posix())


def _from_file(
    path: Path, modality: Modality, num_classes: int, key: str = "images"
) -> tuple[Tensor, Tensor | None, str]:
    remedy = f"write it with numpy.savez({modality.noun}=...)"
    if not path.exists():
        raise UserError(f"there are no {modality.noun} at {path}; give a folder of files or an .npz file.")
    if path.suffix.lower() in (".npz", ".npy"):
        if first_bytes(path).startswith(NPY):
            return _samples(path, array_in(path, remedy), modality), None, "an .npy file has none"
        arrays = arrays_in(path, (modality.noun, FIRST, *LABELS), remedy)
        samples, labels = (
            next((arrays[name] for name in names if name in arrays), None) for names in ((modality.noun, FIRST), LABELS)
        )
        if samples is None:
            raise UserError(f"{path} has no {modality.noun}; save {modality.layout} under the name {modality.noun}.")
        stored = _samples(path, samples, modality)
        known = None if labels is None else _labels(path, labels, len(stored), num_classes)
        source = "the file has none" if labels is None else "labels of the file"
        if labels is not None and known is None:
            source = "labels of the file are not used, since the data have no classes"
        return stored, known, source
    if path.suffix.lower() in modality.suffixes:
        raise UserError(f"{key}={path} is a single file; give the folder that holds all {modality.noun}.")
    if zipfile.is_zipfile(path) or tarfile.is_tarfile(path):
        raise UserError(f"{key}={path} is an archive; unpack it and give the folder.")
    raise UserError(f"{key}={path} is no folder and no .npz file; give one of them.")


def _samples(path: Path, array: FileArray, modality: Modality) -> Tensor:
    """Read after the header has shown the layout and the shape."""
    try:
        modality.check_array(array.shape, array.dtype)
        return modality.from_array(array.read())
    except ValueError as error:
        found = f"the {modality.noun} of {path} are {array.dtype} of shape {array.shape}"
        raise UserError(f"{found} and cannot be read as such; save {error} under the name {modality.noun}.") from error


def _labels(path: Path, array: FileArray, samples: int, num_classes: int) -> Tensor | None:
    """Class numbers (n,), whole ones of any type. Raises ``UserError`` for others."""
    wanted = f"save one class number from 0 to {num_classes - 1} for each sample, (n,), under the name labels"
    if not num_classes:
        return None
    if array.shape != (samples,) or array.dtype.kind not in "fiu":
        raise UserError(
            f"the labels of {path} are {array.dtype} of shape {array.shape} for {counted(samples, 'samples')}; "
            f"{wanted}."
        )
    values = array.read()
    odd = np.flatnonzero(~((values >= 0) & (values < num_classes) & (values == np.floor(values))))
    if odd.size:
        raise UserError(
            f"label {values[odd[0]]} of sample {odd[0]} in {path} is no class of the data, which have {num_classes}; "
            f"{wanted}."
        )
    return torch.from_numpy(values.astype(np.int64))


def _fingerprint(samples: Tensor, labels: Tensor | None) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(samples.numpy()).tobytes())
    if labels is not None:
        digest.update(labels.numpy().tobytes())
    return digest.hexdigest()
