"""The features of FD-DINOv2, with random weights of a tiny network: parity with transformers and Meta's positions."""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from oboro.base.errors import UserError
from oboro.extractor.dinov2 import DINOv2

transformers = pytest.importorskip("transformers")
hub = pytest.importorskip("huggingface_hub")
DIM = 32
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # as in dgm-eval and EDM2


def save_tiny(folder: Path, image_size: int) -> Path:
    """A network of two layers whose every weight matters."""
    config = transformers.Dinov2Config(
        hidden_size=DIM, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=image_size, patch_size=14
    )
    torch.manual_seed(0)
    network = transformers.Dinov2Model(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("dinov2"), 224)


@pytest.fixture(scope="module")
def large_grid(tmp_path_factory):
    """Positions on 37 x 37 patches, as the published networks have them."""
    return save_tiny(tmp_path_factory.mktemp("dinov2"), 518)


@pytest.fixture
def copy(tiny, tmp_path):
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and a hub whose address answers at once that nobody is there."""
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "hub"


def pictures(*shape):
    """Half noise, half smooth: some overshoot under a bicubic filter, some do not."""
    rng = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (2, 3, *shape), generator=rng, dtype=torch.uint8)
    smooth = F.interpolate(torch.rand(2, 3, 4, 4, generator=rng), shape, mode="bilinear") * 255
    return torch.cat([noise, smooth.to(torch.uint8)])


def pil(images):
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


def their_pixels(images, **changes):
    """transformers' own preparation of PIL images, told to squeeze to 224 x 224 instead of cropping."""
    settings = {"size": {"height": 224, "width": 224}, "do_center_crop": False, "image_mean": MEAN, "image_std": STD}
    processor = transformers.BitImageProcessorPil(**{**settings, **changes})
    return processor(pil(images), return_tensors="pt")["pixel_values"]


def their_features(folder, pixels):
    network = transformers.Dinov2Model.from_pretrained(folder).eval()
    with torch.no_grad():
        return network(pixel_values=pixels).pooler_output


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("shape", [(32, 32), (300, 260), (40, 90)], ids=["upwards", "downwards", "flat"])
def test_features_are_those_of_transformers_on_pil_images(shape, tiny):
    images = pictures(*shape)
    found = DINOv2(str(tiny))(images)["features"]
    expected = their_features(tiny, their_pixels(images))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert relative(found[:2], found[2:]) > 1e-2, "the images differ by far more than the rounding"


def test_the_preparation_of_other_tools_makes_other_features(tiny):
    """The hub's own file for DINOv2 resizes to 256 and crops; EDM2 neither rounds nor clips, which is closer."""
    images = pictures(300, 300)
    found = DINOv2(str(tiny))(images)["features"]
    cropped = their_pixels(images, size={"shortest_edge": 256}, do_center_crop=True)
    pixels = F.interpolate(images.float(), (224, 224), mode="bicubic", antialias=True) / 255
    floats = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    distances = [relative(their_features(tiny, other), found) for other in (floats, cropped)]
    assert 1e-4 < distances[0] < 0.1 * distances[1]


def cubic(t):
    """Keys' cubic convolution kernel with a = -3/4."""
    a, t = -0.75, np.abs(t)
    inner = (a + 2) * t**3 - (a + 3) * t**2 + 1
    outer = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.where(t <= 1, inner, np.where(t < 2, outer, 0))


