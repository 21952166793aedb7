import hashlib
import json
import os

import lightning
import numpy as np
import pytest
import torch
from PIL import Image

from oboro.base.errors import UserError
from oboro.data import ImageFolder
from oboro.modality import to_uint8


def paint(path, value=0, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (4, 4), value).save(path)


def load(tmp_path, **keywords):
    keywords = {"channels": 1, "resolution": 4, "validation": 0, **keywords}
    data = ImageFolder(root=str(tmp_path / "root"), cache_dir=str(tmp_path / "cache"), **keywords)
    data.prepare_data()
    data.setup()
    return data


def values(data):
    return data.train.samples[:][:, 0, 0, 0].tolist()


def test_flat_folder_is_read_in_natural_order(tmp_path):
    for i in (10, 2, 1, 33):
        paint(tmp_path / "root" / f"img{i}.png", i)
    paint(tmp_path / "root" / "more" / "deeper" / "a.WEBP".lower(), 77)
    paint(tmp_path / "root" / ".hidden.png", 99)
    (tmp_path / "root" / "notes.txt").write_text("not an image")
    data = load(tmp_path)
    assert values(data) == [1, 2, 10, 33, 77]
    assert data.train.labels is None and data.train.captions is None and data.population.frequencies is None


def test_class_folders_are_labels_in_natural_order(tmp_path):
    for name, value in [("class10/a.png", 10), ("class2/deep/a.png", 2), ("class2/b.png", 3), ("class1/a.png", 1)]:
        paint(tmp_path / "root" / name, value)
    data = load(tmp_path, num_classes=3)
    assert values(data) == [1, 3, 2, 10]
    assert data.train.labels.tolist() == [0, 1, 1, 2] and data.train.labels.dtype == torch.int64
    assert (
        data.population.frequencies.tolist() == [0.25, 0.5, 0.25] and data.population.frequencies.dtype == torch.float64
    )
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch["label"], data.train.labels[batch["index"]])
    ignored = load(tmp_path)
    assert ignored.train.labels is None and "label" not in next(iter(ignored.train_dataloader()))


def test_number_of_classes_has_to_be_that_of_the_data(tmp_path):
    for i in range(7):
        paint(tmp_path / "root" / str(i) / "a.png", i)
    with pytest.raises(UserError, match=r"7 classes \(0, 1, 2, 3, 4, 5, 6\), not 10; set data\.num_classes=7$"):
        load(tmp_path, num_classes=10)
    paint(tmp_path / "root" / "a.png")
    paint(tmp_path / "root" / "b.png")
    with pytest.raises(UserError, match=r"no labels; set data\.num_classes=0$"):
        load(tmp_path, num_classes=7)


def describe(tmp_path, *rows):
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    (tmp_path / "root" / "metadata.jsonl").write_text(text, encoding="utf-8")


def test_captions_and_labels_of_metadata_stay_with_their_images(tmp_path):
    for i in range(12):
        paint(tmp_path / "root" / "images" / f"{i}.png", i)
    rows = [{"file_name": f"images/{i}.png", "text": f"朧 {i}", "label": i % 2} for i in reversed(range(11))]
    describe(tmp_path, *rows, "")
    data = load(tmp_path, num_classes=2, validation=4)
    assert sorted(values(data) + data.validation.samples[:][:, 0, 0, 0].tolist()) == list(range(11))
    assert data.train.captions == [f"朧 {value}" for value in values(data)]
    assert data.train.labels.tolist() == [value % 2 for value in values(data)]
    assert data.validation.captions == [f"朧 {value}" for value in data.validation.samples[:][:, 0, 0, 0]]
    assert data.validation.labels.tolist() == [int(value) % 2 for value in data.validation.samples[:][:, 0, 0, 0]]


