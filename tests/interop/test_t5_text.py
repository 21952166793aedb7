"""The encoder of a T5 of transformers says here what it says there."""

import json
import shutil
import sys

import pytest
import torch
from hydra.utils import instantiate

from interop.tiny import t5, t5_tokenizer, transformers
from oboro.base.errors import UserError
from oboro.conditioner import PublishedEmptyText, PublishedT5
from oboro.edit.words import read_words
from oboro.interop.weights import read_tensors

TEXTS = ["a dog", "", "two cats, the dog and a cat", "the"]
AWKWARD = [
    "",
    " ",
    "  two\t spaces \n and lines\r\n",
    "A Dog",
    "ﬁve ① Ａ",  # ligature, circled and wide: what NFKC changes
    "dog 👟 é e\u0301 \u200b \u00a0x",
    "</s> dog <pad>",
    "<extra_id_0> cat<extra_id_1>",
    "a▁dog",
    "dog" * 40,
]


def save(folder, model, **settings):
    model.save_pretrained(folder, **settings)
    return t5_tokenizer(folder)


def read(folder, length=9):
    config, state = PublishedT5(str(folder), length).load()
    encoder = instantiate(config).eval()
    encoder.load_state_dict(state)
    return encoder


def theirs(model, words, texts, length):
    rows = words(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    return model(**rows).last_hidden_state, rows


@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu"])
def test_the_tokens_are_those_of_transformers(feed_forward, tmp_path):
    model = t5(feed_forward_proj=feed_forward)
    words = save(tmp_path, model)
    encoder = read(tmp_path)
    with torch.no_grad():
        tokens, mask, pooled = encoder.encode_tokens(TEXTS)
    said, rows = theirs(model, words, TEXTS, 9)
    assert torch.equal(encoder.tokenize(TEXTS)[0], rows.input_ids)
    assert torch.equal(mask, rows.attention_mask.bool()) and 0 < mask.sum() < mask.numel()
    assert encoder.lengths(TEXTS) == mask.sum(1).tolist()
    assert encoder.unread(["a dog", "a dog the cat dog cat a dog"]) == ["", "dog cat a dog"]
    torch.testing.assert_close(tokens, said, rtol=1e-5, atol=1e-5)
    for i, row in enumerate(said):
        torch.testing.assert_close(pooled[i], row[mask[i]].mean(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (12, 20), (8, 64)])
def test_long_texts_reach_every_bucket(buckets, farthest, tmp_path):
    """300 tokens: beyond the last boundary in both directions."""
    model = t5(relative_attention_num_buckets=buckets, relative_attention_max_distance=farthest)
    words = save(tmp_path, model)
    text = "a dog the cat, two " * 60
    encoder = read(tmp_path, 300)
    ids, mask = encoder.tokenize([text])
    assert mask.all()
    with torch.no_grad():
        found = encoder(ids, mask)
    torch.testing.assert_close(found, theirs(model, words, [text], 300)[0], rtol=1e-5, atol=1e-5)


def test_what_follows_a_text_does_not_reach_it(tmp_path):
    save(tmp_path, t5())
    encoder = read(tmp_path)
    with torch.no_grad():
        ids, mask = encoder.tokenize(["a dog"])
        before = encoder(ids, mask)[mask]
        after = encoder(torch.where(mask, ids, 7), mask)[mask]
        seen = encoder(torch.where(mask, ids, 7), torch.ones_like(mask))[mask]
    assert torch.equal(before, after) and not torch.allclose(before, seen, atol=1e-2)


@pytest.mark.parametrize("length", [1, 3, 40])
def test_any_text_is_cut_and_padded_as_transformers_does(length, tmp_path):
    words = save(tmp_path, t5())
    ids, mask = read(tmp_path, length).tokenize(AWKWARD)
    rows = words(AWKWARD, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    assert torch.equal(ids, rows.input_ids) and torch.equal(mask, rows.attention_mask.bool())
    assert mask.any(1).all()  # the end of the text at least


def spiece(folder):
    """A real SentencePiece model with T5's marks and normaliser."""
    sentencepiece = pytest.importorskip("sentencepiece")
    lines = ["a dog and the cat", "two cats, the dog", "five of a kind", "spaces and lines, 1 A"] * 4
    (folder / "lines.txt").write_text("\n".join(lines))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "lines.txt"),
        model_prefix=str(folder / "spiece"),
        vocab_size=31,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))


