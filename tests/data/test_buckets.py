"""Laws of training on pictures of several proportions: sizes of one area, and batches of one size."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

import runs
from oboro.base.errors import UserError
from oboro.data import ImageFolder, Streaming
from oboro.data.buckets import LONGEST, Bucketed, bucket_sizes, buckets_of
from oboro.data.pack import pack
from oboro.data.shard_copies import Here
from oboro.data.shards import INDEX, Index
from oboro.modality.decode_image import fit, load_image

SIDE, STEP = 32, 8


@pytest.mark.parametrize(("resolution", "step"), [((64, 64), 8), ((1024, 1024), 64), ((48, 64), 16), ((5, 5), 8)])
def test_sizes_are_the_widest_of_the_area(resolution, step):
    area, sizes = resolution[0] * resolution[1], bucket_sizes(resolution, step)
    every = [(h, w) for h in range(step, area + 1, step) for w in range(step, area // h + 1, step)]
    widest = {h: max(w for g, w in every if g == h) for h in {h for h, _ in every}}
    allowed = {(h, w) for h, w in widest.items() if max(h, w) <= LONGEST * min(h, w)}
    allowed |= {(w, h) for h, w in allowed}
    assert sizes[0] == resolution and set(sizes) == allowed | {resolution} and len(set(sizes)) == len(sizes)


def test_a_picture_has_the_nearest_proportions_of_those_with_enough_pictures():
    rng, sizes = np.random.default_rng(0), bucket_sizes((64, 64), 8)
    shapes = rng.integers(20, 200, (500, 2))
    distances = np.abs(np.log(shapes[:, :1] / shapes[:, 1:]) - np.log([h / w for h, w in sizes]))
    assert (distances[range(500), buckets_of(shapes, sizes, 1)] == distances.min(1)).all()
    chosen = buckets_of(shapes, sizes, 40)
    kept = np.unique(chosen)
    assert np.bincount(chosen)[kept].min() >= 40 and 1 < len(kept) < len(sizes)
    assert (distances[range(500), chosen] == distances[:, kept].min(1)).all()
    assert len(np.unique(buckets_of(shapes, sizes, 501))) == 1


def test_an_epoch_has_batches_of_one_bucket_and_each_sample_at_most_once():
    buckets = np.random.default_rng(1).choice(4, 203, p=[0.6, 0.25, 0.1, 0.05])
    order = Bucketed(buckets, 8, seed=3)
    epochs = []
    for epoch in range(3):
        samples = order.part(epoch, 0)[0]
        assert len(samples) == order.size == sum(n // 8 * 8 for n in Counter(buckets.tolist()).values())
        assert len(samples.unique()) == len(samples)
        of_batches = buckets[samples.numpy()].reshape(-1, 8)
        assert (of_batches == of_batches[:, :1]).all()
        assert torch.equal(order.part(epoch, 16)[0], samples[16:])
        epochs.append(samples)
    again = Bucketed(buckets, 8, seed=3)
    assert all(torch.equal(again.part(k, 0)[0], epochs[k]) for k in (2, 0))
    assert len(torch.cat(epochs).unique()) > order.size  # what one epoch leaves out is in another
    firsts = [buckets[epoch[0]] for epoch in epochs] + [buckets[order.part(k, 0)[0][0]] for k in range(3, 12)]
    assert len(set(firsts)) > 1


@pytest.fixture
def packed(tmp_path):
    """60 pictures in shards: half wide, a third square, the others tall, each with a second picture."""
    rng, root, lines = np.random.default_rng(0), tmp_path / "pictures", []
    (root / "edges").mkdir(parents=True)
    for i in range(60):
        height, width = [(40, 80), (50, 51), (90, 60)][(i % 6 > 2) + (i % 6 > 4)]
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{i}.png")
        Image.fromarray(pixels[..., 0]).save(root / "edges" / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"{i}", "conditioning_image": f"edges/{i}.png"}))
    (root / "metadata.jsonl").write_text("\n".join(lines))
    source = ImageFolder(root=str(root), channels=3, resolution=8, hint_channels=1, cache_dir=str(tmp_path / "cache"))
    pack(source, tmp_path / "packed", shard_bytes=100_000)
    return tmp_path / "packed"


def read(packed, **settings):
    settings = {"resolution": SIDE, "buckets": STEP, "validation": 6, "batch_size": 6, "num_workers": 0, **settings}
    data = Streaming(root=str(packed), **settings)
    data.prepare_data()
    data.setup()
    return data


def test_pictures_are_cropped_to_their_size_and_all_else_sees_one_size(packed):
    data, plain = read(packed, flip=True), read(packed, buckets=0)
    seen = Counter()
    for batch, _ in zip(data.train_dataloader(), range(9), strict=False):
        size = tuple(batch["x"].shape[2:])
        assert batch["hint"].shape == (6, 1, *size) and len(batch["flip"]) == 6
        for i, caption, x, hint in zip(batch["index"], batch["caption"], batch["x"], batch["hint"], strict=True):
            assert data.train.captions[int(i)] == caption
            file = packed.parent / "pictures" / f"{caption}.png"
            assert torch.equal(x, torch.tensor(fit(load_image(file), 3, size)))
            assert torch.equal(hint, torch.tensor(fit(load_image(file.parent / "edges" / file.name), 1, size)))
            height, width = Image.open(file).size[::-1]
            assert abs(np.log(height / width * size[1] / size[0])) < 0.35
        seen[size] += 1
    assert set(seen) == {shape[1:] for shape in data.training_shapes} and len(seen) == 3
    assert data.training_shapes[0] == data.modality.shape == (3, SIDE, SIDE)
    assert torch.equal(data.train.samples[:], plain.train.samples[:]) and data.fingerprint == plain.fingerprint
    assert plain.training_shapes == [(3, SIDE, SIDE)]


def test_what_cannot_be_read_in_buckets_says_so(packed):
    with pytest.raises(UserError, match=r"data.batch_size=55 is more than the 54 training pictures"):
        read(packed, batch_size=55).train_dataloader()
    index = Index.from_text(Here(str(packed)).read(INDEX))
    columns = tuple(name for name in index.columns if name != "width")
    (packed / INDEX).write_text(Index(**{**vars(index), "columns": columns}).text())
    with pytest.raises(UserError, match="packed without the sizes"):
        read(packed).train_dataloader()


@pytest.mark.slow
def test_a_run_on_several_sizes_goes_on_where_it_was_cut_and_draws_any_of_them(packed, tmp_path):
    typed = ["data=streaming", f"data.root={packed}", f"data.resolution={SIDE}", f"data.buckets={STEP}", "metrics=[]"]
    typed += ["data.batch_size=6", "data.validation=6", "callbacks=[checkpoints]", "trainer.val_check_interval=5"]
    whole = runs.train(tmp_path / "whole", *typed, "trainer.max_steps=10")
    cut = runs.train(tmp_path / "cut", *typed, "trainer.max_steps=5")
    going_on = runs.outputs(tmp_path / "cut", f"resume={cut.last}", "trainer.max_steps=10")
    runs.succeeded(runs.call("train.py", *going_on, cwd=tmp_path))
    last = torch.load(cut.last, weights_only=False)
    assert runs.equal(last["state_dict"], whole.checkpoint()["state_dict"])
    drawn = runs.outputs(tmp_path / "drawn", f"checkpoint={whole.last}", "size=[24,40]", "n=2", "sampler.steps=2")
    runs.succeeded(runs.call("sample.py", *drawn, cwd=tmp_path))
    for typed_more, said in (
        (["task=autoencoder"], "learns from samples of one size; set data.buckets=0"),
        (["model=dcgan_small", "task=gan"], "takes no samples of"),
    ):
        run = runs.call("train.py", *runs.outputs(tmp_path / "no", *typed, *typed_more), cwd=tmp_path)
        assert run.status != 0 and said in run.stderr and "Traceback" not in run.stderr