def test_a_missing_caption_is_empty(tmp_path):
    paint(tmp_path / "root" / "0.png", 0)
    paint(tmp_path / "root" / "1.png", 1)
    describe(tmp_path, {"file_name": "0.png"}, {"file_name": "1.png", "text": "one"})
    assert load(tmp_path).train.captions == ["", "one"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("{", "line 2 .* not a JSON object"),
        ({"text": "a"}, "line 2 .* no file_name"),
        ({"file_name": "../secret.png"}, "line 2 .* not below the folder"),
        ({"file_name": "/secret.png"}, "line 2 .* not below the folder"),
        ({"file_name": "0.png"}, "line 2 .* appears twice"),
        ({"file_name": "1.png", "text": 3}, "line 2 .* not a string"),
        ({"file_name": "1.png", "label": 3}, "no label for 0.png"),
    ],
)
def test_mistakes_in_metadata_are_located(tmp_path, row, problem):
    paint(tmp_path / "root" / "0.png")
    describe(tmp_path, {"file_name": "0.png"}, row)
    with pytest.raises(UserError, match=problem):
        load(tmp_path)


def test_unreadable_images_are_named_skipped_and_do_not_shift_labels(tmp_path, caplog):
    for i in range(6):
        paint(tmp_path / "root" / str(i % 2) / f"{i}.png", i)
    whole = (tmp_path / "root" / "1" / "3.png").read_bytes()
    (tmp_path / "root" / "1" / "3.png").write_bytes(whole[:-30])
    (tmp_path / "root" / "0" / "2.png").write_bytes(b"")
    (tmp_path / "root" / "0" / "notes.doc").write_bytes(b"")
    for _ in range(2):  # decoded, and from the cache
        caplog.clear()
        data = load(tmp_path, num_classes=2)
        assert values(data) == [0, 4, 1, 5] and data.train.labels.tolist() == [0, 0, 1, 1]
        (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
        line = (
            "left out of the data: 2 unreadable (0/2.png: no picture, or of no known format, 1/3.png: "
            f"image file is truncated), 1 other suffix (.doc 1); {data._store.path}/left_out.txt lists all"
        )
        assert record.getMessage() == line
        assert (data._store.path / "left_out.txt").read_text().splitlines() == [
            "0/notes.doc\tother suffix\t.doc",
            "0/2.png\tunreadable\tno picture, or of no known format",
            "1/3.png\tunreadable\timage file is truncated",
        ]
    (tmp_path / "root" / "1" / "3.png").write_bytes(whole)
    (tmp_path / "root" / "0" / "2.png").unlink()
    (tmp_path / "root" / "0" / "notes.doc").unlink()
    caplog.clear()
    assert values(load(tmp_path)) == [0, 4, 1, 3, 5] and not caplog.records


def test_too_many_unreadable_images_are_refused_when_decoded_and_when_cached(tmp_path):
    paint(tmp_path / "root" / "0.png")
    for i in range(1, 3):
        (tmp_path / "root" / f"{i}.jpg").write_bytes(b"not a picture")
    refused = (
        r"^2 of 3 images cannot be read: 2 unreadable \(1\.jpg: .*\); repair or remove them, or set "
        r"data\.max_unreadable to a larger share$"
    )
    with pytest.raises(UserError, match=refused):
        load(tmp_path)
    assert list((tmp_path / "cache" / "data").glob("[!.]*")) == []
    assert values(load(tmp_path, max_unreadable=0.7)) == [0]
    with pytest.raises(UserError, match=refused):
        load(tmp_path)
    with pytest.raises(
        UserError, match=r"^data\.max_unreadable=1\.5 is no share of the images; set a number from 0 to 1$"
    ):
        load(tmp_path, max_unreadable=1.5)


def test_no_folder_no_images_and_no_lines_say_so(tmp_path):
    with pytest.raises(UserError, match=r"does not exist; set data\.root=<folder of images>"):
        load(tmp_path)
    (tmp_path / "root").write_text("")
    with pytest.raises(UserError, match=r"is a file; set data\.root=<folder of images>"):
        load(tmp_path)
    (tmp_path / "root").unlink()
    (tmp_path / "root" / "empty").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds no .*; set data\.root=<folder of images>"):
        load(tmp_path)
    describe(tmp_path)
    with pytest.raises(UserError, match="names no images"):
        load(tmp_path)


def test_cache_is_used_until_a_file_or_an_option_changes(tmp_path):
    for i in range(3):
        paint(tmp_path / "root" / f"{i}.png", i)
    first = load(tmp_path)
    (built,) = (tmp_path / "cache" / "data").glob("[!.]*")
    stamp = (built / "samples.npy").stat().st_mtime_ns
    assert load(tmp_path, seed=7, batch_size=2, validation=1).fingerprint == first.fingerprint
    assert (built / "samples.npy").stat().st_mtime_ns == stamp
    assert load(tmp_path, resolution=[2, 4]).train.samples.shape == (3, 1, 2, 4)
    size = os.path.getsize(tmp_path / "root" / "1.png")
    paint(tmp_path / "root" / "1.png", 3)
    assert os.path.getsize(tmp_path / "root" / "1.png") == size  # the time alone tells
    changed = load(tmp_path)
    assert values(changed) == [0, 3, 2] and changed.fingerprint != first.fingerprint


def test_fingerprint_survives_a_copy(tmp_path):
    for name in ("here", "there"):
        paint(tmp_path / name / "root" / "0.png", 5)
        os.utime(tmp_path / name / "root" / "0.png", (len(name), len(name)))
    assert load(tmp_path / "here").fingerprint == load(tmp_path / "there").fingerprint


def test_many_files_keep_their_order_over_blocks(tmp_path):
    for i in range(300):
        paint(tmp_path / "root" / f"{i}.png", i % 256)
    assert np.array_equal(values(load(tmp_path)), np.arange(300) % 256)


def test_metadata_is_read_again_when_it_changes_and_its_order_does_not_matter(tmp_path):
    for i in (2, 10):
        paint(tmp_path / "root" / f"{i}.png", i)
    describe(tmp_path, {"file_name": "10.png", "text": "ten"}, {"file_name": "2.png", "text": "two"})
    assert (values(load(tmp_path)), load(tmp_path).train.captions) == ([2, 10], ["two", "ten"])
    describe(tmp_path, {"file_name": "10.png", "text": "10"}, {"file_name": "2.png", "text": "two"})
    assert load(tmp_path).train.captions == ["two", "10"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_hold_the_captions_of_their_images(tmp_path, num_workers):
    rows = [{"file_name": f"{i}.png", "text": f"picture {i} 朧"} for i in range(7)]
    for i in range(7):
        paint(tmp_path / "root" / f"{i}.png", i)
    describe(tmp_path, *rows)
    data = load(tmp_path, validation=3, batch_size=5, num_workers=num_workers, flip=True)
    train = next(iter(data.train_dataloader()))  # five images of a stream of four: the epoch ends in the middle
    assert len(train["caption"]) == 5 and set(train["caption"]) == set(data.train.captions)
    for batch in (train, *data.val_dataloader()):
        assert all(type(caption) is str for caption in batch["caption"])
        assert batch["caption"] == [f"picture {i} 朧" for i in batch["x"][:, 0, 0, 0].tolist()]


def test_captions_and_labels_travel_together_and_stay_strings_on_the_device(tmp_path):
    for i in range(4):
        paint(tmp_path / "root" / f"{i}.png", i)
    describe(tmp_path, *({"file_name": f"{i}.png", "text": f"{i}", "label": i % 2} for i in range(4)))
    data = load(tmp_path, num_classes=2, batch_size=4)
    raw = next(iter(data.train_dataloader()))
    module = lightning.LightningModule()
    batch = data.on_after_batch_transfer(data.transfer_batch_to_device(raw, module.device, 0), 0)
    assert set(batch) == {"x", "index", "label", "caption"}
    assert [int(caption) % 2 for caption in batch["caption"]] == batch["label"].tolist()
    assert [int(caption) for caption in batch["caption"]] == to_uint8(batch["x"])[:, 0, 0, 0].tolist()


def with_hints(tmp_path, size=(12, 8), hint_size=(12, 8), count=6):
    """Pictures whose hint is the negative of themselves, and one line of metadata for each."""
    rng = np.random.default_rng(0)
    root = tmp_path / "root"
    (root / "hints").mkdir(parents=True)
    lines = []
    for i in range(count):
        pixels = rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{i}.png")
        Image.fromarray(255 - pixels).resize(hint_size).save(root / "hints" / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "conditioning_image": f"hints/{i}.png", "text": str(i)}))
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return root


