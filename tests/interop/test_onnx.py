"""ONNX files compute what the modules do."""

import json

import pytest
import torch
from hydra.utils import instantiate

from interop.tiny import draw, scramble
from oboro.interop.onnx import export_task
from oboro.interop.pipeline import Published, build, denoiser, without_text

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

TABLE = {"_target_": "oboro.schedule.DDPM"}
SIZE = {"in_channels": 3, "num_classes": 4}
NETWORKS = {
    "ldm_unet": {
        "_target_": "oboro.model.LDMUNet",
        "table": TABLE,
        "widths": [8, 16],
        "blocks": 1,
        "attention_levels": [1],
        "heads": [1, 2],
        "groups": 4,
        **SIZE,
    },
    "unet": {"_target_": "oboro.model.UNet", "channels": 8, "channel_mult": [1, 2], "blocks": 1, **SIZE},
    "dit": {"_target_": "oboro.model.DiT", "patch": 2, "dim": 16, "depth": 2, "heads": 2, "reference_size": 8, **SIZE},
}


def task_of(network):
    """A task on latents of a small autoencoder, with classes."""
    config = denoiser(
        {**NETWORKS[network], "table": TABLE}, {"_target_": "oboro.parameterization.V", "sigma_data": 1.0}
    )
    if network != "ldm_unet":
        del config["network"]["table"]
    config["schedule"] = TABLE
    codec = {"_target_": "oboro.codec.Autoencoder", "in_channels": 1, "channels": 3, "width": 8, "channel_mult": [1, 2]}
    sampler = {"_target_": "oboro.sampler.DDIM", "steps": 4}
    task = build(Published(config, codec, *without_text(4), sampler, {}, 1, 16))
    scramble(task.denoiser)
    scramble(task.codec)
    return task


def run(path, **inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {key: value.numpy() for key, value in inputs.items()})[0])


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_the_files_answer_as_the_task_does(network, tmp_path):
    """For a batch of another length than the exporter saw, at noise levels that it did not see."""
    task = task_of(network)
    export_task(task, {"channels": 1, "resolution": 16}, tmp_path)
    x, t, label = draw(3, 3, 8, 8), torch.tensor([0.02, 0.4, 0.97]), torch.tensor([3, 0, -1])
    alpha, sigma = task.denoiser.schedule(t)
    with torch.no_grad():
        expected = task.denoiser(x, t, {"label": label})
        without = task.denoiser(x, t, {})
    levels = {"alpha": alpha, "sigma": sigma}
    torch.testing.assert_close(
        run(tmp_path / "denoiser.onnx", x_t=x, label=label, **levels), expected, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        run(tmp_path / "denoiser_unconditional.onnx", x_t=x, **levels), without, rtol=1e-4, atol=1e-4
    )
    image = task.codec.decode(x).clamp(-1, 1)
    torch.testing.assert_close(run(tmp_path / "decoder.onnx", z=x), image, rtol=1e-4, atol=1e-4)
    grid = json.loads((tmp_path / "settings.json").read_text())["grid"]
    assert grid[0]["sigma"] == pytest.approx(float(instantiate(TABLE).sigma(torch.tensor(1.0).double())))
