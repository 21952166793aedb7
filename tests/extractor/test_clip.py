"""CLIP embeddings with random weights of a tiny network: parity with transformers for images and for texts."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from oboro.base.errors import UserError
from oboro.extractor.clip import CLIP

transformers = pytest.importorskip("transformers")
DIM, SIDE, CONTEXT = 24, 56, 12
TEXTS = ["a cat", "A  cat", "red dogs", "a dog and a cat and a dog and a cat and a dog", ""]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A network whose every weight matters, on 56 pixels, and a tokenizer of single letters."""
    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(i) + end for i in range(ord("a"), ord("z") + 1) for end in ("", "</w>")]
    vocabulary = {token: i for i, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    transformers.CLIPTokenizer(vocabulary, []).save_pretrained(folder)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    end = vocabulary["<|endoftext|>"]
    tokens = {"vocab_size": len(vocabulary), "max_position_embeddings": CONTEXT, "eos_token_id": end}
    config = transformers.CLIPConfig(
        text_config={**size, **tokens, "bos_token_id": end - 1, "pad_token_id": end},
        vision_config={**size, "image_size": SIDE, "patch_size": 14},
        projection_dim=DIM,
    )
    torch.manual_seed(0)
    network = transformers.CLIPModel(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    network.save_pretrained(folder)
    return folder


def pictures(*shape):
    rng = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (2, 3, *shape), generator=rng, dtype=torch.uint8)
    smooth = F.interpolate(torch.rand(2, 3, 4, 4, generator=rng), shape, mode="bilinear") * 255
    return torch.cat([noise, smooth.to(torch.uint8)])


def their_pixels(images, cls):
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    pil = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    return cls(**size)(pil, return_tensors="pt")["pixel_values"]


def their_model(folder):
    return transformers.CLIPModel.from_pretrained(folder).eval()


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("shape", [(32, 32), (96, 96), (60, 97), (97, 60), (30, 200)])
def test_embeddings_are_those_of_transformers_on_pil_images(shape, tiny):
    images = pictures(*shape)
    found = CLIP(str(tiny))(images)["features"]
    with torch.no_grad():
        expected = their_model(tiny).get_image_features(their_pixels(images, transformers.CLIPImageProcessorPil))
    torch.testing.assert_close(found, expected.pooler_output, rtol=1e-5, atol=1e-5)
    assert relative(found[:2], found[2:]) > 1e-2, "the images differ by far more than the rounding"
    assert (found.norm(dim=1) - 1).abs().min() > 1e-2, "not normalised"


def test_the_filter_of_torchvision_is_almost_that_of_pil(tiny):
    """The default of transformers resizes tensors: pixels differ by a level or two of 255, the features hardly."""
    images = pictures(96, 96)
    pil, torchvision = (
        their_pixels(images, cls) for cls in (transformers.CLIPImageProcessorPil, transformers.CLIPImageProcessor)
    )
    assert 0.5 / 255 < 0.27 * (pil - torchvision).abs().max() < 2.5 / 255
    with torch.no_grad():
        expected = their_model(tiny).get_image_features(torchvision).pooler_output
    assert 1e-6 < relative(CLIP(str(tiny))(images)["features"], expected) < 1e-2


def test_texts_are_embedded_as_by_transformers(tiny):
    """A text that is too long keeps its beginning and its end mark."""
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tiny)
    found = CLIP(str(tiny)).embed_text(TEXTS)
    model = their_model(tiny)
    for text, embedding in zip(TEXTS, found, strict=True):
        tokens = tokenizer(text, return_tensors="pt")
        ids = tokens["input_ids"]
        if text == TEXTS[3]:
            tokens["input_ids"] = torch.cat([ids[:, : CONTEXT - 1], ids[:, -1:]], 1)
            tokens["attention_mask"] = torch.ones(1, CONTEXT, dtype=torch.int64)
        with torch.no_grad():
            expected = model.get_text_features(**tokens).pooler_output[0]
        torch.testing.assert_close(embedding, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(found[0], found[1]), "neither case nor spaces matter"
    assert relative(found[2], found[0]) > 1e-2


def test_a_text_does_not_depend_on_its_companions(tiny):
    extractor = CLIP(str(tiny))
    many = extractor.embed_text(TEXTS * 60)
    torch.testing.assert_close(many[:5], many[-5:], rtol=0, atol=1e-6)
    torch.testing.assert_close(many[:5], extractor.embed_text(TEXTS), rtol=0, atol=1e-6)
    short, long = (extractor.embed_text(["cat", other])[0] for other in ("dog", TEXTS[3]))
    assert torch.equal(short, long), "to the last bit: all texts have one shape"


def test_mixed_precision_of_the_run_does_not_reach_texts(tiny):
    extractor = CLIP(str(tiny))
    expected = extractor.embed_text(TEXTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = extractor.embed_text(TEXTS)
    assert torch.equal(found, expected)


def test_length_and_size_follow_the_model(tiny):
    extractor = CLIP(str(tiny))
    assert (
        dict(extractor.outputs) == {"features": DIM} == {"features": extractor(pictures(40, 40))["features"].shape[1]}
    )
    assert "56x56" in extractor.resize


def test_grey_is_repeated(tiny):
    extractor, grey = CLIP(str(tiny)), pictures(32, 48)[:, :1]
    assert torch.equal(extractor(grey)["features"], extractor(grey.repeat(1, 3, 1, 1))["features"])


def test_images_alone_need_no_tokenizer(tiny, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(tiny / name)
    extractor = CLIP(str(tmp_path))
    extractor.prepare()
    with pytest.raises(UserError, match=r"has no tokenizer; copy tokenizer\.json"):
        extractor.embed_text(["a cat"])


def test_a_missing_folder_says_what_to_do(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for path in (None, "no/folder/of/mine"):
        with pytest.raises(UserError, match=r"set extractor\.path to a folder"):
            CLIP(path).prepare()