def test_second_pictures_are_cropped_and_mirrored_with_the_first(tmp_path):
    """12 × 8 pixels become 8 × 8: 2 columns go on either side, and half of the pictures are mirrored."""
    with_hints(tmp_path)
    data = load(tmp_path, channels=3, resolution=8, flip=True, batch_size=6)
    raw = next(iter(data.train_dataloader()))
    assert raw["hint"].dtype == torch.uint8 and raw["flip"].any() and not raw["flip"].all()
    batch = data.on_after_batch_transfer(raw, 0)
    assert torch.equal(to_uint8(batch["hint"]), 255 - to_uint8(batch["x"]))
    assert torch.equal(data.population.hints["hint"][:], 255 - data.train.samples[:])
    grey = load(tmp_path, channels=3, resolution=8, hint_channels=1)
    assert grey.train.hints["hint"].shape == (6, 1, 8, 8) and grey.fingerprint != data.fingerprint


def test_second_pictures_are_mirrored_beside_cached_latents(tmp_path):
    with_hints(tmp_path)
    data = load(tmp_path, channels=3, resolution=8, flip=True, batch_size=6)
    expected = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    pixels = data.modality.to_model(data.train.samples[:])
    data.train.latents = lambda index, flip: data.modality.flip(pixels[index], flip)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert set(batch) == {"latent", "hint", "index", "caption"}
    assert torch.equal(batch["hint"], expected["hint"]) and torch.equal(batch["latent"], expected["x"])


