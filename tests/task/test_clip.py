"""What CLIP's validation makes of the embeddings, against sums over pairs, and where its tokenizer learns."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import runs
from oboro.base.errors import UserError
from oboro.task.clip import distinct

PROMPTS = "task.prompts=[zero,one,two,three,four,five,six,seven,eight,nine]"


@pytest.fixture(scope="module")
def fit() -> tuple:
    """A run of one step: the task after it, with random averages, and the data."""
    trainer, task, data = runs.built(runs.CLIP, PROMPTS, max_steps=1)
    trainer.fit(task, data)
    runs.randomise(task)
    return task, data


def embeddings(n: int, captions: Tensor, normal) -> Tensor:
    """Rows of ``measure``; texts are a function of their caption, and images lie near them."""
    texts = F.normalize(normal(int(captions.max()) + 1, 64))[captions]
    images = F.normalize(texts + 0.6 * normal(n, 64))
    label = torch.arange(n) % 10
    return torch.cat([images, texts, captions[:, None], label[:, None]], 1)


def summary(task, rows: Tensor) -> dict[str, float]:
    """With the averaged weights in place, as validation has them."""
    with task.averaged():
        return task.summary(rows)


def test_retrieval_counts_equal_captions_as_right(fit, normal):
    task, _ = fit
    captions = torch.arange(60) % 23
    rows = embeddings(60, captions, normal)
    image, text = rows[:, :64], rows[:, 64:128]
    found = summary(task, rows)
    for k in (1, 5):
        hits = {"image_to_text": 0, "text_to_image": 0}
        for i in range(60):
            near = sorted(range(23), key=lambda c: -float(image[i] @ text[captions == c][0]))[:k]
            hits["image_to_text"] += int(captions[i]) in near
            near = sorted(range(60), key=lambda j: -float(text[i] @ image[j]))[:k]
            hits["text_to_image"] += any(captions[j] == captions[i] for j in near)
        for way, count in hits.items():
            assert 0 < count < 60
            assert found[f"{way}_r{k}"] == count / 60


def test_the_held_out_loss_is_that_of_training_among_groups(fit, normal, monkeypatch):
    task, _ = fit
    captions = torch.arange(60) % 23
    rows = embeddings(60, captions, normal)
    with torch.no_grad(), task.averaged():
        scale = task.clip.scale().double()
    with torch.no_grad():
        image, text = rows[:, :64], rows[:, 64:128]
        whole = task.loss(image, text, captions[:, None], scale, None).mean().item()
        assert summary(task, rows)["loss"] == pytest.approx(whole, rel=1e-6)
        monkeypatch.setattr("oboro.task.clip.PAIRS", 30)
        parts = summary(task, rows)["loss"]
        assert parts < whole - 0.1 and parts == summary(task, rows)["loss"]  # fewer to be told from, and no new draw
        monkeypatch.setattr("oboro.task.clip.PAIRS", 59)  # one pair is left over
        assert summary(task, rows)["loss"] == pytest.approx(whole, rel=0.05)


def test_zero_shot_is_the_nearest_prompt_of_the_averaged_text_tower(fit, normal):
    task, _ = fit
    with torch.no_grad(), task.averaged():
        prompts = task.clip.encode_text(task.prompts).double()
    with torch.no_grad():
        assert not torch.allclose(prompts, task.clip.encode_text(task.prompts).double(), atol=0.1)
    rows = embeddings(60, torch.arange(60), normal)
    rows[:, :64] = F.normalize(prompts[torch.arange(60) % 10] + 1e-3 * normal(60, 64))
    rows[:15, :64] = F.normalize(prompts[torch.arange(1, 16) % 10])
    assert summary(task, rows)["accuracy"] == 0.75


def test_a_row_is_both_embeddings_the_caption_and_the_label(fit):
    task, data = fit
    task.on_validation_epoch_start()
    index = torch.arange(len(data.validation.samples))
    captions = data.validation.captions
    batch = {"index": index, "label": data.validation.labels, "caption": captions}
    x = torch.rand(len(index), 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        rows = task.measure(batch, x)
        image, text, caption, label = rows.split([64, 64, 1, 1], 1)
        assert torch.equal(image, task.clip.encode_image(x)) and torch.equal(text, task.clip.encode_text(captions))
    same = [[a.lower() == b.lower() for b in captions] for a in captions]
    assert (caption == caption.T).tolist() == same and any(sum(row) > 1 for row in same)
    assert torch.equal(label[:, 0].long(), data.validation.labels)
    assert (task.measure({k: v for k, v in batch.items() if k != "label"}, x)[:, -1] == -1).all()


def test_the_tokenizer_learns_from_the_training_captions_once(fit):
    task, data = fit
    before = task.clip.text.tokenizer.merges.clone()
    expected = type(task.clip.text.tokenizer)(300, 16)
    expected.fit(data.train.captions)
    assert torch.equal(before, expected.merges)
    task.clip.text.tokenizer.fit(["other words"])
    other = task.clip.text.tokenizer.merges.clone()
    task.on_fit_start()
    assert torch.equal(task.clip.text.tokenizer.merges, other)
    task.clip.text.tokenizer.fit(data.train.captions)


def test_of_equal_keys_the_first_is_kept():
    values, first = distinct(torch.tensor([4, 2, 4, 9, 2, 2]))
    assert values.tolist() == [2, 4, 9] and first.tolist() == [1, 0, 3]


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["task.prompts=[a,b]"], "2 prompts for 10 classes"),
        (["loss=siglip"], r"set model\.bias=-10 model\.scale=10"),
        (["model.bias=-10"], r"set model\.bias=null"),
        (["data.resolution=27"], r"multiples of 2 and these are 27×27"),
    ],
)
def test_what_does_not_fit_is_refused(overrides, match):
    _, task, data = runs.built(runs.CLIP, *overrides)
    with pytest.raises(UserError, match=match):
        task.check(data)
