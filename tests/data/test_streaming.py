"""Laws of packed folders: what comes out is what went in, in an order that is fixed, wherever the folder lies."""

import functools
import http.server
import io
import json
import shutil
import threading
from contextlib import suppress
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

import runs
from data import test_hugging_face, test_web_dataset
from oboro.base.errors import UserError
from oboro.data import Block, DataModule, HuggingFace, ImageData, ImageFolder, Source, Streaming, Textures, WebDataset
from oboro.data.pack import pack
from oboro.data.shard_files import Rows
from oboro.modality.decode_image import fit, load_image

SIDE = 16


def prepared(data: DataModule):
    data.prepare_data()
    data.setup()
    return data


@pytest.fixture
def folder(tmp_path):
    """A folder of 40 pictures of several sizes and kinds, with classes by name, captions and a second picture each."""
    rng, lines = np.random.default_rng(0), []
    root = tmp_path / "pictures"
    (root / "edges").mkdir(parents=True)
    for i in range(40):
        height, width = rng.integers(20, 70, 2)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        name = f"{i}.{('png', 'jpg', 'webp')[i % 3]}"
        Image.fromarray(pixels).save(root / name)
        Image.fromarray(pixels[..., 0]).resize((2 * width, 2 * height)).save(root / "edges" / f"{i}.png")
        line = {"file_name": name, "text": f"picture {i}", "label": ("cat", "dog", "owl")[i % 3]}
        lines.append(json.dumps({**line, "conditioning_image": f"edges/{i}.png"}))
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return root


def source(folder, tmp_path, **settings):
    settings = {"resolution": SIDE, "channels": 3, "num_classes": 3, "validation": 0, "hint_channels": 1, **settings}
    return ImageFolder(root=str(folder), cache_dir=str(tmp_path / "cache"), **settings)


def packed(data, place, **settings):
    pack(data, place, shard_bytes=settings.pop("shard_bytes", 15_000))
    return streaming(place, **settings)


def streaming(place, **settings):
    settings = {"resolution": SIDE, "validation": 0, "batch_size": 8, "num_workers": 0, **settings}
    settings.setdefault("cache_dir", str(place.parent / "cache") if hasattr(place, "parent") else None)
    return Streaming(root=str(place), **settings)


def rows_of(data):
    """What each sample of training is, in an order that does not depend on how it is stored."""
    part = data.train
    rows = []
    for i in range(len(part)):
        pictures = [part.samples[i], *(part.hints[entry][i] for entry in sorted(part.hints))]
        label = None if part.labels is None else int(part.labels[i])
        caption = None if part.captions is None else part.captions[i]
        rows.append((caption or "", label or 0, *(picture.numpy().tobytes() for picture in pictures)))
    return sorted(rows)


def test_what_is_decoded_from_shards_is_what_the_cache_of_the_folder_holds(folder, tmp_path):
    data = prepared(packed(source(folder, tmp_path), tmp_path / "packed"))
    assert len(data._index.shards) > 3
    assert rows_of(data) == rows_of(prepared(source(folder, tmp_path)))
    assert data.kinds == ("cat", "dog", "owl")
    assert data.hint_modalities["hint"].shape == (1, SIDE, SIDE)


@pytest.mark.parametrize("kind", ["web_dataset", "hugging_face"])
def test_other_encoded_sources_are_packed_as_they_are(kind, tmp_path, monkeypatch):
    settings = {"cache_dir": str(tmp_path / "cache"), "resolution": 4, "channels": 3, "validation": 0}
    if kind == "web_dataset":
        test_web_dataset.shard(tmp_path / "shards" / "0.tar", range(6), cls=lambda i: i % 3)
        data = WebDataset(shards=str(tmp_path / "shards" / "*.tar"), num_classes=3, **settings)
    else:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
        test_hugging_face.table().save_to_disk(str(tmp_path / "one"))
        data = HuggingFace(path=str(tmp_path / "one"), label="label", num_classes=3, **settings)
    there = prepared(packed(data, tmp_path / "packed", resolution=4))
    assert rows_of(there) == rows_of(prepared(data))
    files = [bytes(there.train.samples.shards.picture("image", i)[0]) for i in range(6)]
    assert sorted(files) == sorted(test_web_dataset.encoded(i) for i in range(6))