def test_a_second_picture_has_the_shape_of_the_first_and_every_picture_has_one(tmp_path):
    root = with_hints(tmp_path, hint_size=(8, 8))
    with pytest.raises(UserError, match=r"0\.png is 8×12 and the picture that belongs to it 8×8 \(height × width\)"):
        load(tmp_path, channels=3)
    lines = (root / "metadata.jsonl").read_text().splitlines()
    (root / "metadata.jsonl").write_text("\n".join([*lines[:3], '{"file_name": "5.png"}']))
    with pytest.raises(UserError, match=r"no conditioning_image for 5\.png; give one to every image or to none"):
        load(tmp_path, channels=3)


def beside(tmp_path, entries=("edges", "depth"), names=("a/1.png", "a/2.jpeg", "b/1.png", "b/10.png")):
    """root/<name> of brightness i, and <entry>/<name>.png beside root, brighter by 100, 200, …"""
    for i, name in enumerate(names):
        paint(tmp_path / "root" / name, i)
        for k, entry in enumerate(entries, start=1):
            paint((tmp_path / entry / name).with_suffix(".png"), i + 100 * k)
    return {entry: str(tmp_path / entry) for entry in entries}


def test_pictures_of_the_same_names_in_folders_beside_are_second_pictures(tmp_path):
    """Class folders and suffixes of their own; each is an entry, with its channels; a cached one is the same."""
    hints = beside(tmp_path)
    for _ in range(2):
        data = load(tmp_path, channels=1, resolution=4, hints=hints, hint_channels={"edges": 1}, num_classes=2)
        batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
        x, edges, depth = (to_uint8(batch[key]).int() for key in ("x", "edges", "depth"))
        assert (x.shape[1], edges.shape[1], depth.shape[1]) == (1, 1, 3)
        assert torch.equal(edges, x + 100) and torch.equal(depth, (x + 200).expand_as(depth))
        assert data.train.labels.tolist() == [0, 0, 1, 1]
    one = load(tmp_path, channels=1, resolution=4, hints=hints["edges"], hint_channels=1)
    assert list(one.population.hints) == ["hint"] and one.fingerprint != data.fingerprint