def test_a_folder_with_spiece_model_alone_is_read_through_transformers(tmp_path, monkeypatch):
    t5(vocab_size=140).save_pretrained(tmp_path)
    pieces = spiece(tmp_path)
    encoder, words = read(tmp_path, 64), transformers.T5Tokenizer.from_pretrained(tmp_path)
    for text in AWKWARD:
        ids, mask = encoder.tokenize([text])
        assert ids[mask].tolist() == words(text, truncation=True, max_length=64).input_ids
    for text in ("a dog", "ﬁve ① Ａ", "spaces  and the cat"):
        ids, mask = encoder.tokenize([text])
        assert ids[mask].tolist() == [*pieces.encode(text), 1]
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UserError, match=r'pip install "oboro\[t5\]"'):
        PublishedT5(str(tmp_path)).load()


def test_a_whole_t5_gives_its_encoder_and_its_decoder_is_not_read(tmp_path):
    model = t5("T5ForConditionalGeneration")
    words = save(tmp_path, model)
    with torch.no_grad():
        found = read(tmp_path).encode_tokens(TEXTS)[0]
    torch.testing.assert_close(found, theirs(model.encoder, words, TEXTS, 9)[0], rtol=1e-5, atol=1e-5)
    names = []
    read_tensors(tmp_path / "model.safetensors", lambda name: names.append(name) or False)
    assert any(name.startswith("decoder.") for name in names)


def as_shards(folder, state):
    half = len(state) // 2
    for i, names in enumerate((list(state)[:half], list(state)[half:])):
        torch.save({name: state[name] for name in names}, folder / f"pytorch_model-{i}.bin")
    index = {name: f"pytorch_model-{int(i >= half)}.bin" for i, name in enumerate(state)}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))


@pytest.mark.parametrize("layout", ["shards", "pickle", "pickles", "tied", "pipeline"])
def test_weights_may_lie_in_other_files(layout, tmp_path):
    model = t5()
    save(tmp_path / "plain", model)
    folder = tmp_path / "other"
    shutil.copytree(tmp_path / "plain", folder)
    state = model.state_dict()
    if layout == "pipeline":
        shutil.copytree(folder, folder / "text_encoder")
        (folder / "tokenizer").mkdir()
        for name in ("model.safetensors", "config.json", "text_encoder/tokenizer.json"):
            (folder / name).unlink()
        (folder / "tokenizer.json").rename(folder / "tokenizer/tokenizer.json")
    else:
        (folder / "model.safetensors").unlink()
    if layout == "shards":
        model.save_pretrained(folder, max_shard_size="2KB")
        assert (folder / "model.safetensors.index.json").is_file()
    elif layout == "pickle":
        torch.save(state, folder / "pytorch_model.bin")
    elif layout == "pickles":
        as_shards(folder, state)
    elif layout == "tied":
        state.pop("shared.weight")
        torch.save(state, folder / "pytorch_model.bin")
        assert "encoder.embed_tokens.weight" in state
    (config, found), (expected, wanted) = (PublishedT5(str(place)).load() for place in (folder, tmp_path / "plain"))
    assert config == expected and found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_configuration_alone_needs_no_weights(tmp_path):
    save(tmp_path, t5())
    config, _ = PublishedT5(str(tmp_path)).load()
    (tmp_path / "model.safetensors").unlink()
    assert PublishedT5(str(tmp_path)).config() == config


def test_no_text_is_what_the_encoder_says_of_the_empty_text(tmp_path):
    save(tmp_path, t5())
    config, state = PublishedEmptyText(PublishedT5(str(tmp_path), 5)).load()
    with torch.no_grad():
        assert torch.equal(state["tokens"], read(tmp_path, 5).encode_tokens([""])[0][0])
    assert (config["length"], config["dim"]) == (5, 12)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "umt5"}, "model_type='umt5'"),
        ({"feed_forward_proj": "gated-silu"}, "only relu and gated-gelu"),
        ({"num_layers": 1}, "no place"),
        ({"num_layers": 3}, r"no weight encoder\.block\.2"),
        ({"d_ff": 24}, r"asks for"),
        ({"vocab_size": 10}, "of another model"),
        ({"eos_token_id": 2}, "of another model"),
    ],
)
def test_what_does_not_fit_is_refused(change, said, tmp_path):
    save(tmp_path, t5())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=said):
        PublishedT5(str(tmp_path)).load()


def test_a_text_without_tokens_and_a_folder_without_tokenizer_are_refused(tmp_path):
    save(tmp_path, t5())
    with pytest.raises(UserError, match=r"set conditioner\.encoder\.length to 1"):
        PublishedT5(str(tmp_path), 0).load()
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer\.json and no spiece\.model"):
        PublishedT5(str(tmp_path)).load()


def test_tokens_know_their_words(tmp_path):
    save(tmp_path, t5())
    encoder, text = read(tmp_path), "the  Cat, a dog"
    row = read_words(text, encoder.spans([text])[0])
    assert row.words == ("the", "cat", ",", "a", "dog") and len(row.of_token) == 9
    assert [*dict.fromkeys(row.of_token)] == [0, 1, 2, 3, 4, -1] and row.of_token[-1] == -1
