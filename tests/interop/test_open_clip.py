"""Text towers in OpenCLIP's files, and CLIPs of which the last layers are left out."""

import pytest
import torch
from hydra.utils import instantiate

from interop.tiny import LENGTH, TOWER, WHOLE, WORDS, clip, in_open_clip, open_clip, scramble, tokenizer, transformers
from oboro.base.errors import UserError
from oboro.conditioner import PublishedCLIP, PublishedOpenCLIP
from oboro.edit.words import read_words
from oboro.interop import clip_text

TEXTS = ["", "A Dog", "a b c d e f g h i", "dog"]


def made(part):
    config, state = part.load()
    assert part.config() == config
    encoder = instantiate(config).eval()
    encoder.load_state_dict(state)
    return encoder


@pytest.mark.parametrize("skip", [0, 1, 2])
@pytest.mark.parametrize(("prefix", "safetensors", "quick"), [("", False, False), ("text.", True, True)])
def test_a_tower_of_open_clip_is_that_of_transformers(prefix, safetensors, quick, skip, tmp_path):
    """Layer -1 - skip, after the final norm; texts are filled up with token 0."""
    model = clip(num_hidden_layers=3, hidden_act="quick_gelu" if quick else "gelu")
    settings = {**WHOLE, "quick_gelu": quick} if quick else WHOLE
    folder = open_clip(tmp_path, in_open_clip(model), prefix, safetensors, settings)
    encoder = made(PublishedOpenCLIP(str(folder), skip))
    words = tokenizer(tmp_path / "zeros", pad=WORDS[0])
    ids = words(TEXTS, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt").input_ids
    assert torch.equal(encoder.tokenize(TEXTS), ids) and (ids == 0).sum() > len(TEXTS)
    with torch.no_grad():
        tokens, mask, pooled = encoder.encode_tokens(TEXTS)
        said = model.final_layer_norm(model(ids, output_hidden_states=True).hidden_states[-1 - skip])
    torch.testing.assert_close(tokens, said, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pooled, said[torch.arange(4), (ids == 1).int().argmax(1)], rtol=1e-5, atol=1e-5)
    assert mask.all()


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("quick", [False, True])
def test_a_tower_is_that_of_the_library_itself(custom, quick, tmp_path):
    """Where OpenCLIP is installed. Ids end with the largest, where its pooled vector is."""
    library = pytest.importorskip("open_clip.model")
    text = library.CLIPTextCfg(**TOWER)
    kind = library.CustomTextCLIP if custom else library.CLIP
    model = scramble(kind(8, library.CLIPVisionCfg(**WHOLE["vision_cfg"]), text, quick_gelu=quick))
    folder = open_clip(tmp_path, model.state_dict(), settings={**WHOLE, "quick_gelu": quick})
    end = len(WORDS) - 1
    ids = torch.tensor([[2, 5, 9, end, 0, 0], [2, end, 0, 0, 0, 0], [2, 3, 4, 5, 6, end]])
    for skip in range(3):
        encoder = made(PublishedOpenCLIP(str(folder), skip))
        with torch.no_grad():
            found = encoder(ids)
            said = model.forward_intermediates(text=ids, text_indices=[2 - skip], normalize_intermediates=True)
        torch.testing.assert_close(found, said["text_intermediates"][0], rtol=1e-5, atol=1e-5)
        if skip == 0:
            pooled = found[torch.arange(3), ids.argmax(1)] @ (model.text if custom else model).text_projection
            torch.testing.assert_close(pooled, model.encode_text(ids), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("skip", [0, 1])
def test_layers_of_a_clip_of_transformers_may_be_left_out(whole, skip, tmp_path):
    tokenizer(tmp_path)
    model = clip(num_hidden_layers=3)
    if whole:
        vision = transformers.CLIPVisionConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=4, patch_size=2
        )
        both = transformers.CLIPModel(transformers.CLIPConfig(text_config=model.config, vision_config=vision))
        both.text_model.load_state_dict(model.state_dict())
        both.save_pretrained(tmp_path)
    else:
        model.save_pretrained(tmp_path)
    encoder = made(PublishedCLIP(str(tmp_path), skip))
    ids = encoder.tokenize(TEXTS)
    with torch.no_grad():
        said = model.final_layer_norm(model(ids, output_hidden_states=True).hidden_states[-1 - skip])
        torch.testing.assert_close(encoder(ids), said, rtol=1e-5, atol=1e-5)


def test_an_encoder_without_its_last_layer_goes_out_as_what_it_says(tmp_path):
    """transformers' last hidden state of what is written is the layer that was chosen."""
    tokenizer(tmp_path / "in")
    clip(num_hidden_layers=3).save_pretrained(tmp_path / "in")
    part = PublishedCLIP(str(tmp_path / "in"), 1)
    encoder = made(part)
    clip_text.save(tmp_path / "out", tmp_path / "words", part.config(), encoder)
    again = transformers.CLIPTextModel.from_pretrained(tmp_path / "out")
    ids = encoder.tokenize(TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(again(ids).last_hidden_state, encoder(ids), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("skip", [-1, 3, 4])
def test_layers_that_are_not_there_cannot_be_left_out(skip, tmp_path):
    folder = open_clip(tmp_path)
    with pytest.raises(UserError, match=r"has 3 layers; set conditioner\.encoder\.skip to one of 0 to 2"):
        PublishedOpenCLIP(str(folder), skip).load()


@pytest.mark.parametrize(
    "change", [{"no_causal_mask": True}, {"hf_model_name": "roberta-base"}, {"pool_type": "last"}, {"qk_norm": True}]
)
def test_a_tower_of_other_layers_is_refused(change, tmp_path):
    settings = {**WHOLE, "text_cfg": {**TOWER, **change}}
    folder = open_clip(tmp_path, settings=settings)
    with pytest.raises(UserError, match=f"has {next(iter(change))}=.*choose another model"):
        PublishedOpenCLIP(str(folder)).load()


def test_a_folder_without_tokenizer_says_which_one_fits(tmp_path):
    folder = open_clip(tmp_path)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"has no tokenizer\.json.*copy that of openai/clip-vit-large-patch14 there"):
        PublishedOpenCLIP(str(folder)).load()
    (folder / "open_clip_config.json").write_text("{}")
    tokenizer(folder)
    with pytest.raises(UserError, match="no model_cfg with a text_cfg"):
        PublishedOpenCLIP(str(folder)).load()


def test_tokens_know_their_words(tmp_path):
    encoder = made(PublishedOpenCLIP(str(open_clip(tmp_path)), 0))
    for text, words in (("A Dog", [-1, 0, 1, 1, -1, -1]), ("", [-1] * 6), ("a b c d e f g", [-1, 0, 1, 2, 3, -1])):
        assert [*read_words(text, encoder.spans([text])[0]).of_token] == words