class Drawn(ImageData):
    """A source of decoded pictures with all that a source can have, in two blocks."""

    def source(self):
        def block(seed):
            rng = np.random.default_rng(seed)
            hints = {name: rng.integers(0, 256, (30, 3, SIDE, SIDE), dtype=np.uint8) for name in ("before", "depth")}
            pixels = rng.integers(0, 256, (30, self.modality.shape[0], SIDE, SIDE), dtype=np.uint8)
            groups = np.arange(30) // 7 + 10 * seed
            return Block(pixels, np.arange(30) % 2, [f"{seed} {i}" for i in range(30)], groups, hints)

        return Source("1", 2, lambda: map(block, range(2)), names=("odd", "even"))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sources_of_decoded_pictures_are_packed_without_loss(channels, tmp_path):
    cache = {"cache_dir": str(tmp_path / "cache"), "resolution": SIDE, "validation": 0}
    data = Drawn(channels=channels, num_classes=2, **cache)
    there = prepared(packed(data, tmp_path / "packed", channels=channels))
    assert rows_of(there) == rows_of(prepared(data))


def test_sources_that_divide_themselves_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"Textures says itself what is for training .*keep it as it is"):
        pack(Textures(cache_dir=str(tmp_path / "cache"), resolution=32), tmp_path / "packed")


def test_an_order_is_shuffled_and_the_same_for_a_seed(folder, tmp_path):
    indices = [pack(source(folder, tmp_path), tmp_path / f"{k}", seed=k // 2, shard_bytes=15_000) for k in range(3)]
    assert indices[0].fingerprint == indices[1].fingerprint != indices[2].fingerprint
    captions = [*prepared(streaming(tmp_path / "0")).train.captions]
    assert captions != sorted(captions) and sorted(captions) == sorted(f"picture {i}" for i in range(40))


def test_large_pictures_are_reduced_once_and_small_ones_kept(folder, tmp_path):
    index = pack(source(folder, tmp_path), tmp_path / "packed", side=32)
    shards = prepared(streaming(tmp_path / "packed")).train.samples.shards
    sizes = {Image.open(io.BytesIO(shards.picture("image", i)[0])).size for i in range(40)}
    assert max(min(size) for size in sizes) == 32 and min(min(size) for size in sizes) < 32
    assert {size[::-1] for size in sizes} == set(index.shapes.sizes)
    data = prepared(streaming(tmp_path / "packed"))
    for i in range(40):  # the same picture, and a second one that is cropped like it
        name = f"{data.train.captions[i].split()[1]}"
        (file,) = folder.glob(f"{name}.*")
        expected = fit(load_image(file), 3, (SIDE, SIDE)).astype(float)
        assert np.abs(data.train.samples[i].numpy() - expected).mean() < 8  # two Lanczos filters in place of one
        grey = fit(load_image(folder / "edges" / f"{name}.png"), 1, (SIDE, SIDE)).astype(float)
        assert np.abs(data.train.hints["hint"][i].numpy() - grey).mean() < 8


def test_what_cannot_be_read_is_left_out_and_too_much_of_it_refused(folder, tmp_path):
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:200])
    data = prepared(packed(source(folder, tmp_path), tmp_path / "packed"))
    assert len(data.train) == 39
    assert (tmp_path / "packed" / "left_out.txt").read_text().startswith("3.png\tunreadable\t")
    with pytest.raises(UserError, match="1 of 40 images cannot be read: 1 unreadable"):
        pack(source(folder, tmp_path, max_unreadable=0), tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir() if "other" in path.name] == []


def test_held_out_pictures_are_the_last_and_groups_stay_together(folder, tmp_path):
    data = prepared(packed(source(folder, tmp_path), tmp_path / "packed", validation=8, test=4))
    rows = [part.samples.rows.tolist() for part in (data.train, data.test, data.validation)]
    assert rows == [list(range(28)), list(range(28, 32)), list(range(32, 40))]

    drawn = Drawn(cache_dir=str(tmp_path / "cache"), resolution=SIDE)
    there = prepared(packed(drawn, tmp_path / "groups", validation=20))
    of = there._store.groups
    assert 0 < len(there.validation) <= 20
    assert not set(of[there.train.samples.rows]) & set(of[there.validation.samples.rows])


def test_batches_are_those_of_the_order_in_any_number_of_workers(folder, tmp_path):
    place = tmp_path / "packed"
    pack(source(folder, tmp_path), place, shard_bytes=15_000)
    runs = []
    for workers in (0, 2):
        data = prepared(streaming(place, window=2, flip=True, num_workers=workers))
        runs.append([batch for batch, _ in zip(data.train_dataloader(), range(12), strict=False)])
    for one, other in zip(*runs, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in ("index", "x", "hint", "label", "flip"))
        assert one["caption"] == other["caption"]
    indices = torch.cat([batch["index"] for batch in runs[0]])
    assert torch.equal(indices[:40].sort().values, torch.arange(40))


