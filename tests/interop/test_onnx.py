"""ONNX files compute what the modules do."""

import json
from functools import partial

import pytest
import torch
from hydra.utils import instantiate

from interop.tiny import draw, scramble
from oboro.condition import Condition, Label
from oboro.guidance.embedded import at_scale
from oboro.interop.__main__ import main
from oboro.interop.onnx import AtLevel, OneStep, export_task, inputs, write
from oboro.interop.pipeline import Published, build, denoiser, save_checkpoint, without_text
from oboro.loss import Consistency, Progressive, curriculum, penalty, time
from oboro.loss.coupling import Independent
from oboro.sampler import DDIM, nodes

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

TABLE = {"_target_": "oboro.schedule.DDPM"}
SIZE = {"in_channels": 3, "num_classes": 4}
NETWORKS = {
    "ldm_unet": {
        "_target_": "oboro.model.LDMUNet",
        "noise": {"_target_": "oboro.model.StepIndex", "table": TABLE},
        "widths": [8, 16],
        "blocks": 1,
        "attention": {"_target_": "oboro.model.LDMAttention", "levels": [1], "heads": [1, 2]},
        "norm": {"_target_": "oboro.model.GroupNormSettings", "groups": 4},
        **SIZE,
    },
    "unet": {"_target_": "oboro.model.UNet", "channels": 8, "channel_mult": [1, 2], "blocks": 1, **SIZE},
    "dit": {"_target_": "oboro.model.DiT", "patch": 2, "dim": 16, "depth": 2, "heads": 2, "reference_size": 8, **SIZE},
}


def task_of(network, **settings):
    """A task on latents of a small autoencoder, with classes."""
    aim = {"_target_": "oboro.parameterization.V", "sigma_data": 1.0}
    node = {**NETWORKS[network], **settings}
    config = denoiser({**node, "noise": {"table": TABLE}}, aim) | {"network": node}
    codec = {"_target_": "oboro.codec.Autoencoder", "in_channels": 1, "channels": 3, "width": 8, "channel_mult": [1, 2]}
    sampler = {"_target_": "oboro.sampler.DDIM", "steps": 4}
    task = build(Published(config, codec, *without_text(4), sampler, {}, 1, 16))
    scramble(task.denoiser)
    scramble(task.codec)
    return task


def run(path, **inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {key: value.numpy() for key, value in inputs.items()})[0])


QUESTION = (draw(3, 3, 8, 8), torch.tensor([0.02, 0.4, 0.97]), Condition.of(label=Label(torch.tensor([3, 0, -1]))))
close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_files_answer_as_the_task_does(tmp_path):
    """For a batch of another length than the exporter saw, at noise levels that it did not see."""
    task, (x, t, cond) = task_of("ldm_unet"), QUESTION
    task.ema.averages.clear()  # those of the weights before they were scrambled
    task.ema.start(task.learned)
    save_checkpoint(task, tmp_path / "task.ckpt")
    folder = tmp_path / "files"
    main(["onnx", str(tmp_path / "task.ckpt"), str(folder)])
    alpha, sigma = task.denoiser.schedule(t)
    levels = {"x_t": x, "alpha": alpha, "sigma": sigma}
    close(run(folder / "denoiser.onnx", **levels, **inputs(cond.signals)), task.denoiser(x, t, cond))
    close(run(folder / "denoiser_unconditional.onnx", **levels), task.denoiser(x, t, Condition()))
    close(run(folder / "decoder.onnx", z=x), task.codec.decode(x).clamp(-1, 1))
    grid = json.loads((folder / "settings.json").read_text())["grid"]
    assert grid[0]["sigma"] == pytest.approx(float(instantiate(TABLE).sigma(torch.tensor(1.0).double())))


@pytest.mark.slow
@pytest.mark.parametrize("network", ["unet", "dit"])
def test_other_networks_become_files_too(network, tmp_path):
    denoiser, (x, t, cond) = task_of(network).denoiser, QUESTION
    alpha, sigma = denoiser.schedule(t)
    asked = {"x_t": x[:2], "alpha": alpha[:2], "sigma": sigma[:2], "cond": inputs(cond.rows([0, 1]).signals)}
    module = AtLevel(denoiser, {"label": Label})
    write(module, asked, ["x_t", "alpha", "sigma", "label"], "x0", tmp_path / "denoiser.onnx")
    answer = run(tmp_path / "denoiser.onnx", x_t=x, alpha=alpha, sigma=sigma, **inputs(cond.signals))
    close(answer, denoiser(x, t, cond))


def student(**settings):
    task = task_of("unet", **settings)
    task.loss = Consistency(time.Uniform(), curriculum.Easy(), penalty.Squared(), Independent())
    return task


def one_step_of(teacher_steps):
    """A student of progressive distillation."""
    task = task_of("unet")
    task.loss = Progressive(penalty.Squared(), Independent(), teacher=None, steps=teacher_steps)
    return task


@pytest.mark.slow
@pytest.mark.parametrize("make", [student, lambda: one_step_of(1)], ids=["consistency", "progressive"])
def test_a_student_becomes_a_file_of_one_step(make, tmp_path):
    """Noise to data as the sampler of one step does it."""
    task, (x, _, cond) = make(), QUESTION
    export_task(task, tmp_path)
    drawn = DDIM(1)(task.denoiser, task.denoiser.schedule.prior(x), cond, None)
    close(run(tmp_path / "one_step.onnx", noise=x, **inputs(cond.signals)), drawn)
    assert json.loads((tmp_path / "settings.json").read_text())["one_step"] == "one_step.onnx"


@pytest.mark.slow
def test_the_scale_of_guidance_is_an_input(tmp_path):
    """One for each sample; of the noise alone, too."""
    task, (x, t, cond) = student(reads_guidance_scale=True), QUESTION
    randomised = torch.nn.init.normal_(task.denoiser.network.guidance_scale.mlp[-1].weight)
    assert randomised.any()
    export_task(task, tmp_path)
    alpha, sigma = task.denoiser.schedule(t)
    cond = at_scale(cond, torch.tensor([1.0, 2.5, 8.0]))
    asked = inputs(cond.signals)
    answer = run(tmp_path / "denoiser.onnx", x_t=x, alpha=alpha, sigma=sigma, **asked)
    close(answer, task.denoiser(x, t, cond))
    drawn = DDIM(1)(task.denoiser, task.denoiser.schedule.prior(x), cond, None)
    close(run(tmp_path / "one_step.onnx", noise=x, **asked), drawn)


@pytest.mark.slow
def test_a_flow_map_lands_where_the_file_is_asked_to(tmp_path):
    """And in data with one step."""
    task, (x, t, cond) = student(reads_end=True), QUESTION
    (a, b), ends = task.denoiser.schedule(t), (torch.tensor([1.0, 0.9, 0.5]), torch.tensor([0.0, 0.3, 0.6]))
    levels = {"x_t": x, "alpha": a, "sigma": b}
    landing = {"end_alpha": ends[0], "end_sigma": ends[1]}
    module, given = AtLevel(task.denoiser, {"label": Label}), inputs(cond.signals)
    names = [*levels, *given, *landing]
    write(module, {**levels, "cond": given, **landing}, names, "x0", tmp_path / "denoiser.onnx")
    answer = run(tmp_path / "denoiser.onnx", **levels, **landing, **given)
    close(answer, task.denoiser.towards(*ends)(x, t, cond))
    (start,) = nodes(task.denoiser.schedule, [1.0])
    drawn = DDIM(1)(task.denoiser, task.denoiser.schedule.prior(x), cond, None)
    close(OneStep(module, start)(x, given), drawn)
