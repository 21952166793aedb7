import io
import os
import re
import sys

import pytest
import torch
import webdataset
from PIL import Image

from oboro.base.errors import UserError
from oboro.data import WebDataset

TEXTS = ["図 0", "one", "zwei", "three", "čtyři", "пять"]


def encoded(shade, kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (8, 4), (shade,) * 3).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def shard(path, numbers, **more):
    """Samples with the given numbers: picture i is as bright as i."""
    path.parent.mkdir(exist_ok=True)
    with webdataset.TarWriter(str(path)) as tar:
        for i in numbers:
            sample = {"__key__": f"{i:04d}", "png": encoded(i), "txt": TEXTS[i]}
            sample |= {name: make(i) for name, make in more.items()}
            tar.write({name: value for name, value in sample.items() if value is not None})


def load(tmp_path, pattern="shards/*.tar", **keywords):
    keywords = {"validation": 0, "resolution": 4, "cache_dir": str(tmp_path / "cache"), **keywords}
    data = WebDataset(shards=str(tmp_path / pattern), **keywords)
    data.prepare_data()
    data.setup()
    return data


def shades(data):
    return data.train.samples[:][:, 1, 0, 0].tolist()


def test_shards_are_read_in_the_order_of_the_pattern_with_captions_and_classes(tmp_path):
    shard(tmp_path / "shards" / "01.tar", range(3, 6), cls=lambda i: i % 3)
    shard(tmp_path / "shards" / "00.tar", range(3), cls=lambda i: i % 3)
    data = load(tmp_path, num_classes=3)
    assert shades(data) == list(range(6)) and data.train.captions == TEXTS
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    batch = next(iter(data.train_dataloader()))
    assert batch["caption"] == [TEXTS[i] for i in batch["x"][:, 0, 0, 0].tolist()]
    assert shades(load(tmp_path, "shards/{00..01}.tar")) == list(range(6))
    assert shades(load(tmp_path, "shards/{01,00}.tar")) == [3, 4, 5, 0, 1, 2]
    assert shades(load(tmp_path, "shards/01.tar")) == [3, 4, 5]


def test_a_second_picture_stands_beside_the_first_in_a_shard(tmp_path):
    shard(tmp_path / "shards" / "0.tar", range(6), **{"edges.png": lambda i: encoded(100 + i)})
    data = load(tmp_path, hints="edges", hint_channels=1)
    assert torch.equal(data.train.hints["hint"][:], data.train.samples[:][:, :1] + 100) and shades(data) == [*range(6)]
    with pytest.raises(UserError, match=r"has no second picture \.depth\.png or the like, but .*\.edges\.png"):
        load(tmp_path, hints={"edges": "edges", "depth": "depth"})


def test_captions_and_classes_may_be_fields_of_json(tmp_path):
    about = {"json": lambda i: {"caption": TEXTS[i] if i else None, "url": "x", "label": i}, "txt": lambda i: None}
    shard(tmp_path / "shards" / "0.tar", range(4), **about)
    data = load(tmp_path, num_classes=4)
    assert data.train.captions == ["", *TEXTS[1:4]] and data.train.labels.tolist() == [0, 1, 2, 3]
    assert load(tmp_path, caption="url").train.captions == ["x"] * 4
    assert load(tmp_path, caption=None).train.captions is None
    shard(tmp_path / "both" / "0.tar", range(2), json=lambda i: {"caption": "field"})
    assert load(tmp_path, "both/*.tar").train.captions == TEXTS[:2]  # the file comes first


def test_pictures_of_all_formats_are_read_and_other_samples_are_none(tmp_path):
    kinds = [("png", "PNG"), ("webp", "WEBP"), ("jpg", "JPEG"), ("gif", "GIF"), ("tif", "TIFF"), ("mp4", "PNG")]
    (tmp_path / "shards").mkdir()
    with webdataset.TarWriter(str(tmp_path / "shards" / "0.tar")) as tar:
        for i, (suffix, kind) in enumerate(kinds):
            tar.write({"__key__": f"{i}", suffix: encoded(40 * i, kind), "txt": suffix})
    data = load(tmp_path)
    assert data.train.captions == ["png", "webp", "jpg", "gif", "tif"] and shades(data) == [0, 40, 80, 120, 160]


def test_unreadable_pictures_are_named_and_left_out(tmp_path, caplog):
    broken = {"png": lambda i: encoded(i)[:50] if i == 1 else encoded(i)}
    shard(tmp_path / "shards" / "0.tar", range(4), **broken)
    data = load(tmp_path)
    assert re.search(r"left out of the data: 1 unreadable \(0\.tar/0001: ", caplog.text)
    assert shades(data) == [0, 2, 3] and data.train.captions == [TEXTS[0], *TEXTS[2:4]]


def test_classes_are_counted(tmp_path):
    shard(tmp_path / "shards" / "0.tar", range(4), cls=lambda i: i % 3)
    shard(tmp_path / "none" / "0.tar", range(4))
    shard(tmp_path / "some" / "0.tar", range(4), cls=lambda i: i if i else None)
    assert load(tmp_path, num_classes="auto").train.labels.tolist() == [0, 1, 2, 0]
    assert [load(tmp_path, f"{name}/*.tar", num_classes="auto").num_classes for name in ("none", "some")] == [0, 0]


def test_the_cache_follows_the_shards(tmp_path):
    path = tmp_path / "shards" / "0.tar"
    shard(path, range(3))
    first = load(tmp_path).fingerprint
    assert load(tmp_path, seed=3).fingerprint == first
    shard(path, [3, 4, 5])
    os.utime(path, ns=(1, 1))
    assert shades(load(tmp_path)) == [3, 4, 5]


def test_mistakes_name_the_remedy(tmp_path):
    with pytest.raises(UserError, match=r"names no file; set data\.shards='<folder>/\*\.tar'$"):
        load(tmp_path)
    shard(tmp_path / "shards" / "0.tar", range(3), cls=lambda i: i if i < 2 else None)
    with pytest.raises(UserError, match=r"0\.tar/0002 has no class; .* or set data\.num_classes=0$"):
        load(tmp_path, num_classes=2)
    shard(tmp_path / "shards" / "0.tar", range(3), cls=lambda i: i)
    with pytest.raises(UserError, match=r"0\.tar/0002 is of class 2; set data\.num_classes=3 or more$"):
        load(tmp_path, num_classes=2)
    whole = (tmp_path / "shards" / "0.tar").read_bytes()
    (tmp_path / "shards" / "0.tar").write_bytes(whole[:1800])
    with pytest.raises(UserError, match=r"cannot read .*0\.tar: .*; write that shard again or leave it out$"):
        load(tmp_path)
    for content in (b"{", b"[]", b"\xff"):
        shard(tmp_path / "other" / "0.tar", range(2), json=lambda i, content=content: content)
        with pytest.raises(UserError, match=r"cannot read .*0\.tar: .*; write that shard again or leave it out$"):
            load(tmp_path, "other/0.tar")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(UserError, match=r'pip install "oboro\[webdataset\]"$'):
        WebDataset(shards="*.tar").source()