@pytest.mark.parametrize("place", ["https://host/shards", "data=image_folder"])
def test_shards_are_written_to_a_folder(place, tmp_path):
    run = runs.call("oboro", "shards", place, "data=image_folder", "data.root=.", cwd=tmp_path)
    assert run.status == 1 and ("is an address" in run.stderr or "give the folder to write, then" in run.stderr)
    assert not [*tmp_path.iterdir()]


def served(folder):
    """The address of a server of ``folder``, and what was fetched from it."""
    fetched = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            fetched.append(self.path.strip("/"))
            super().do_GET()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}", fetched, server


@pytest.fixture
def elsewhere(folder, tmp_path):
    pack(source(folder, tmp_path), tmp_path / "packed", shard_bytes=15_000)
    address, fetched, server = served(tmp_path / "packed")
    yield address, fetched
    server.shutdown()
    server.server_close()


def test_shards_elsewhere_are_copied_once_and_give_the_same_batches(elsewhere, tmp_path):
    address, fetched = elsewhere
    here = prepared(streaming(tmp_path / "packed", window=2))
    there = prepared(streaming(address, window=2, num_workers=2, cache_dir=str(tmp_path / "far")))
    for one, other, _ in zip(here.train_dataloader(), there.train_dataloader(), range(10), strict=False):
        assert torch.equal(one["x"], other["x"]) and one["caption"] == other["caption"]
    shards = [name for name in fetched if name.endswith(".arrow")]
    assert sorted(set(shards)) == sorted(shards) == [*(s.name for s in here._index.shards), "known.arrow"]


def held(folder) -> int:
    """Bytes of the copies in ``folder``; one that goes while they are counted is none."""
    sizes = []
    for path in folder.rglob("*.arrow"):
        with suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    return sum(sizes)


def test_copies_stay_within_their_bound(elsewhere, tmp_path):
    address, fetched = elsewhere
    data = streaming(address, window=1, copies=100e-6, cache_dir=str(tmp_path / "far"))
    with pytest.raises(UserError, match=r"data.copies=0.0001 GB do not hold .*; set data.copies=0.000\d+ or more"):
        prepared(streaming(address, window=4, copies=100e-6, cache_dir=str(tmp_path / "far")))
    prepared(data)
    most = 0
    for _ in zip(data.train_dataloader(), range(15), strict=False):
        most = max(most, held(tmp_path / "far"))
    assert 50_000 < most <= 100_000
    assert len(fetched) > len(data._index.shards) + 2  # three epochs: some came twice


def test_what_is_damaged_is_named_and_never_trained_on(folder, tmp_path):
    place = tmp_path / "packed"
    index = pack(source(folder, tmp_path), place)
    (shard,) = index.shards
    data = prepared(streaming(place))
    rows, file = Rows(place / shard.name), (place / shard.name).read_bytes()
    picture = rows.column("image", 11).as_py()
    at = file.index(picture) + len(picture) // 2
    (place / shard.name).write_bytes(file[:at] + bytes([file[at] ^ 1]) + file[at + 1 :])
    assert len(data.train.samples[[10, 12]]) == 2
    with pytest.raises(UserError, match=r"row 11 of .*/packed/00000.arrow is damaged \(its checksum is wrong"):
        prepared(streaming(place)).train.samples[[11]]
    (place / shard.name).write_bytes(file[:-100])
    with pytest.raises(UserError, match=r"00000.arrow is damaged \(it has .* bytes and had"):
        prepared(streaming(place)).train.samples[[0]]
    (place / shard.name).unlink()
    with pytest.raises(UserError, match=r"00000.arrow is damaged \(it is missing"):
        prepared(streaming(place)).train.samples[[0]]
    known = (place / "known.arrow").read_bytes()
    (place / "known.arrow").write_bytes(known.replace(b"picture 7", b"picture 8"))
    with pytest.raises(UserError, match=r"known.arrow is damaged \(its checksum is wrong"):
        prepared(streaming(place))
    (place / "index.json").write_text((place / "index.json").read_text().replace("cat", "rat"))
    with pytest.raises(UserError, match=r"index.json of .* cannot be read .*checksum"):
        streaming(place).num_classes  # noqa: B018
    (place / "index.json").unlink()
    with pytest.raises(UserError, match=r"has no index.json; pack pictures with `python -m oboro.data.pack`"):
        streaming(place).num_classes  # noqa: B018