def test_positions_are_read_where_metas_network_reads_them(large_grid):
    """Row i of 16 at (i + 1/2) 37 / 16.1 - 1/2, by cubic convolution with repeated edges; the class token as it is."""
    before = load_file(large_grid / "model.safetensors")["embeddings.position_embeddings"]
    after = DINOv2(str(large_grid)).build().embeddings.position_embeddings.detach()
    weights = np.zeros((16, 37))
    for i in range(16):
        centre = (i + 0.5) * 37 / 16.1 - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            weights[i, min(max(tap, 0), 36)] += cubic(tap - centre)
    grid = before[0, 1:].view(37, 37, DIM).double().numpy()
    expected = np.einsum("iy,jx,yxd->ijd", weights, weights, grid).reshape(256, DIM)
    np.testing.assert_allclose(after[0, 1:], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(after[:, 0], before[:, 0])


def test_positions_of_transformers_make_other_features(large_grid):
    images = pictures(64, 64)
    found = DINOv2(str(large_grid))(images)["features"]
    assert relative(their_features(large_grid, their_pixels(images)), found) > 1e-3
    network = transformers.Dinov2Model.from_pretrained(large_grid).eval()
    network.embeddings.position_embeddings = DINOv2(str(large_grid)).build().embeddings.position_embeddings
    with torch.no_grad():
        expected = network(pixel_values=their_pixels(images)).pooler_output
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_grey_is_repeated(tiny):
    extractor, grey = DINOv2(str(tiny)), pictures(32, 32)[:, :1]
    assert torch.equal(extractor(grey)["features"], extractor(grey.repeat(1, 3, 1, 1))["features"])


def test_mixed_precision_of_the_run_does_not_reach_the_features(tiny):
    extractor, images = DINOv2(str(tiny)), pictures(32, 32)
    expected = extractor(images)["features"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(extractor(images)["features"], expected)


def test_lengths_follow_the_model_and_names_need_no_file(tiny, empty_cache):
    extractor = DINOv2(str(tiny))
    rows = extractor.rows(pictures(32, 32), ["features"])
    assert dict(extractor.outputs) == {"features": rows.shape[1]} == {"features": DIM}
    assert torch.equal(extractor.split(rows, ["features"])["features"], rows)
    absent = DINOv2()
    assert list(absent.outputs) == ["features"] and "features" in absent.outputs and "logits" not in absent.outputs
    assert absent.outputs.get("logits") is None
    with pytest.raises(UserError, match="missing"):
        absent.outputs["features"]


def test_the_digest_follows_the_weights(copy):
    extractor, weights = DINOv2(str(copy)), copy / "model.safetensors"
    first = extractor.digest
    assert first == hashlib.sha256(weights.read_bytes()).hexdigest()
    state = load_file(weights)
    state["layernorm.bias"] += 1
    save_file(state, weights, metadata={"format": "pt"})
    os.utime(weights, ns=(1, 1))
    assert extractor.digest != first


def test_missing_weights_without_a_network_say_what_to_do(empty_cache):
    extractor = DINOv2()
    for call in (extractor.prepare, lambda: extractor.load("cpu"), lambda: extractor.digest):
        with pytest.raises(UserError) as error:
            call()
        message = str(error.value)
        assert "facebook/dinov2-large" in message and "extractor.path" in message and "\n" not in message


def test_a_model_in_the_cache_of_the_hub_needs_no_network(tiny, empty_cache):
    folder = empty_cache / "models--someone--tiny"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    shutil.copytree(tiny, folder / "snapshots" / ("0" * 40))
    extractor, images = DINOv2("someone/tiny"), pictures(32, 32)
    extractor.prepare()
    assert torch.equal(extractor(images)["features"], DINOv2(str(tiny))(images)["features"])
    assert extractor.digest == DINOv2(str(tiny)).digest


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_folder_that_lacks_a_file_is_named(name, copy, empty_cache):
    (copy / name).rename(copy / "pytorch_model.bin")
    with pytest.raises(UserError, match=f"copy has no {name}"):
        DINOv2(str(copy)).prepare()


def test_without_the_library_the_extra_is_named(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r'pip install "oboro\[dinov2\]"'):
        DINOv2(str(tiny)).prepare()


def test_a_file_that_lacks_a_weight_is_refused(copy):
    """transformers itself would fill in random numbers."""
    state = load_file(copy / "model.safetensors")
    del state["layernorm.weight"]
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"no layernorm\.weight"):
        DINOv2(str(copy)).prepare()


@pytest.mark.parametrize("size", [5, 5000])
def test_a_cut_file_is_refused(size, copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(UserError, match="does not hold the weights"):
        DINOv2(str(copy)).prepare()


def test_weights_of_another_size_are_refused(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "mlp_ratio": 3}))
    with pytest.raises(UserError, match="does not hold the weights"):
        DINOv2(str(copy)).prepare()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "clip", "hidden_size": 32}', "of type clip"),
        ('{"model_type": "dinov2"}', "has no hidden_size"),
        ("[]", "has no hidden_size"),
        ("{", "has no hidden_size"),
    ],
    ids=["other model", "no length", "list", "cut"],
)
def test_a_configuration_of_something_else_is_refused(text, message, copy):
    (copy / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        DINOv2(str(copy)).outputs["features"]


def test_a_network_with_registers_is_not_read_as_one_without(copy):
    """transformers itself would leave the registers out."""
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "dinov2_with_registers"}))
    with pytest.raises(UserError, match="give the folder or name of a dinov2 model"):
        DINOv2(str(copy)).prepare()


def test_loading_draws_nothing_and_shows_nothing(tiny, capfd):
    state = torch.get_rng_state()
    DINOv2(str(tiny)).prepare()
    assert torch.equal(torch.get_rng_state(), state)
    assert capfd.readouterr().err == ""
    assert transformers.utils.logging.is_progress_bar_enabled()
