"""Laws of training on pictures of several proportions: sizes of one area, and batches of one size."""

import json
import re
from collections import Counter
from fractions import Fraction

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


@pytest.mark.parametrize(
    ("resolution", "step"), [((64, 64), 8), ((1024, 1024), 64), ((48, 64), 16), ((5, 5), 8), ((50, 50), 16)]
)
def test_sizes_are_the_widest_of_the_area_and_each_of_other_proportions(resolution, step):
    area, sizes = resolution[0] * resolution[1], bucket_sizes(resolution, step)
    every = [(h, w) for h in range(step, area + 1, step) for w in range(step, area // h + 1, step)]
    widest = {h: max(w for g, w in every if g == h) for h in {h for h, _ in every}}
    allowed = {(h, w) for h, w in widest.items() if max(h, w) <= LONGEST * min(h, w)} | {resolution}
    allowed |= {(w, h) for h, w in allowed - {resolution}}
    assert sizes[0] == resolution and set(sizes) <= allowed
    ratios = [Fraction(*size) for size in sizes]
    assert len(set(ratios)) == len(ratios) and set(ratios) == {Fraction(*size) for size in allowed}
    assert all(
        size == resolution or size == max(s for s in allowed if Fraction(*s) == Fraction(*size)) for size in sizes
    )


def test_a_picture_has_the_nearest_proportions_of_those_with_enough_pictures():
    rng, sizes = np.random.default_rng(0), bucket_sizes((50, 50), 8)
    shapes = rng.integers(20, 200, (500, 2))
    distances = np.abs(np.log(shapes[:, :1] / shapes[:, 1:]) - np.log([h / w for h, w in sizes]))
    assert (buckets_of(shapes, sizes, 1) == distances.argmin(1)).all()
    chosen = buckets_of(shapes, sizes, 40)
    kept = np.unique(chosen)
    assert np.bincount(chosen)[kept].min() >= 40 and 1 < len(kept) < len(sizes)
    assert (chosen == kept[distances[:, kept].argmin(1)]).all()


@pytest.mark.parametrize(
    ("least", "counts"),
    [
        (20, {(32, 32): 27, (24, 40): 44, (40, 24): 36}),
        (40, {(32, 32): 63, (24, 40): 44}),  # the first size, in the middle, is kept as long as others fill it
        (50, {(32, 32): 107}),
        (200, {(32, 32): 107}),
    ],
)
def test_sizes_of_too_few_pictures_go_to_the_first(least, counts):
    sizes = bucket_sizes((32, 32), 8)
    shapes = np.array([(30, 30)] * 27 + [(30, 50)] * 44 + [(50, 30)] * 36)
    assert Counter(sizes[k] for k in buckets_of(shapes, sizes, least)) == counts
    without = buckets_of(shapes[27:], sizes, 30)  # where no picture is nearest to it, and others have enough
    assert Counter(sizes[k] for k in without) == {(24, 40): 44, (40, 24): 36}


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


def test_what_is_trained_on_is_said(packed, capsys):
    read(packed).train_dataloader()
    out = capsys.readouterr().out
    assert "training in 3 sizes: " in out and "24×40 (" in out and "an epoch leaves out " in out
    data = read(packed)
    shown = dict(re.findall(r"(\d+×\d+) \(([\d,]+)\)", out))
    of = Counter("×".join(map(str, data.training_sizes[k])) for k in data._buckets)
    assert shown == {name: str(n) for name, n in of.items()}
    assert "enlarged" not in out  # (40, 80) at 24×40 is reduced, as are the others


def test_what_cannot_be_read_in_buckets_says_so(packed):
    with pytest.raises(UserError, match=r"is more than the 54 training pictures; set data.batch_size=54"):
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
        (["model=unet_tiny", "task=gan"], "a discriminator learns from samples of one size; set data.buckets=0"),
        (["conditioner=image", "hint=downsample", "hint.factor=16"], "Downsample is of no pictures of"),
    ):
        run = runs.call("train.py", *runs.outputs(tmp_path / "no", *typed, *typed_more), cwd=tmp_path)
        assert run.status != 0 and said in run.stderr and "Traceback" not in run.stderr
