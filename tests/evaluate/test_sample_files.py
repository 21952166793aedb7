"""Samples that another program made are measured as they are, or not at all."""

import os

import numpy as np
import PIL.Image
import pytest
import torch

from hostile import archives, header, npz_of
from oboro.base.errors import UserError
from oboro.evaluate.sample_files import read_samples
from oboro.modality import Image, Series

IMAGE = Image(3, 6, 8)
GREY = Image(1, 6, 8)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (12, 6, 8, 3), dtype=np.uint8)


def write(place, pixels, mode=None):
    place.parent.mkdir(parents=True, exist_ok=True)
    image = PIL.Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(place)


@pytest.fixture
def folder(pixels, tmp_path):
    """Two class folders with six pictures each."""
    for i, image in enumerate(pixels):
        write(tmp_path / "pictures" / f"class{i // 6}" / f"{i}.png", image)
    return tmp_path / "pictures"


def refusal(*arguments) -> str:
    with pytest.raises(UserError) as caught:
        read_samples(*arguments)
    message = str(caught.value)
    assert "\n" not in message and "pickle=" not in message
    return message


def test_a_folder_and_an_archive_of_the_same_images_are_the_same(folder, pixels, tmp_path):
    np.savez(tmp_path / "images.npz", images=pixels, labels=np.arange(12) // 6)
    np.savez(tmp_path / "adm.npz", pixels, np.arange(12) // 6)  # arr_0, arr_1
    np.savez(tmp_path / "floats.npz", images=pixels, labels=(np.arange(12) // 6).astype(">f8"))
    expected = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    places = (folder, *(tmp_path / f"{name}.npz" for name in ("images", "adm", "floats")))
    found = [read_samples(place, IMAGE, 2) for place in places]
    for one in found:
        assert torch.equal(one.samples, expected) and one.labels.tolist() == [0] * 6 + [1] * 6
        assert one.fingerprint == found[0].fingerprint
    np.savez(tmp_path / "other.npz", images=pixels[::-1])
    np.save(tmp_path / "other.npy", pixels[::-1])
    other, alone = (read_samples(tmp_path / f"other.{suffix}", IMAGE, 2) for suffix in ("npz", "npy"))
    assert other.labels is alone.labels is None and other.fingerprint == alone.fingerprint != found[0].fingerprint


def test_grey_pictures_need_no_axis_of_channels(pixels, tmp_path):
    np.savez(tmp_path / "flat.npz", images=pixels[..., 0])
    np.savez(tmp_path / "deep.npz", images=pixels[..., :1])
    flat, deep = (read_samples(tmp_path / f"{name}.npz", GREY, 0) for name in ("flat", "deep"))
    assert torch.equal(flat.samples, deep.samples) and flat.fingerprint == deep.fingerprint
    assert "the images are 1×6×8 and those of the data 3×6×8" in refusal(tmp_path / "flat.npz", IMAGE, 0)
    np.savez(tmp_path / "floats.npz", images=pixels / 255)
    assert "are float64 of shape (12, 6, 8, 3) and cannot be read as such; save uint8 pixels (n, H, W, C)" in refusal(
        tmp_path / "floats.npz", IMAGE, 0
    )


def test_nothing_is_resized(folder, pixels, tmp_path):
    np.savez(tmp_path / "images.npz", images=pixels)
    for path in (folder, tmp_path / "images.npz"):
        assert "data.resolution" in refusal(path, Image(3, 8, 8), 2)
    assert "3×6×8 and those of the data 1×6×8" in refusal(tmp_path / "images.npz", GREY, 2)


# Names of files, number of classes of the data, the labels in the order of files, and what is said of them.
CHUNKS = [f"{k // 3 * 3:06d}/{k:06d}.png" for k in range(9)]
FOLDERS = [
    (["a.png", "b.png"], 2, None, "no class folders"),
    (["0/x.png", "1/x.png", "2/x.png"], 3, [0, 1, 2], "3 class folders, 0 to 2"),
    (["2/x.png", "10/x.png", "1/x.png"], 3, [0, 1, 2], "3 class folders, 1 to 10"),
    ([f"{c}/{i}.png" for c in range(3) for i in range(2)], 3, [0, 0, 1, 1, 2, 2], "3 class folders, 0 to 2"),
    ([f"{c}/{c:03d}.png" for c in range(3)], 3, [0, 1, 2], "3 class folders, 0 to 2"),
    (
        [f"{c}/{2 * c + i:03d}.png" for c in range(3) for i in range(2)],
        3,
        [0, 0, 1, 1, 2, 2],
        "3 class folders, 0 to 2",
    ),
    (["cat/deep/x.png", "dog/y.png"], 2, [0, 1], "2 class folders, cat to dog"),
    (CHUNKS, 10, None, "3 sub-folders that number their files are parts"),
    (CHUNKS, 3, None, "3 sub-folders that number their files are parts"),
    (["000000/000000.png", "000000/000001.png"], 1, None, "1 sub-folder that numbers its files is a part"),
    (["5000/5000.png", "6000/6999.png"], 2, None, "2 sub-folders that number their files are parts"),
    (["a/x.png", "b/x.png"], 0, None, "2 sub-folders are parts, since the data have no classes"),
    (["a/x.png", "b/x.png"], 3, None, "2 sub-folders are not the 3 classes of the data"),
    (["a/x.png", "b/x.png", "c.png"], 2, None, "2 sub-folders beside samples are parts"),
    (["a/x.png", "b/x.png", "__MACOSX/x.png", ".cache/x.png"], 2, [0, 1], "2 class folders, a to b"),
    (["a/x.png", "b/x.png", "empty/notes.txt"], 2, [0, 1], "2 class folders, a to b"),
]


def test_sub_folders_are_classes_or_parts_and_it_is_said_which(pixels, tmp_path):
    wrong = []
    for i, (names, classes, labels, source) in enumerate(FOLDERS):
        for name in names:
            place = tmp_path / str(i) / name
            write(place, pixels[0]) if place.suffix == ".png" else (place.parent.mkdir(), place.touch())
        found = read_samples(tmp_path / str(i), IMAGE, classes)
        if ((None if found.labels is None else found.labels.tolist()), found.labels_from) != (labels, source):
            wrong.append((names, classes, found.labels, found.labels_from))
    assert wrong == []


def test_labels_that_a_metric_needs_and_are_not_there_have_one_remedy(pixels, tmp_path):
    for c in range(9):
        write(tmp_path / "nine" / str(c) / "x.png", pixels[0])
    assert refusal(tmp_path / "nine", IMAGE, 10, ["accuracy"]) == (
        f"accuracy needs the class of every sample and {tmp_path / 'nine'} has none (9 sub-folders are not the 10 "
        "classes of the data); leave it out of metrics=[...], or give a folder for each of the 10 classes, or labels "
        "(n,) in an .npz file."
    )
    assert len(read_samples(tmp_path / "nine", IMAGE, 10).samples) == 9


def test_a_linked_class_folder_counts_and_a_circle_of_links_ends(folder, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "a").symlink_to(folder / "class0", target_is_directory=True)
    (linked / "b").symlink_to(folder / "class1", target_is_directory=True)
    (linked / "again").symlink_to(linked, target_is_directory=True)
    assert read_samples(linked, IMAGE, 2).fingerprint == read_samples(folder, IMAGE, 2).fingerprint


def test_what_could_be_a_sample_and_is_not_read_is_named(folder, pixels, tmp_path):
    def with_file(name, content=b""):
        """A copy of the folder with one file more; it is named in the message."""
        place = tmp_path / name / "class0" / name
        for source in folder.rglob("*.png"):
            write(tmp_path / name / source.relative_to(folder), np.asarray(PIL.Image.open(source)))
        if content is None:
            place.mkdir()
        elif isinstance(content, str):
            place.symlink_to(content)
        else:
            place.write_bytes(content)
        return place

    whole = (folder / "class0" / "0.png").read_bytes()
    table = [
        (with_file("text.png", b"hello"), "it is no .png, .jpg, .jpeg, .webp picture"),
        (with_file("empty.png"), "it is no .png, .jpg, .jpeg, .webp picture"),
        (with_file("cut.png", whole[: len(whole) // 2]), "cannot be read"),
        (with_file("folder.png", None), "is a folder and not one of the images"),
        (with_file("link.png", "nowhere"), "is a broken link and not one of the images"),
        (with_file("other.gif", b"GIF89a"), "is not read, since images are .png, .jpg, .jpeg, .webp files"),
        (with_file("other.TIF", b""), "is not read, since images are"),
    ]
    wrong = []
    for place, reason in table:
        message = refusal(place.parents[1], IMAGE, 2)
        if str(place) not in message or reason not in message:
            wrong.append((place, message))
    assert wrong == []
    beside = with_file("notes.md", b"hello")
    assert read_samples(beside.parents[1], IMAGE, 2).passed_over == ["class0/notes.md"]


def test_pictures_of_other_channels_are_converted_only_where_that_loses_nothing(pixels, tmp_path):
    colour, grey = pixels[0], pixels[0, :, :, 0]
    opaque = np.concatenate([colour, np.full((6, 8, 1), 255, np.uint8)], 2)
    clear = opaque.copy()
    clear[0, 0, 3] = 254
    deep = PIL.Image.fromarray(grey.astype(np.uint16) * 257)
    both = torch.from_numpy(colour).permute(2, 0, 1)
    one = torch.from_numpy(grey.copy())[None]
    palette = PIL.Image.fromarray(colour).quantize(256)
    table = [
        ("colour", PIL.Image.fromarray(colour), IMAGE, both),
        ("colour", PIL.Image.fromarray(colour), GREY, "is RGB and the data are grey; set data.channels=3"),
        ("grey", PIL.Image.fromarray(grey), GREY, one),
        ("grey", PIL.Image.fromarray(grey), IMAGE, one.expand(3, -1, -1)),
        ("grey as colour", PIL.Image.fromarray(grey).convert("RGB"), GREY, one),
        ("grey with alpha", PIL.Image.fromarray(grey).convert("LA"), GREY, one),
        ("opaque", PIL.Image.fromarray(opaque), IMAGE, both),
        ("clear", PIL.Image.fromarray(clear), IMAGE, "has transparent pixels and the data have none"),
        ("clear", PIL.Image.fromarray(clear), Image(4, 6, 8), torch.from_numpy(clear).permute(2, 0, 1)),
        ("deep", deep, GREY, "has more than 8 bits a channel"),
        ("palette", palette, IMAGE, torch.from_numpy(np.array(palette.convert("RGB"))).permute(2, 0, 1)),
        ("palette", palette, GREY, "is RGB and the data are grey"),
    ]
    wrong = []
    for i, (name, picture, modality, expected) in enumerate(table):
        (tmp_path / str(i)).mkdir()
        picture.save(tmp_path / str(i) / "x.png")
        if isinstance(expected, str):
            message = refusal(tmp_path / str(i), modality, 0)
            wrong += [] if expected in message and "x.png" in message else [(name, modality.shape, message)]
        elif not torch.equal(read_samples(tmp_path / str(i), modality, 0).samples[0], expected):
            wrong.append((name, modality.shape))
    assert wrong == []
    (tmp_path / "cmyk").mkdir()
    PIL.Image.fromarray(colour).convert("CMYK").save(tmp_path / "cmyk" / "x.jpg")
    assert "is CMYK, no RGB or grey picture" in refusal(tmp_path / "cmyk", IMAGE, 0)


def test_labels_of_an_archive_are_classes_of_the_data_or_refused(pixels, tmp_path):
    nan = np.r_[np.zeros(11), np.nan]
    table = [
        (np.arange(12), "label 10 of sample 10"),
        (np.arange(12) - 1, "label -1 of sample 0"),
        (np.full(12, 0.5), "label 0.5 of sample 0"),
        (nan, "label nan of sample 11"),
        (np.zeros(11, int), "int64 of shape (11,) for 12 samples"),
        (np.zeros(13, int), "int64 of shape (13,) for 12 samples"),
        (np.zeros((12, 1), int), "int64 of shape (12, 1) for 12 samples"),
        (np.eye(12, 10), "float64 of shape (12, 10) for 12 samples"),
        (np.array(3), "int64 of shape () for 12 samples"),
        (np.array(["a"] * 12), "<U1 of shape (12,) for 12 samples"),
        (np.zeros(12, complex), "complex128 of shape (12,) for 12 samples"),
    ]
    wrong = []
    for labels, reason in table:
        np.savez(tmp_path / "x.npz", images=pixels, labels=labels)
        message = refusal(tmp_path / "x.npz", IMAGE, 10)
        if reason not in message or "save one class number from 0 to 9 for each sample" not in message:
            wrong.append((reason, message))
    assert wrong == []
    found = read_samples(tmp_path / "x.npz", IMAGE, 0)
    assert found.labels is None and found.labels_from.endswith("not used, since the data have no classes")


def test_files_that_hold_no_samples_end_in_one_line(folder, pixels, tmp_path):
    (tmp_path / "hostile").mkdir()
    for path, reason in archives(tmp_path / "hostile", "images").items():
        if path.stem not in ("folder",):
            assert reason in refusal(path, IMAGE, 0) or "one array" in reason, path
    (tmp_path / "nothing").mkdir()
    np.savez(tmp_path / "floats.npz", images=pixels / 255)
    np.savez(tmp_path / "none.npz", images=pixels[:0])
    np.savez(tmp_path / "flat.npz", images=pixels[..., 0])
    np.savez(tmp_path / "labels.npz", labels=np.zeros(3))
    npz_of(tmp_path / "wide.npz", images=header("(1, 6, 100000, 3)", "|u1") + bytes(1800000))
    np.save(tmp_path / "flat.npy", pixels[..., 0])
    (tmp_path / "pictures.zip").write_bytes((tmp_path / "floats.npz").read_bytes())
    (tmp_path / "table.txt").write_text("hello")
    layout = "save uint8 pixels (n, H, W, C), or (n, H, W) of grey images, under the name images"
    table = {
        "nothing": "holds no .png, .jpg, .jpeg, .webp files; give a folder of images",
        "absent": "there are no images at",
        "floats.npz": layout,
        "none.npz": layout,
        "flat.npz": "the images are 1×6×8 and those of the data 3×6×8",
        "flat.npy": "the images are 1×6×8 and those of the data 3×6×8",
        "labels.npz": layout,
        "wide.npz": "the images are 3×6×100000 and those of the data 3×6×8",
        "pictures/class0/0.png": "is a single file; give the folder that holds all images",
        "pictures.zip": "is an archive; unpack it and give the folder",
        "table.txt": "is no folder and no .npz file",
    }
    messages = {name: refusal(tmp_path / name, IMAGE, 0) for name in table}
    assert {n: m for n, m in messages.items() if table[n] not in m} == {}
    os.mkfifo(tmp_path / "pictures" / "pipe.png")
    assert "pipe.png is no file" in refusal(folder, IMAGE, 0)


def test_series_are_held_against_the_data_before_they_are_read(tmp_path):
    series = Series(5, [0.0, 0.0], [1.0, 1.0])
    values = np.random.default_rng(0).normal(size=(4, 2, 5))
    np.savez(tmp_path / "x.npz", series=values)
    assert torch.equal(read_samples(tmp_path / "x.npz", series, 0).samples, torch.from_numpy(values).float())
    values[0, 0, 0] = np.nan
    for name, array, reason in [
        ("nan", values, "the series hold NaN or infinity"),
        ("large", np.full((1, 2, 5), 1e300), "the series hold NaN or infinity"),
        ("long", np.zeros((4, 2, 6)), "the series are 2×6 and those of the data 2×5"),
        ("flat", np.zeros((4, 10)), "save numbers (n, C, length) under the name series"),
        ("complex", np.zeros((4, 2, 5), complex), "save numbers (n, C, length) under the name series"),
    ]:
        np.savez(tmp_path / f"{name}.npz", series=array)
        assert reason in refusal(tmp_path / f"{name}.npz", series, 0), name