def test_a_folder_of_second_pictures_inside_of_the_root_is_no_class(tmp_path):
    names = ["1.png", "2.png", "10.png"]
    for folder in ("images", "edges"):
        for i, name in enumerate(names):
            paint(tmp_path / "root" / folder / name, i + 100 * (folder == "edges"))
    data = load(tmp_path, channels=1, resolution=4, hints=str(tmp_path / "root" / "edges"), hint_channels=1)
    assert len(data.train) == 3 and data.num_classes == 0
    assert torch.equal(data.train.hints["hint"][:], data.train.samples[:] + 100)


def test_what_is_wrong_with_second_pictures_is_said_in_one_line(tmp_path):
    hints = beside(tmp_path)
    (tmp_path / "edges/b/1.png").unlink()
    (tmp_path / "edges/b/10.png").unlink()
    root, empty = tmp_path / "root", tmp_path / "empty"
    empty.mkdir()
    for given, message in (
        (hints, r"2 of 4 images have no picture of their name in .*edges: b/1\.png, b/10\.png; add it"),
        (str(empty), "4 of 4 images have no picture of their name in .*empty: a/1.png"),
        (str(tmp_path / "nowhere"), "data.hints: .*nowhere does not exist; set it to a folder"),
        (str(root / "a/1.png"), "is a file; set it to a folder"),
        (str(root), "is data.root itself"),
        ({"label": hints["depth"]}, "label, which is another entry of a batch"),
        ({"my edges": hints["depth"]}, "name pictures in letters"),
    ):
        with pytest.raises(UserError, match=message):
            load(tmp_path, channels=1, hints=given)
    with pytest.raises(UserError, match=r"hint_channels\.depth=2 is not a kind"):
        load(tmp_path, channels=1, hints=hints, hint_channels={"depth": 2})
    (tmp_path / "depth/a/1.png").write_bytes(b"nothing")
    data = load(tmp_path, channels=1, resolution=4, hints={"depth": hints["depth"]})
    assert len(data.train) == 3 and "the picture depth that belongs to it" in data._store.left_out[0].detail


def test_the_cache_of_earlier_versions_stays_valid(tmp_path, caplog):
    """The key of a folder is the digest of what is listed; a folder of the cache may be without its list."""
    for name, value in (("b/1.png", 1), ("a/2.png", 2), ("a/10.png", 3)):
        paint(tmp_path / "root" / name, value)
    (tmp_path / "root" / "b" / "3.png").write_text("damaged")
    data = load(tmp_path, num_classes=2)
    digest = hashlib.sha256()
    for name, label in (("a/2.png", 0), ("a/10.png", 0), ("b/1.png", 1), ("b/3.png", 1)):
        stat = (tmp_path / "root" / name).stat()
        digest.update(json.dumps([name, label, None, [stat.st_size, stat.st_mtime_ns]]).encode())
    assert data.source().key == digest.hexdigest()
    (data._store.path / "decoding.json").unlink()
    meta = data._store.path / "meta.json"
    former = {k: v for k, v in json.loads(meta.read_text()).items() if k not in ("checksums", "checksum")}
    meta.write_text(json.dumps(former))
    caplog.clear()
    assert load(tmp_path, num_classes=2).fingerprint == data.fingerprint
    assert "1 unreadable (1 that an earlier version could not read)" in caplog.text


def test_frames_and_sizes_that_are_lost_or_made_up_are_named(tmp_path, capsys):
    (tmp_path / "root").mkdir()
    frames = [Image.new("L", (4, 4), value) for value in (40, 200)]
    frames[0].save(tmp_path / "root" / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "root" / "b.tif", save_all=True, append_images=frames[1:])
    paint(tmp_path / "root" / "c.png", 40)
    for _ in range(2):  # decoded, and from the cache
        assert set(values(load(tmp_path, resolution=8))) == {40}
        assert capsys.readouterr().out.splitlines() == [
            "3 of 3 images are smaller than 8×8 and enlarged; set data.resolution=4, their size",
            "2 of 3 images have several frames or pages, of which the first is taken",
        ]
