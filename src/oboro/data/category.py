"""The files of a category of normal and of defective parts: layouts of MVTec AD, MVTec LOCO AD and VisA."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from oboro.base.errors import UserError
from oboro.data.folder import list_folder, natural
from oboro.data.left_out import LeftOut
from oboro.modality.decode_image import SUFFIXES

TRAIN, TEST, VALIDATION, DEFECTS = range(4)  # stored labels of normals; defects are numbered from the last on


@dataclass(frozen=True)
class Part:
    """A photograph ``name`` below the root, its number among ``kinds``, and the masks of its defects: none where nobody
    knows them."""

    name: str
    kind: int
    masks: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Category:
    parts: list[Part]
    kinds: tuple[str, ...]
    left_out: list[LeftOut]

    @property
    def validates(self) -> bool:
        """Whether it says itself which normals are for validation."""
        return any(part.kind == VALIDATION for part in self.parts)


class Folders(NamedTuple):
    """Folders of normals with their labels, folders of defects with those of their masks, and where what is normal has
    its label from a table, that."""

    normals: Sequence[tuple[Path, int]]
    defects: Sequence[tuple[str, Path, Path | None]]
    split: Mapping[str, int]


def list_category(root: Path) -> Category:
    """Normals of all parts and defects, each in natural order. ``UserError`` for a folder of another layout."""
    if not root.is_dir():
        raise UserError(f"data.root={root} is no folder; set data.root=<folder of a category, with train/good in it>")
    if (root / "train" / "good").is_dir():
        folders = of_mvtec(root)
    elif (root / "Data" / "Images" / "Normal").is_dir():
        folders = of_visa(root)
    else:
        inside = [
            p.name for p in sorted(root.iterdir()) if any((p / s).is_dir() for s in ("train/good", "Data/Images"))
        ]
        remedy = f"one of its categories, {root / inside[0]} for example" if inside else "the folder of one category"
        raise UserError(f"data.root={root} has neither train/good nor Data/Images/Normal; set data.root to {remedy}")
    kinds = [*["good"] * DEFECTS, *(name for name, _, _ in folders.defects)]
    parts: list[Part] = []
    left_out: list[LeftOut] = []
    listed = [(path, label, None) for path, label in folders.normals]
    listed += [(path, label, masks) for label, (_, path, masks) in enumerate(folders.defects, DEFECTS)]
    for folder, label, masks in listed:
        below = folder.relative_to(root).as_posix()
        listing = list_folder(folder, SUFFIXES, labelled=False)
        left_out += [item._replace(name=f"{below}/{item.name}") for item in listing.left_out]
        drawn = {} if masks is None else masks_below(masks)
        for file, _ in listing.files:
            name, bare = f"{below}/{file}", Path(file).with_suffix("").as_posix()
            of_part = drawn.get(f"{bare}_mask") or drawn.get(bare, [])
            if masks is not None and not of_part:
                raise UserError(f"{name} has no mask in {masks}; add {bare}_mask.png, or take it out of the data")
            parts.append(Part(name, folders.split.get(name, label), tuple(of_part)))
    if not any(part.kind == TRAIN for part in parts):
        raise UserError(f"{folders.normals[0][0]} holds no pictures to train on; put good parts there")
    return Category(parts, tuple(kinds), left_out)


def of_mvtec(root: Path) -> Folders:
    """``train/good``, ``test/good``, with LOCO ``validation/good``; ``test/<defect>``, ``ground_truth/<defect>``."""
    tests = sorted((path for path in (root / "test").glob("*") if path.is_dir()), key=lambda path: natural(path.name))
    labels = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    normals = [(root / part / "good", label) for part, label in labels.items()]
    truth = root / "ground_truth"
    defects = [(p.name, p, truth / p.name if truth.is_dir() else None) for p in tests if p.name != "good"]
    return Folders([(path, label) for path, label in normals if path.is_dir()], defects, {})


def of_visa(root: Path) -> Folders:
    """``Data/Images``, ``Data/Masks``, and beside the categories ``split_csv/1cls.csv``, whose columns ``split`` and
    ``image`` say which normals are for the test."""
    images, masks = root / "Data" / "Images", root / "Data" / "Masks" / "Anomaly"
    table, split = root.parent / "split_csv" / "1cls.csv", {}
    if table.is_file():
        try:
            with table.open(encoding="utf-8-sig", newline="") as file:
                rows = [(row["image"] or "", row["split"]) for row in csv.DictReader(file)]  # None of a row cut short
        except (OSError, KeyError, ValueError, csv.Error) as error:
            raise UserError(f"{table} has no columns image and split as VisA's; restore it, or remove it.") from error
        tested = [image.removeprefix(f"{root.resolve().name}/") for image, part in rows if part == "test"]
        split = {image: TEST for image in tested if image.startswith("Data/Images/Normal/")}
    defects = [("anomaly", images / "Anomaly", masks if masks.is_dir() else None)]
    return Folders([(images / "Normal", TRAIN)], defects, split)


def masks_below(folder: Path) -> dict[str, list[Path]]:
    """By their paths without suffix, ``001_mask`` or ``001``; all in a folder ``001`` by that of the folder, too."""
    masks: dict[str, list[Path]] = {}
    for file, _ in list_folder(folder, SUFFIXES, labelled=False).files:
        path = Path(file)
        for key in (path.with_suffix(""), path.parent):
            masks.setdefault(key.as_posix(), []).append(folder / path)
    return masks
