"""oboro shards FOLDER data=OPTION data.key=value …: pictures into shards for data=streaming."""

import argparse
from collections.abc import Callable
from difflib import get_close_matches
from math import inf
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from oboro.base.amounts import amount
from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.output import new_folder
from oboro.base.paths import with_absolute_paths
from oboro.cli.options import CONF
from oboro.cli.plain import run
from oboro.data.image_data import ImageData
from oboro.data.pack.pack import SAVED, pack
from oboro.data.shard_copies import is_elsewhere


def write(chosen: argparse.Namespace) -> None:
    """Compose the data as ``train.py`` would, and pack them. Raises ``UserError`` for what cannot be meant."""
    for word in (chosen.folder, *chosen.overrides):
        if (word is chosen.folder) == ("=" in word):
            raise UserError("give the folder to write, then the data: oboro shards FOLDER data=image_folder ...")
    if is_elsewhere(chosen.folder):
        raise UserError(f"{chosen.folder} is an address; write to a folder of this machine and copy it there.")
    if not any(word.startswith("data=") for word in chosen.overrides):
        raise UserError("which data? add data=image_folder data.root=..., or another option of data.")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        options = compose("train", [word for word in chosen.overrides if word.startswith("data=")]).data
        for word in chosen.overrides:
            check_key(word.partition("=")[0], options)
        config = compose("train", [*chosen.overrides, "output_dir=outputs"])
    data = instantiate(with_absolute_paths(dict(config.data)), _convert_="all")
    if not isinstance(data, ImageData):
        raise UserError("series are numbers and no files; shards are for data of pictures.")
    folder = Path(chosen.folder).expanduser()
    index = pack(
        data,
        folder,
        shard_bytes=int(chosen.megabytes * 1e6),
        side=chosen.side,
        format=chosen.format,
        seed=config.data.seed,
    )
    size = amount(sum(shard.bytes for shard in index.shards))
    print(
        f"{chosen.folder}: {counted(index.count, data.noun)} of {index.shapes} in "
        f"{counted(len(index.shards), 'shards')}, {size}"
    )


def check_key(key: str, options: DictConfig) -> None:
    """Raises ``UserError`` for a key that the chosen data do not have."""
    name = key.lstrip("+").removeprefix("data.").partition(".")[0]
    if key in ("data", "seed") or (key.lstrip("+").startswith("data.") and name in set(options)):
        return
    known = sorted(f"data.{name}" for name in options if name != "_target_")
    close = get_close_matches(key, known, 1)
    meant = f" Did you mean {close[0]}?" if close else ""
    raise UserError(f"the data have no key {key}; there are {', '.join(known)}.{meant}")


def positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """A number above 0."""

    def number(text: str) -> Any:
        value = kind(text)
        if not 0 < value < inf:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return number


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="oboro shards", description=__doc__)
    parser.add_argument("folder", type=new_folder, help="the folder to write, new or empty")
    parser.add_argument("overrides", nargs="+", metavar="data=...", help="the pictures, as for train.py")
    parser.add_argument(
        "--side", type=positive(int), help="reduce pictures whose shorter side is longer to this; as they are otherwise"
    )
    parser.add_argument("--format", choices=SAVED, default="png", help="of those that are reduced")
    parser.add_argument("--megabytes", type=positive(float), default=256, help="of a shard")
    run(parser, arguments, write)
