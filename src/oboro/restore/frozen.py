"""Large frozen parts of a run: written once beside its checkpoints, found by digest, and joined when one is read.

A checkpoint that leaves out the part at ``place`` ("conditioner", say: a text encoder of gigabytes) has
``checkpoint["frozen"] = {place: digest}``, and its weights are in ``frozen/<digest>.safetensors`` beside the
checkpoint, which all checkpoints of the run share.
"""

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.tensor_file import save_tensors
from oboro.base.whole_file import clear_partial
from oboro.restore.archive import read_unchecked, write_checkpoint

FOLDER = "frozen"
State = Mapping[str, Tensor]


def digest(state: State) -> str:
    """SHA-256 of names, types, shapes and bits, 64 hexadecimal digits."""
    sha = sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        sha.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()


def part_of(state: State, place: str) -> dict[str, Tensor]:
    """The weights of the submodule at ``place``, under the names that they have in it."""
    return {name.removeprefix(f"{place}."): w for name, w in state.items() if name.startswith(f"{place}.")}


def file_of(folder: Path, name: str) -> Path:
    return folder / FOLDER / f"{name}.safetensors"


def write(state: State, name: str, folder: Path) -> None:
    """Write the part with the digest ``name`` beside the checkpoints in ``folder``, unless it is there.

    The file appears in one rename: a run that ends in the middle leaves no half of it under its name. Raises
    ``OSError`` where it cannot be written.
    """
    path = file_of(folder, name)
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_partial(path.parent)
    save_tensors(path, state, {"format": "pt"})


def remove_unnamed(folder: Path) -> None:
    """Remove the parts that no checkpoint in ``folder`` names; all stay where one of these cannot be read."""
    files = list((folder / FOLDER).glob("*.safetensors"))
    if len(files) < 2:
        return
    named: set[str] = set()
    for path in folder.glob("*.ckpt"):
        try:
            named |= set(read_unchecked(path).get("frozen", {}).values())
        except Exception:  # as many kinds as there are kinds of damage
            return
    for file in files:
        if file.stem not in named:
            file.unlink(missing_ok=True)


def read(name: str, place: str, checkpoint: Path) -> dict[str, Tensor]:
    """The part at ``place`` of ``checkpoint``. Raises ``UserError`` where its file is missing or damaged."""
    if not re.fullmatch("[0-9a-f]{64}", str(name)):
        raise UserError(f"{checkpoint} names {name!r} as the digest of its {place}; it is damaged, use another file.")
    path = file_of(checkpoint.parent, name)
    if not path.is_file():
        raise UserError(
            f"{checkpoint} keeps its {place} in {FOLDER}/{path.name} beside it and there is no such file; copy the "
            f"folder {FOLDER} of the run there, or copy a file that `oboro pack` made of the checkpoint."
        )
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise damaged(path) from error
    if digest(state) != name:
        raise damaged(path)
    return state


def damaged(path: Path) -> UserError:
    return UserError(
        f"{path} is damaged: its content does not have the digest in its name; copy it anew from the run that wrote it."
    )


def join(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Put the parts that the checkpoint at ``path`` left out back into its weights, in place.

    Raises ``UserError`` where the file of one is missing or damaged.
    """
    left_out = checkpoint.pop("frozen", {})
    weights = dict(checkpoint["state_dict"])
    for place, name in left_out.items():
        weights |= {f"{place}.{key}": w for key, w in read(name, place, Path(path)).items()}
    checkpoint["state_dict"] = weights


def write_whole(checkpoint: Mapping[str, Any], path: Path) -> None:
    """A checkpoint in one file that needs no other. Raises ``UserError`` where there is a file at ``path``."""
    if path.exists():
        raise UserError(f"{path} exists; choose another name for the packed checkpoint.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(checkpoint, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another folder.") from error
