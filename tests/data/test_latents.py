import pickle

import numpy as np
import pytest
import torch
from torch import nn

from oboro.base.errors import UserError
from oboro.data.cache import Block, SampleArray, build
from oboro.data.computed import compute_together
from oboro.data.latents import Latents, cache_latents, module_digest
from oboro.modality import Image, from_uint8
from oboro.model import CLIPText

IMAGES = np.random.default_rng(0).integers(0, 256, (23, 3, 8, 8), dtype=np.uint8)


class Halving(nn.Module):
    """A codec with weights that counts what it is asked."""

    def __init__(self, seed=0):
        super().__init__()
        weight = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(weight)
        self.register_buffer("shift", torch.zeros(1))
        self._asked = []

    @property
    def asked(self):
        return sum(self._asked)

    def encode(self, x):
        self._asked.append(len(x))
        return nn.functional.conv2d(x, self.weight, stride=2) + self.shift

    def latent_shape(self, shape):
        return (2, shape[1] // 2, shape[2] // 2)


@pytest.fixture
def images(tmp_path):
    cached = build(tmp_path / "data", iter([Block(IMAGES)]))
    return SampleArray(cached, np.arange(1, 23))


def cached(images, codec, tmp_path, flips=False, chunk=5):
    where = {"folder": tmp_path / "latents", "device": torch.device("cpu")}
    return cache_latents(images, Image(3, 8, 8), codec, flips=flips, chunk=chunk, **where)


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_they_are_what_the_codec_gives_mirrored_or_not(images, tmp_path, chunk):
    codec = Halving()
    latents = cached(images, codec, tmp_path, flips=True, chunk=chunk)
    index, flip = torch.tensor([21, 0, 3, 3]), torch.tensor([True, False, True, False])
    x = from_uint8(images[index])
    expected = codec.encode(torch.where(flip[:, None, None, None], x.flip(-1), x))
    torch.testing.assert_close(latents(index, flip), expected)
    torch.testing.assert_close(latents(index, None), codec.encode(x))


def test_they_are_computed_once_for_each_codec_and_each_set_of_images(images, tmp_path):
    codec = Halving()
    first = cached(images, codec, tmp_path)
    asked = codec.asked
    assert cached(images, codec, tmp_path).path == first.path and codec.asked == asked > 0
    other = cached(images, Halving(1), tmp_path)
    with torch.no_grad():
        codec.shift += 1  # a buffer, such as the statistics of latents, is a part of the codec
    shifted = cached(images, codec, tmp_path)
    fewer = cached(SampleArray(build(tmp_path / "b", iter([Block(IMAGES[:9])])), np.arange(9)), codec, tmp_path)
    both = cached(images, codec, tmp_path, flips=True)
    assert len({latents.path for latents in (first, other, shifted, fewer, both)}) == 5
    torch.testing.assert_close(shifted(torch.arange(22), None), first(torch.arange(22), None) + 1)


def test_a_failure_leaves_nothing(images, tmp_path):
    class Broken(Halving):
        def encode(self, x):
            if self.asked:
                raise RuntimeError("stop")
            return super().encode(x)

    with pytest.raises(RuntimeError, match="stop"):
        cached(images, Broken(), tmp_path)
    assert list((tmp_path / "latents").iterdir()) == []


def test_a_full_disk_is_said_before_anything_is_computed(images, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100}))
    codec = Halving()
    with pytest.raises(UserError, match=r"set data\.cache_dir="):
        cached(images, codec, tmp_path)
    assert codec.asked == 0


def test_a_copy_in_a_worker_maps_the_file_itself(images, tmp_path):
    latents = cached(images, Halving(), tmp_path)
    index = torch.tensor([4, 2])
    before = latents(index, None)
    copy = pickle.loads(pickle.dumps(latents))
    assert len(pickle.dumps(latents)) < 1000
    assert isinstance(copy, Latents) and torch.equal(copy(index, None), before)


def test_a_digest_tells_structure_weights_and_buffers_apart():
    codec = Halving()
    digests = [module_digest(m) for m in (codec, Halving(1), nn.Conv2d(3, 2, 2), nn.Conv2d(3, 2, 2, stride=2).eval())]
    assert len(set(digests)) == 4 and module_digest(Halving()) == digests[0]


def test_a_digest_tells_what_is_in_no_weight():
    """Equal weights with another number of heads, or another activation, compute something else."""
    shape = {"vocab_size": 4, "length": 3, "dim": 8, "depth": 1, "mlp_dim": 8, "tokenizer_bytes": 1, "end": 1, "pad": 0}
    digests = set()
    for heads, quick_gelu in ((2, True), (4, True), (2, False), (2, True)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            digests.add(module_digest(CLIPText(heads=heads, quick_gelu=quick_gelu, **shape)))
    assert len(digests) == 3


def test_a_damaged_file_is_written_again(images, tmp_path):
    latents = cached(images, Halving(), tmp_path)
    expected = latents(torch.arange(22), None)
    content = latents.path.read_bytes()
    flipped = [content[:k] + bytes([content[k] ^ 2]) + content[k + 1 :] for k in (12, 90, len(content) // 2, -1)]
    for damaged in (content[:200], content[:-4], *flipped):
        latents.path.write_bytes(damaged)
        assert torch.equal(cached(images, Halving(), tmp_path)(torch.arange(22), None), expected)
    latents.path.write_bytes(content[: -4 * (22 + 1)])  # an earlier version wrote no checksums
    assert torch.equal(cached(images, Halving(), tmp_path)(torch.arange(22), None), expected)


def test_a_damaged_latent_of_a_large_file_ends_the_run_and_is_computed_anew_by_the_next(images, tmp_path, monkeypatch):
    monkeypatch.setattr("oboro.base.checksums.AT_ONCE", 0)
    latents = cached(images, Halving(), tmp_path, flips=True)
    index, mirrored = torch.tensor([7, 8]), torch.tensor([True, True])
    expected = latents(index, mirrored)
    with latents.path.open("r+b") as file:
        file.seek(128 + 4 * 2 * 4 * 4 * (22 + 8))
        file.write(b"\0\0")
    late = cached(images, Halving(), tmp_path, flips=True)
    assert torch.equal(late(index[:1], mirrored[:1]), expected[:1])
    with pytest.raises(UserError, match=r"row 30 is not what was written\); start again"):
        late(index, mirrored)
    assert torch.equal(cached(images, Halving(), tmp_path, flips=True)(index, mirrored), expected)
    assert len(list((tmp_path / "latents").iterdir())) == 1


def test_a_file_that_another_process_does_not_see_is_said(tmp_path):
    with pytest.raises(UserError, match=r"set data\.cache_dir=<a folder that all nodes share>"):
        compute_together(tmp_path / "a", lambda: False, lambda partial: None, lambda partial: None)
    assert not list(tmp_path.iterdir())