def test_a_copy_that_is_another_file_is_refused(elsewhere, tmp_path):
    address, _ = elsewhere
    file = tmp_path / "packed" / "00000.arrow"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    data = prepared(streaming(address, cache_dir=str(tmp_path / "far")))
    with pytest.raises(UserError, match=r"00000.arrow is not what index.json there says it is"):
        data.train.samples[:]
    assert not list((tmp_path / "far").rglob("*.tmp"))


def test_a_damaged_copy_is_fetched_again(elsewhere, tmp_path):
    address, fetched = elsewhere
    cache = {"cache_dir": str(tmp_path / "far")}
    whole = prepared(streaming(address, **cache)).train
    rows = whole.samples[:], [*whole.captions]
    for path in (tmp_path / "far").rglob("*.arrow"):
        content = bytearray(path.read_bytes())
        content[1000:1400] = bytes(400)
        path.write_bytes(content)
    again = prepared(streaming(address, **cache)).train
    assert torch.equal(again.samples[:], rows[0]) and [*again.captions] == rows[1]
    assert fetched.count("known.arrow") == 2 and fetched.count("00000.arrow") == 2


def test_what_is_packed_anew_to_an_address_is_what_is_read(elsewhere, folder, tmp_path):
    address, _ = elsewhere
    cache = {"cache_dir": str(tmp_path / "far")}
    before = prepared(streaming(address, **cache)).train
    pictures = before.samples[:]
    lines = (folder / "metadata.jsonl").read_text()
    (folder / "metadata.jsonl").write_text(lines.replace("cat", "now").replace("dog", "cat").replace("now", "dog"))
    shutil.rmtree(tmp_path / "packed")
    pack(source(folder, tmp_path), tmp_path / "packed", shard_bytes=15_000)
    after = prepared(streaming(address, **cache)).train
    assert torch.equal(pictures, after.samples[:])
    exchanged = torch.tensor([1, 0, 2])[before.labels]
    assert torch.equal(after.labels, exchanged) and not torch.equal(after.labels, before.labels)


def test_an_address_without_a_folder_says_so(tmp_path):
    address, _, server = served(tmp_path)
    with pytest.raises(UserError, match=r"cannot read http://127.0.0.1:\d+/index.json: .*; correct data.root"):
        streaming(address, cache_dir=str(tmp_path / "far")).num_classes  # noqa: B018
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_run_goes_on_where_it_was_cut_and_measures_against_the_shards(folder, tmp_path):
    root, typed = tmp_path / "packed", ["shards", "packed", "data=image_folder", f"data.root={folder}"]
    runs.succeeded(runs.call("oboro", *typed, "data.hint_channels=1", "--megabytes", "0.015", cwd=tmp_path))
    typed = ["data=streaming", f"data.root={root}", "data.window=2", "data.validation=8", f"data.resolution={SIDE}"]
    typed += ["extractor=raw", "metrics=[frechet]", "callbacks=[sample_metrics,checkpoints]"]
    typed += ["trainer.val_check_interval=3"]
    whole = runs.train(tmp_path / "whole", *typed, "trainer.max_steps=12", "data.num_workers=0")
    cut = runs.train(tmp_path / "cut", *typed, "trainer.max_steps=9")
    typed = runs.outputs(tmp_path / "cut", f"resume={cut.last}", "trainer.max_steps=12")
    again = replace(runs.succeeded(runs.call("train.py", *typed, cwd=tmp_path)), folder=cut.folder)
    assert all(runs.equal(again.checkpoint()[key], whole.checkpoint()[key]) for key in ("state_dict", "global_step"))
    assert again.logged("fd_raw_20")[12] == whole.logged("fd_raw_20")[12]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["data=series", "data.path=x.npy"], "error: series are numbers and no files"),
        (["data=image_folder", "data.root=nowhere"], "nowhere does not exist; set data.root=<folder of images>"),
        (["data=imagefolder"], "Did you mean data=image_folder?"),
        (["data.root=cls"], "which data? add data=image_folder"),
        (["data=image_folder", "data.rot=."], "Did you mean data.root?"),
        (["data=streaming", "data.root=shards"], "is packed already"),
        (["data=textures"], "error: Textures says itself what is for training"),
        (["data=image_folder", "data.root=.", "--side", "0"], "argument --side: 0 is not above 0"),
    ],
)
def test_mistakes_of_packing_end_in_a_line(typed, said, tmp_path):
    run = runs.call("oboro", "shards", "packed", *typed, cwd=tmp_path)
    assert run.status != 0 and said in run.stderr and "Traceback" not in run.stderr
    assert not (tmp_path / "packed").exists()
