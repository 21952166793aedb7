"""Emoji of Twitter and Google with their names: about 7,600 pictures of 64 pixels and a caption for each."""

import hashlib
import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Unpack

from oboro.base.errors import UserError
from oboro.base.paths import LocalPath
from oboro.base.seeding import derive_seed
from oboro.data.cache import Block, Source
from oboro.data.decode_or_skip import Picture, decoded
from oboro.data.download import not_in
from oboro.data.image_data import ImageData, ImageSettings
from oboro.data.npm import Package, find

PACKAGES = {  # by vendor
    "twitter": Package(
        "emoji-datasource-twitter", "16.0.0", "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"
    ),
    "google": Package(
        "emoji-datasource-google", "16.0.0", "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"
    ),
}
TONES = {"1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark", "1F3FF": "dark"}
KINDS = {  # subcategories of Unicode that are no words
    "alphanum": "letters and numbers",
    "av-symbol": "button",
    "geometric": "shape",
    "other-object": "object",
    "other-symbol": "symbol",
    "person-symbol": "people",
    "place-other": "place",
    "plant-other": "plant",
}
TEMPLATES = (
    "{name}, {kind}, in the style of {vendor}",
    "{name}, in the style of {vendor}",
    "an emoji of {name}, {kind}, in the style of {vendor}",
    "an emoji of {name} in the style of {vendor}",
    "{name}, {kind}, {category}, in the style of {vendor}",
)


@dataclass(frozen=True)
class Drawing:
    """What one picture shows: ``subject`` is the emoji without its skin tone, as a code, and ``tones`` are those of its
    skin ("" or codes joined by "-")."""

    image: str
    subject: str
    tones: str
    vendor: str
    caption: str


class Emoji(ImageData):
    """The pictures of the npm packages ``emoji-datasource-twitter`` and ``-google`` with captions of their names.

    Tarballs of both are taken from ``root``, or fetched once with ``npm pack`` into the cache; their digests are
    checked. All skin tones are in: 3,786 pictures of each vendor, 1,911 of them different emoji, laid on white. A
    caption is made of name, skin tones, kind and vendor, in one of a few forms that is fixed for each picture.

    Pictures of one emoji, in all skin tones and of both vendors, and files that are equal (some flags, families)
    are a group: all of them are held out or none. With ``labels="vendor"`` label 0 is Twitter and 1 Google; otherwise
    there are no labels.
    """

    def __init__(
        self,
        *,
        root: LocalPath | None = None,
        labels: Literal["vendor"] | None = None,
        **settings: Unpack[ImageSettings],
    ):
        super().__init__(**settings)
        self.root = Path(root).expanduser() if root else None
        self.labels = labels

    def source(self) -> Source:
        names = tuple(PACKAGES) if self.labels else ()
        key = wording() + (self.labels or "")
        return Source(key, len(names), self._blocks, names=names, notes=missing_in(self.root))

    def _blocks(self) -> Iterator[Block]:
        drawings, files, groups = read_packages(self.root, self.cache_dir)
        vendors = list(PACKAGES)
        encoded = (
            Picture(d.image, file, vendors.index(d.vendor) if self.labels else None, d.caption, group)
            for d, file, group in zip(drawings, files, groups, strict=True)
        )
        return decoded(encoded, self.modality.shape, place="the emoji packages", total=len(files))


def wording(*more: object) -> str:
    """A digest of the packages and of all words that captions are made of, ``more`` with them."""
    content = [package.sha256 for package in PACKAGES.values()]
    return hashlib.sha256(repr((TEMPLATES, KINDS, TONES, content, *more)).encode()).hexdigest()


def missing_in(root: Path | None) -> list[str]:
    """A line where ``root`` holds none of the tarballs."""
    return not_in(root, [package.archive for package in PACKAGES.values()])


def read_packages(root: Path | None, cache_dir: Path) -> tuple[list[Drawing], list[bytes], list[int]]:
    """What is drawn, vendor by vendor in the order of their tables, the file of each and the number of its group.

    Raises ``UserError`` where a tarball cannot be had or read.
    """
    drawings: list[Drawing] = []
    files: list[bytes] = []
    for vendor, package in PACKAGES.items():
        table, pictures = _read(find(package, root, cache_dir / "downloads" / "emoji"), vendor)
        listed = list(draw(table, vendor))
        drawings += listed
        files += [pictures[drawing.image] for drawing in listed]
    groups = together([(d.subject, hashlib.sha256(f).hexdigest()) for d, f in zip(drawings, files, strict=True)])
    return drawings, files, groups


def draw(table: list[dict], vendor: str) -> Iterator[Drawing]:
    """What ``emoji.json`` lists, each emoji followed by its skin tones."""
    for entry in sorted(table, key=lambda entry: entry["sort_order"]):
        yield Drawing(entry["image"], entry["unified"], "", vendor, caption(entry, "", vendor))
        for tones, variant in entry.get("skin_variations", {}).items():
            yield Drawing(variant["image"], entry["unified"], tones, vendor, caption(entry, tones, vendor))


def skin(tones: str) -> str:
    """``tones`` in words: "light", "light and dark", "" for none."""
    return " and ".join(dict.fromkeys(TONES[tone] for tone in tones.split("-"))) if tones else ""


def caption(entry: dict, tones: str, vendor: str) -> str:
    """The caption of an emoji of ``emoji.json`` in the skin ``tones`` ("" or codes joined by "-") of a vendor.

    A short name is added where it has words that the name lacks: Unicode calls 👉 a white right pointing backhand
    index, its short name is point_right.
    """
    name = entry["name"].lower()
    words = [re.sub(r"[_-]", " ", short).lower() for short in entry["short_names"]]
    known, added = set(re.findall(r"\w+", name)), []
    for short in words:
        if re.fullmatch(r"[a-z ]{3,}", short) and not set(short.split()) <= known and not short.startswith("flag "):
            added.append(short)
            known |= set(short.split())
    full = ", ".join([name, *added]) + (f" with {skin(tones)} skin" if tones else "")
    subcategory = entry["subcategory"]
    kind = KINDS.get(subcategory, subcategory.replace("-", " ").replace("&", "and"))
    template = TEMPLATES[derive_seed(0, f"emoji caption {vendor} {entry['unified']} {tones}") % len(TEMPLATES)]
    category = entry["category"].lower().replace("&", "and")
    return template.format(name=full, kind=kind, category=category, vendor=vendor)


def together(rows: Sequence[tuple[str, ...]]) -> list[int]:
    """Numbers of groups: rows that share any of their keys, directly or through others, are in one."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    for keys in rows:
        for key in keys[1:]:
            parent[root(key)] = root(keys[0])
    numbers: dict[str, int] = {}
    return [numbers.setdefault(root(keys[0]), len(numbers)) for keys in rows]


def _read(archive: Path, vendor: str) -> tuple[list[dict], dict[str, bytes]]:
    """``emoji.json`` and the files of 64 pixels by name, from one pass over the tarball."""
    folder, table, pictures = f"package/img/{vendor}/64/", None, {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.name == "package/emoji.json":
                    table = json.load(tar.extractfile(member))
                elif member.name.startswith(folder) and member.isfile():
                    pictures[member.name.removeprefix(folder)] = tar.extractfile(member).read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise UserError(f"cannot read {archive}: {error}; delete it to have it fetched again") from error
    return table, pictures
