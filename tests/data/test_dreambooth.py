"""Every batch holds both kinds in proportion, and its weighted mean is the loss of the paper."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from oboro.base.errors import UserError
from oboro.data import DreamBooth

THING, KIND = 200, 50  # grey values


@pytest.fixture
def folders(tmp_path):
    """Three images of the thing, and five of its kind with texts as ``sample.py`` writes them."""
    for name, count, grey in (("thing", 3, THING), ("kind", 5, KIND)):
        (tmp_path / name).mkdir()
        for i in range(count):
            pixels = np.full((4, 4), grey + i, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    lines = [json.dumps({"file_name": f"{i}.png", "text": f"a bag {i}"}) for i in range(5)]
    (tmp_path / "kind/metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


@pytest.fixture
def data(folders):
    """``data(prior_share=0.25)``, ready to be read."""

    def data(**changed):
        usual = {"batch_size": 4, "prompt": "a zwx bag", "channels": 1, "resolution": 4}
        paths = {"root": folders / "thing", "prior_root": folders / "kind", "cache_dir": folders / "cache"}
        made = DreamBooth(**{**{k: str(v) for k, v in paths.items()}, **usual, **changed})
        made.prepare_data()
        made.setup()
        return made

    return data


def batches(made, count):
    stream = iter(made.train_dataloader())
    return [next(stream) for _ in range(count)]


@pytest.mark.parametrize(("share", "instances"), [(0.5, 2), (0.25, 3), (0.75, 1)])
def test_every_batch_holds_both_kinds_in_proportion(data, share, instances):
    """Each with its own text, and every image of either as often as the others."""
    made, seen = data(prior_share=share), []
    for batch in batches(made, 60):
        grey = batch["x"].flatten(1).float().mean(1)
        assert (grey >= THING).sum() == instances
        for value, caption in zip(grey.tolist(), batch["caption"], strict=True):
            assert caption == ("a zwx bag" if value >= THING else f"a bag {int(value) - KIND}")
        seen += grey.tolist()
    counts = np.unique(seen, return_counts=True)[1]
    assert len(counts) == 8
    assert counts[:5].max() - counts[:5].min() <= 1 and counts[5:].max() - counts[5:].min() <= 1


@pytest.mark.parametrize(("share", "weight"), [(0.5, 1.0), (0.25, 0.3), (0.75, 2.0)])
def test_the_weighted_mean_is_the_loss_of_the_paper(data, normal, share, weight):
    """mean over instances + lambda mean over prior images, with any loss of each image."""
    (batch,) = batches(data(prior_share=share, prior_weight=weight), 1)
    loss = normal(4)
    thing = batch["x"].flatten(1).float().mean(1) >= THING
    expected = loss[thing].mean() + weight * loss[~thing].mean()
    torch.testing.assert_close((batch["weight"] * loss).mean(), expected, rtol=1e-6, atol=0)


def test_micro_batches_are_the_batch_cut_up(data):
    """Two ranks see what one sees, each with both kinds, at the places that are given; a later start goes on."""
    whole = batches(data(batch_size=8), 4)
    cut, places = [], []
    for rank in range(2):
        made = data(batch_size=8)
        made._place = lambda rank=rank: (2, rank)
        cut.append(batches(made, 4))
        places.append(made.rows(0))
    for k in range(4):
        parts = [rank[k] for rank in cut]
        assert all(sorted(part["weight"].tolist()) == [2.0] * 4 for part in parts)
        assert all((part["x"].flatten(1).float().mean(1) >= THING).sum() == 2 for part in parts)
        for rows, part in zip(places, parts, strict=True):
            assert torch.equal(whole[k]["index"][rows], part["index"])
    assert torch.equal(torch.cat(places).sort().values, torch.arange(8))
    late = data(batch_size=8)
    late._consumed = lambda: 3
    assert torch.equal(batches(late, 1)[0]["index"], whole[3]["index"])


def test_one_text_for_all_prior_images(data):
    captions = {text for batch in batches(data(prior_prompt="a bag"), 5) for text in batch["caption"]}
    assert captions == {"a zwx bag", "a bag"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"prior_share": 0.3}, "change data.batch_size"),
        ({"prior_share": 1.0}, "set a number between 0 and 1"),
        ({"num_classes": 2}, "leave data.num_classes at 0"),
        ({"prior_root": "nowhere"}, "draw images of the kind of thing with sample.py"),
        ({"validation": 7}, "set data.validation=0"),
    ],
)
def test_what_does_not_go_is_said(data, changed, said):
    with pytest.raises(UserError, match=said):
        batches(data(**changed), 1)


def test_prior_images_need_texts(data, folders):
    (folders / "kind/metadata.jsonl").unlink()
    with pytest.raises(UserError, match=r"set data\.prior_prompt to one for all"):
        data()
