"""Models as folders on disk, or under a name on the Hugging Face hub."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oboro.base.errors import UserError

NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")  # what the hub calls a model
PLACES = ("", "text_encoder/", "tokenizer/")  # one folder for all, or those of a pipeline
INDEX = ".index.json"


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
        return folder
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
        inner, shards = place.parent, _shards(place)
        if shards and not cached:
            snapshot(name, [(inner.relative_to(folder) / shard).as_posix() for shard in shards], cached)
        tokenizer = any((folder / p / t).is_file() for p in PLACES for t in files.tokenizers)
        if tokenizer and all((inner / file).is_file() for file in (files.config, *shards)):
            return folder
    return None


def _shards(weights: Path) -> list[str]:
    """The files that an index lists, or none."""
    if not weights.name.endswith(INDEX):
        return []
    return sorted(set(json.loads(weights.read_text(encoding="utf-8")).get("weight_map", {}).values()))
