"""Folders as people bring them: which pictures are read, as what classes, and what is said of the rest."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from oboro.base.errors import UserError
from oboro.data.image_folder import list_pictures
from oboro.data.left_out import BESIDE, EMPTY, HIDDEN, LINK, LOOP, PART, SUFFIX, LeftOut, table
from oboro.data.shapes import Shapes
from oboro.modality.decode_image import load_image

CLASSES = ["cat/1.png", "cat/2.png", "dog/1.png"]


def plant(root, names):
    """Pictures, empty files of other suffixes, folders (``x/``) and links (``x -> target``)."""
    for name in names:
        name, _, target = name.partition(" -> ")
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if target:
            path.symlink_to(target)
        elif name.endswith("/"):
            path.mkdir()
        elif path.suffix in (".txt", ".doc", ".DS_Store", ".db", ".json", ".mp4", ""):
            path.write_text("")
        else:
            Image.new("L", (4, 4), 9).save(
                path, {".jpg": "JPEG", ".gif": "GIF", ".tif": "TIFF"}.get(path.suffix, "PNG")
            )


# What is there, then pictures with classes, names of classes, and what is left out.
FOLDERS = {
    "class folders": (CLASSES, "cat/1.png:0 cat/2.png:0 dog/1.png:1", "cat dog", {}),
    "hidden and system folders are no classes": (
        [
            *CLASSES,
            "__MACOSX/cat/._1.png",
            ".git/x.png",
            "@eaDir/1.png",
            ".ipynb_checkpoints/1-checkpoint.png",
            "lost+found/1.png",
            "$RECYCLE.BIN/1.png",
            "System Volume Information/1.png",
            "Thumbs.db",
            ".DS_Store",
            "cat/._1.png",
            "cat/.ipynb_checkpoints/1-checkpoint.png",
            "cat/@eaDir/1.png",
            "cat/Thumbs.db",
        ],
        "cat/1.png:0 cat/2.png:0 dog/1.png:1",
        "cat dog",
        {HIDDEN: 13},
    ),
    "folders without pictures are no classes": (
        [*CLASSES, "animals/", "bird/notes.txt", "eel/deeper/"],
        "cat/1.png:0 cat/2.png:0 dog/1.png:1",
        "cat dog",
        {EMPTY: 3, SUFFIX: 1},
    ),
    "a picture beside classes is none of them": (
        [*CLASSES, "cover.png"],
        "cat/1.png:0 cat/2.png:0 dog/1.png:1",
        "cat dog",
        {BESIDE: 1},
    ),
    "many pictures beside folders: no classes": (
        [*CLASSES, "a.png", "b.png"],
        "a.png b.png cat/1.png cat/2.png dog/1.png",
        "",
        {},
    ),
    "a single folder beside pictures": (["a.png", "more/b.png"], "a.png more/b.png", "", {}),
    "all formats": (
        ["1.png", "2.gif", "3.tif", "4.bmp", "5.JPG", "6.ppm", "7.mp4", "8.json", "README"],
        "1.png 2.gif 3.tif 4.bmp 5.JPG 6.ppm",
        "",
        {SUFFIX: 3},
    ),
    "links are followed": (
        ["real/1.png", "elsewhere/2.png", "real/link.png -> 1.png", "real/more -> ../elsewhere", "third -> elsewhere"],
        "elsewhere/2.png:0 real/1.png:1 real/link.png:1 real/more/2.png:1 third/2.png:2",
        "elsewhere real third",
        {},
    ),
    "broken links and circles are named": (
        [*CLASSES, "cat/gone.png -> nowhere.png", "gone -> nowhere", "dog/loop -> ..", "dog/self -> .", "cat/a -> a"],
        "cat/1.png:0 cat/2.png:0 dog/1.png:1",
        "cat dog",
        {LINK: 3, LOOP: 2},
    ),
    "a folder called like a picture": (
        ["a.png/1.png", "b.png/1.png"],
        "a.png/1.png:0 b.png/1.png:1",
        "a.png b.png",
        {},
    ),
    "train and test": (
        ["train/cat/1.png", "train/dog/1.png", "test/cat/2.png", "validation/dog/3.png", "notes.txt"],
        "cat/1.png:0 dog/1.png:1",
        "cat dog",
        {PART: 2, SUFFIX: 1},
    ),
    "a part alone": (["test/cat/1.png", "test/dog/1.png"], "cat/1.png:0 dog/1.png:1", "cat dog", {}),
    "train alone": (["train/1.png", "train/2.png"], "1.png 2.png", "", {}),
    "train among other classes": (["train/1.png", "car/2.png"], "car/2.png:0 train/1.png:1", "car train", {}),
    "folders that number their files are parts": (
        ["000000/000000.png", "000000/000999.png", "001000/001000.png", "001000/001001.png"],
        "000000/000000.png:0 000000/000999.png:0 001000/001000.png:1 001000/001001.png:1",
        "",
        {},
    ),
    "classes called by numbers": (["0/0.png", "0/1.png", "10/0.png"], "0/0.png:0 0/1.png:0 10/0.png:1", "0 10", {}),
    "names of any kind": (
        ["a b/ü.png", "a b/x\n.png", "c=d,e/[1].png"],
        "a b/x\n.png:0 a b/ü.png:0 c=d,e/[1].png:1",
        "a b|c=d,e",
        {},
    ),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_is_read_as_it_is_meant(tmp_path, kind):
    names, expected, classes, left_out = FOLDERS[kind]
    plant(tmp_path, names)
    found = list_pictures(tmp_path)
    shown = " ".join(e.name + ("" if e.label is None else f":{e.label}") for e in found.entries)
    assert shown == expected
    assert found.classes == tuple(classes.split("|" if "|" in classes else None))
    reasons = [item.reason for item in found.left_out]
    assert {reason: reasons.count(reason) for reason in reasons} == left_out


def test_without_labels_the_pictures_beside_class_folders_are_taken(tmp_path):
    plant(tmp_path, [*CLASSES, "cover.png"])
    found = list_pictures(tmp_path, labelled=False)
    assert [e.name for e in found.entries] == ["cover.png", *CLASSES] and found.classes == () and not found.left_out


def test_texts_beside_pictures_are_captions(tmp_path):
    plant(tmp_path, ["1.png", "2.png", "3.jpg", "sub/4.png", "notes.txt"])
    (tmp_path / "1.txt").write_text("\ufeffa red\r\nbicycle\n", encoding="utf-8")
    (tmp_path / "2.caption").write_text("two\u2028lines", encoding="utf-8")
    (tmp_path / "2.txt").write_text("the text comes first", encoding="utf-16")
    (tmp_path / "sub" / "4.TXT").write_text("朧")
    found = list_pictures(tmp_path)
    assert [e.caption for e in found.entries] == ["a red bicycle", "the text comes first", "", "朧"]
    assert [item.name for item in found.left_out] == ["2.caption", "notes.txt"]
    assert found.notes == ["1 of 4 images has no text beside it: 3.jpg, …"]
    (tmp_path / "1.txt").write_bytes("été".encode("latin-1"))
    with pytest.raises(UserError, match=r"^line 1 of .*1\.txt is not UTF-8; save the file as UTF-8$"):
        list_pictures(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            [".hidden.png"],
            r"holds no pictures \(1 file or folder of another kind\); set data\.root=<folder of images>$",
        ),
        (
            ["test/a.png", "val/b.png"],
            r"has the parts test and val and none to train on; set data\.root to one of them",
        ),
        (["a.txt", "sub/b.mp4"], r"holds no pictures \(3 files and folders of other kinds\); set data\.root="),
        ([], r"holds no pictures; set data\.root=<folder of images>$"),
    ],
)
def test_a_folder_without_pictures_says_so(tmp_path, names, message):
    plant(tmp_path, names)
    with pytest.raises(UserError, match=message):
        list_pictures(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="names of bytes")
def test_names_that_are_no_text_are_read_and_can_be_printed(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("L", (4, 4)).save(os.path.join(tmp_path, name), "PNG")
    assert [e.name for e in list_pictures(tmp_path).entries] == [name]
    assert table([LeftOut(name, "a\nb")]) == "caf\\udce9.png\ta\\nb\t\n"


def shapes_of(*sizes, mode="L"):
    return [(size, mode) for size in sizes]


# Pictures (height, width), then the resolution and the channels that are chosen, and what is said of the pictures.
SHAPES = {
    "one size": (shapes_of((28, 28), (28, 28)), (28, 28), 1, "28×28"),
    "not square": (shapes_of((24, 32), (24, 32)), (24, 32), 1, "24×32"),
    "an odd size": (shapes_of((29, 31)), (28, 28), 1, "29×31"),
    "large": (shapes_of((512, 512), mode="RGB"), (64, 64), 3, "512×512"),
    "several sizes": (shapes_of((80, 100), (90, 70)), (64, 64), 1, "90×70 to 80×100"),
    "several small sizes": (shapes_of((20, 30), (22, 22), (40, 90)), (20, 20), 1, "22×22 to 40×90"),
    "tiny": (shapes_of((1, 1)), (4, 4), 1, "1×1"),
    "one in colour": (shapes_of((8, 8)) + shapes_of((8, 8), mode="RGB"), (8, 8), 3, "8×8"),
    "grey of all kinds": ([((8, 8), mode) for mode in ("L", "LA", "1", "I;16", "P")], (8, 8), 1, "8×8"),
    "transparent": (shapes_of((8, 8), mode="RGBA"), (8, 8), 3, "8×8"),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_resolution_and_channels_follow_from_the_pictures(tmp_path, kind):
    pictures, resolution, channels, words = SHAPES[kind]
    paths = [tmp_path / f"{i}.png" for i in range(len(pictures))]
    for path, ((height, width), mode) in zip(paths, pictures, strict=True):
        Image.new(mode, (width, height)).save(path)
    (tmp_path / "broken.png").write_text("")
    shapes = Shapes.of([*paths, tmp_path / "broken.png"])
    assert (shapes.resolution, shapes.channels, str(shapes)) == (resolution, channels, words)
    assert Shapes.from_plain(json.loads(json.dumps(shapes.plain()))) == shapes


def test_sizes_are_those_of_pictures_that_exif_turns(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("L", (24, 32))
    image.paste(255, (0, 0, 24, 16))  # the upper half, which is the right one when it is turned
    for name in ("a.jpg", "a.png", "a.tif", "b.tif", "a.webp"):
        image.save(tmp_path / name, exif=exif, **({"compression": "tiff_lzw"} if name == "b.tif" else {}))
        halves = np.asarray(load_image(tmp_path / name).convert("L")).reshape(24, 2, 16).mean((0, 2))
        assert halves[0] < 5 and halves[1] > 250, name
        assert Shapes.of([tmp_path / name]).resolution == (24, 32) == load_image(tmp_path / name).size[::-1]
