"""Weights that other programs wrote, as a state dict of plain names: whatever holds them, and whatever wrapped them.

Nothing that a file says is run, and nothing is allocated because a file says how large it is.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from oboro.base.errors import UserError
from oboro.base.json_text import parsed
from oboro.base.torch_file import Compressed, load

State = dict[str, Tensor]

# Keys under which training programs keep weights. The first is Lightning's and LDM's, and decides.
OUTER, WRAPPERS = "state_dict", ("model_state_dict", "model", "module", "params", "params_ema", "ema", "ema_state_dict")
# What compiling, DDP, FSDP, a training module or an average put before all names.
PREFIXES = ("module", "model", "ema", "ema_model", "online_model", "network", "net", "_forward_module")
# What compiling, checkpointing and FSDP put anywhere between names.
INNER = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
HEADER = 100_000_000  # bytes of a safetensors header at most, as its own library has it
SMALL = 64_000_000  # bytes of a JSON file at most


class Entry(NamedTuple):
    """One tensor of a file, which ``read`` reads; ``scalar``: a counter rather than a weight."""

    read: Callable[[], Tensor]
    scalar: bool


def every(name: str) -> bool:
    return True


def read_tensors(paths: Path | Sequence[Path], wanted: Callable[[str], bool] = every) -> State:
    """The ``wanted`` tensors of a file of weights, or of all shards together, on the CPU, under their plain names.

    A file is safetensors or a pickle of torch, whatever it is called. In a pickle the weights are its own or lie below
    a key of ``WRAPPERS``; names lose ``INNER`` and those ``PREFIXES`` that all of them share. Raises ``UserError``
    for a file that is damaged, cut off or holds objects, and for one with two sets of weights.
    """
    paths = [paths] if isinstance(paths, Path) else paths
    entries: dict[str, Entry] = {}
    for path in paths:
        entries |= _entries(path)
    names = plain_names({name: entry.scalar for name, entry in entries.items()}, paths[0])
    return {name: entries[theirs].read() for theirs, name in names.items() if wanted(name)}


def plain_names(entries: Mapping[str, bool], where: Path) -> dict[str, str]:
    """``{name: plain name}`` of a state dict; ``entries`` says of each name whether it is a single number.

    Single numbers beside what a wrapper holds (``n_averaged``) are left out. ``UserError`` for two names of one weight.
    """
    plain = {name: [part for part in name.split(".") if part not in INNER] for name in entries}
    while True:
        outer = {parts[0] for name, parts in plain.items() if len(parts) > 1 or not entries[name]}
        if len(outer) > 1 and outer <= set(PREFIXES):
            raise UserError(
                f"{where} holds weights below {' and below '.join(sorted(outer))}; save those that you mean alone."
            )
        if len(outer) != 1 or not outer <= set(PREFIXES):
            break
        plain = {name: parts[1:] for name, parts in plain.items() if len(parts) > 1}
    names = {name: ".".join(parts) for name, parts in plain.items()}
    if len(set(names.values())) < len(names):
        raise UserError(f"{where} holds weights twice, once as they were compiled; save them once.")
    return names


def _entries(path: Path) -> dict[str, Entry]:
    if not path.is_file():
        raise UserError(f"there is no {path}; give the path of a file of weights.")
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check its permissions.") from error
    if not start:
        raise UserError(f"{path} is empty; get it again.")
    if start.startswith(b"version h"):
        raise UserError(f"{path} is a pointer of Git LFS and no file of weights; run git lfs pull in its folder.")
    size = path.stat().st_size
    if path.suffix == ".safetensors" or (start[8:] == b"{" and int.from_bytes(start[:8], "little") < size):
        return _of_safetensors(path, int.from_bytes(start[:8], "little"), size)
    return _of_pickle(path)


def _of_safetensors(path: Path, header: int, size: int) -> dict[str, Entry]:
    if header > min(size - 8, HEADER):
        raise UserError(f"{path} is cut off or no file of safetensors; get it again.")
    try:
        file = safe_open(path, "pt")  # mapped; it holds what the header says against the size of the file
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        return {name: Entry(partial(file.get_tensor, name), shape == []) for name, shape in shapes.items()}
    except (SafetensorError, OSError, ValueError, MemoryError) as error:
        raise UserError(f"{path} is damaged or cut off ({_line(error)}); get it again.") from error


def _of_pickle(path: Path) -> dict[str, Entry]:
    try:  # not mapped: then it would read past the end of what a tensor has
        content = load(path)
    except Compressed as error:
        raise UserError(f"{path} is compressed and no file of torch.save; unpack it.") from error
    except Exception as error:  # whatever the reader trips over in a file that is something else
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"{path} holds {found[1]} beside weights, which may run code and is never built; save its state dict "
                "alone, as .safetensors if you can."
            ) from error
        raise UserError(f"{path} cannot be read as weights, it is damaged or something else; get it again.") from error
    return {name: Entry(lambda v=v: v, v.ndim == 0) for name, v in _unwrapped(content, path).items()}


def _unwrapped(content: Any, path: Path) -> State:
    """The state dict in ``content``."""
    while isinstance(content, Mapping):
        inner = {k: v for k, v in content.items() if k in (OUTER, *WRAPPERS) and _holds_weights(v)}
        own = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        if not inner:
            return _checked(own, path)
        if OUTER not in inner and len(inner) > 1:
            raise UserError(f"{path} holds weights under {' and '.join(inner)}; save those that you mean alone.")
        content = inner[OUTER] if OUTER in inner else next(iter(inner.values()))
    raise UserError(f"{path} holds a {type(content).__name__} and no state dict; save model.state_dict().")


def _holds_weights(value: Any) -> bool:
    return isinstance(value, Mapping) and (
        any(isinstance(v, Tensor) for v in value.values()) or any(_holds_weights(value.get(k)) for k in (OUTER,))
    )


def _checked(state: State, path: Path) -> State:
    if not state:
        raise UserError(f"{path} holds no weights; save model.state_dict().")
    for name, value in state.items():
        if value.is_meta or value.layout != torch.strided or value.is_quantized:
            raise UserError(f"{path} has {name} without plain numbers (sparse, quantised or empty); save it dense.")
    return state


def read_small(path: Path) -> bytes:
    """A file of settings or of a tokenizer. Raises ``UserError`` for one that is too large or cannot be read."""
    if path.stat().st_size > SMALL:
        raise UserError(f"{path} has {path.stat().st_size / 1e6:,.0f} MB, too many for settings; get the folder again.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check its permissions.") from error


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """A JSON object. Raises ``UserError`` where there is none, with the ``remedy`` where there is no such file."""
    if not path.is_file():
        raise UserError(f"there is no {path}; {remedy}.")
    try:
        content = parsed(read_small(path).decode("utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({_line(error)}); get the folder again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object; get the folder again.")
    return content


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0].strip(" .") or type(error).__name__
