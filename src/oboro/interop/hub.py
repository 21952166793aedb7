"""Models as folders on disk, or under a name on the Hugging Face hub."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from oboro.base.errors import UserError
from oboro.interop.state import read_object

NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")  # what the hub calls a model
PLACES = ("", "text_encoder/", "tokenizer/")  # one folder for all, or those of a pipeline
VARIANTS = ("", ".fp32", ".fp16", ".bf16")  # of weights, in order of preference


def weight_files(*stems: str) -> tuple[str, ...]:
    """The names that weights go by, the preferred first: full precision, then safetensors, then one file.

    ``model.safetensors``, ``model.fp16.safetensors``; and the indices of shards, by either of the names in use,
    ``model.safetensors.index.fp16.json`` and ``model.fp16.safetensors.index.json``.
    """
    names = []
    for v in VARIANTS:
        for end in (".safetensors", ".bin"):
            indices = dict.fromkeys((f"{v}{end}.index.json", f"{end}.index{v}.json"))
            names += [stem + ending for ending in (f"{v}{end}", *indices) for stem in stems]
    return tuple(names)


def shards_of(index: Path) -> list[str]:
    """The files beside ``index`` that it lists. Raises ``UserError`` where it lists none, or one that is elsewhere."""
    listed = read_object(index, "get the folder again").get("weight_map")
    names = sorted(set(listed.values())) if isinstance(listed, dict) and _names(listed.values()) else []
    if not names:
        raise UserError(f"{index} lists no files of weights; get the folder again.")
    return names


def _names(values: Iterable[object]) -> bool:
    return all(isinstance(name, str) and name == Path(name).name for name in values)


def unpacked(folder: Path, mark: str) -> Path:
    """``folder``, or the snapshot in it where it is a model's folder in the hub's cache (``models--owner--name``) and
    has no file ``mark`` itself.

    The one that ``refs/main`` names, or the only one. Raises ``UserError`` where there are several and no such name.
    """
    place = folder if folder.name == "snapshots" else folder / "snapshots"
    if (folder / mark).is_file() or not place.is_dir():
        return folder
    snapshots = sorted(path for path in place.iterdir() if path.is_dir())
    main = place.parent / "refs" / "main"
    name = main.read_bytes()[:100].decode(errors="replace").strip() if main.is_file() else None
    if (named := next((path for path in snapshots if path.name == name), None)) is not None:
        return named
    if len(snapshots) != 1:
        raise UserError(f"{place} has {len(snapshots)} snapshots; give the path of one of them.")
    return snapshots[0]


@dataclass(frozen=True)
class Files:
    """What is read of the folder of a text encoder.

    ``weights`` are names of one file in order of preference; an index stands for the shards it lists. One of
    ``tokenizers`` has to be there, ``others`` may be.
    """

    config: str
    weights: tuple[str, ...]
    tokenizers: tuple[str, ...]
    others: tuple[str, ...] = ()


def snapshot(name: str, files: Sequence[str], cached: bool) -> Path:
    """The folder in the hub's cache (``$HF_HOME/hub``) with ``files`` of the model ``name``, as far as it has them.

    ``cached``: uses no network. Raises ``LookupError`` with the answer of the hub.
    """
    import huggingface_hub  # takes a while, and most runs need no hub

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(files), local_files_only=cached))
    except Exception as error:  # of the hub, the HTTP library or the file system
        reason = "not in its cache" if cached else str(error).partition("\n")[0].strip(" .")
        raise LookupError(f"{name} is no folder, and from the Hugging Face hub: {reason}") from error


def text_encoder_folder(path: str, files: Files) -> Path:
    """The folder ``path``, or that of the hub's model of this name, which is fetched unless it is in the cache.

    No more than ``files`` are fetched, and of several formats of the weights one. Raises ``UserError`` with the remedy
    where ``path`` is neither, or the hub cannot be reached.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return unpacked(folder, files.config)
    remedy = "set conditioner.encoder.path to a folder"
    if not NAME.fullmatch(path):
        raise UserError(f"there is no folder {path}; {remedy} or a name on the Hugging Face hub.")
    try:
        place = _complete(path, files, cached=True) or _complete(path, files, cached=False)
    except LookupError as error:
        raise UserError(f"{error}; correct the name, connect to the network and run again, or {remedy}.") from error
    if place is None:  # the library answers with what it has where it reaches nobody
        raise UserError(
            f"of {path} on the Hugging Face hub there is not all of {files.config}, {' or '.join(files.tokenizers)} "
            f"and weights; connect to the network and run again, or {remedy}."
        )
    return place


def _complete(name: str, files: Files, cached: bool) -> Path | None:
    """The folder in the cache, from the network unless ``cached``, if it has all that is needed."""
    small = [place + file for place in PLACES for file in (files.config, *files.tokenizers, *files.others)]
    for weights in files.weights:
        try:
            folder = snapshot(name, [*small, *(place + weights for place in PLACES)], cached)
        except LookupError:
            if cached:
                return None
            raise
        place = next((folder / p / weights for p in PLACES if (folder / p / weights).is_file()), None)
        if place is None:
            continue
        inner, shards = place.parent, shards_of(place) if place.suffix == ".json" else []
        if shards and not cached:
            snapshot(name, [(inner.relative_to(folder) / shard).as_posix() for shard in shards], cached)
        tokenizer = any((folder / p / t).is_file() for p in PLACES for t in files.tokenizers)
        if tokenizer and all((inner / file).is_file() for file in (files.config, *shards)):
            return folder
    return None
