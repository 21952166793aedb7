from collections import Counter

import pytest
import torch

from oboro.data import FashionCaptions, FashionMNIST
from oboro.data.fashion_captions import NAMES, TEMPLATES, caption


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The embedded images with and without captions."""
    made = []
    for cls in (FashionCaptions, FashionMNIST):
        data = cls(part="test", cache_dir=str(tmp_path_factory.mktemp("cache")), validation=500, seed=3)
        data.prepare_data()
        data.setup()
        made.append(data)
    return made


def classes_of(sentence):
    """The classes that could have this caption."""
    return {i for i, names in enumerate(NAMES) for name in names for t in TEMPLATES if t.format(name) == sentence}


def test_pictures_labels_and_split_are_those_without_captions(both):
    captioned, plain = both
    assert torch.equal(captioned.train.samples[:], plain.train.samples[:])
    assert torch.equal(captioned.validation.labels, plain.validation.labels)
    assert plain.train.captions is None and captioned.fingerprint != plain.fingerprint


def test_every_caption_names_the_class_of_its_picture_and_no_other(both):
    captioned, _ = both
    meant = {sentence: classes_of(sentence) for sentence in set(captioned.train.captions)}
    for sentence, label in zip(captioned.train.captions, captioned.train.labels.tolist(), strict=True):
        assert meant[sentence] == {label}
    batch = next(iter(captioned.val_dataloader()))
    assert [meant[sentence] for sentence in batch["caption"]] == [{label} for label in batch["label"].tolist()]


def test_the_wording_is_a_function_of_the_row_and_uniform():
    sentences = [caption(row, 7) for row in range(64_000)]
    assert sentences[:100] == [caption(row, 7) for row in range(100)]
    counts = Counter(sentences)
    expected = len(sentences) / (len(TEMPLATES) * len(NAMES[7]))
    assert len(counts) == len(TEMPLATES) * len(NAMES[7])
    chi2 = sum((count - expected) ** 2 / expected for count in counts.values())
    assert 10 < chi2 < 65  # 31 degrees of freedom: 1e-4 and 3e-4


def test_the_row_counts_over_blocks(both):
    captioned, plain = both
    whole = FashionMNIST(part="test", cache_dir=str(plain.cache_dir), validation=0)
    whole.setup()
    row_of = {image.numpy().tobytes(): row for row, image in enumerate(whole.train.samples[:])}
    assert len(row_of) == 10_000
    held_out = [row_of[image.numpy().tobytes()] for image in captioned.validation.samples[:]]
    labels = whole.train.labels[held_out].tolist()
    assert max(held_out) > 9000
    assert captioned.validation.captions == [caption(row, i) for row, i in zip(held_out, labels, strict=True)]


def test_prompts_are_captions_of_their_class():
    assert len(FashionCaptions.classes) == 10
    for i, (kind, prompt) in enumerate(zip(FashionCaptions.classes, FashionCaptions.prompts, strict=True)):
        assert classes_of(prompt) == {i} and prompt.endswith(kind)
    assert FashionCaptions.prompts[0] == "a photo of a t-shirt"
