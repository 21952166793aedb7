"""Everything runs on the device of its inputs, and nothing waits for a value of it but what is named here.

Forward passes of every network, codec, schedule, sampler, guidance and loss on a CUDA device without values.
"""

from copy import deepcopy
from typing import ClassVar

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

from cases import over, pairs
from conftest import ADAPTIVE, CONF, PARAMETERIZATIONS, SAMPLERS, SCHEDULES, configured, defined, of_steps
from fake_cuda import FakeCUDA, Waits, WithoutFloat64, derivative
from loss.opponents import Teaches
from loss.toys import TIMES, WEIGHTS, loss_of
from oboro import conditioner  # noqa: F401 - networks ask it for the widths of conditions
from oboro.base import precision
from oboro.base.seeding import SampleNoise
from oboro.classifier import NoisyClassifier
from oboro.codec import Autoencoder
from oboro.condition import Condition, Control, Label, Text, kinds_read
from oboro.denoiser import Denoiser
from oboro.guidance import Autoguidance, Classifier, ClassifierFree, PerCondition, Unguided
from oboro.loss import (
    ADD,
    DMD2,
    GAN,
    Contrastive,
    CrossEntropy,
    Denoising,
    Hybrid,
    Reconstruction,
    SiD,
    SigLIP,
    Variational,
    features,
)
from oboro.loss import discriminator as discriminators
from oboro.loss.discriminator import Patch
from oboro.loss.penalty import Squared
from oboro.loss.perceptual import Fashion, Zero
from oboro.loss.time import Uniform
from oboro.loss.weighting import MinSNR
from oboro.measurement import Mask, Measured
from oboro.model import DCGAN, VAE, ControlNet, T2IAdapter
from oboro.parameterization import EDM, X0
from oboro.sampler import DDIM, Adaptive, Heun, WalkBack
from oboro.schedule import VP, Linear, expand_as

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, about CUDA that is not there


@pytest.fixture
def cuda(monkeypatch):
    monkeypatch.setattr(torch.autograd, "grad", derivative)
    return lambda *shape, dtype=torch.float32: torch.zeros(shape, dtype=dtype, device="cuda")


class Network(nn.Module):
    """Twice as many channels as the input, a function of all that a network is given."""

    reads: ClassVar = {"label": Label}

    def forward(self, x, c_noise, cond):
        h = x + expand_as(c_noise, x) + sum(expand_as(label.index, x) for label in cond.values())
        return torch.cat([h, -h], 1)


class Logits(nn.Module):
    def forward(self, x, c_noise, cond):
        return x.flatten(1)[:, :3] + c_noise[:, None]


def on_cuda(*tensors) -> bool:
    return all(v.device.type == "cuda" for v in tensors)


def labels(cuda) -> Condition:
    """With half of every sample known."""
    known = Measured(cuda(3, 2, 4, 4), cuda(3), Mask(cuda(3, 1, 4, 4, dtype=torch.bool)))
    return Condition({"label": Label(cuda(3, dtype=torch.int64))}, sampling={"measured": known})


# --- networks

READ = {"conditioner.num_classes": 10, "conditioner.text_dim": 16, "conditioner.pooled_dim": 8}
READ |= {"data.num_classes": 10, "data.channels": 3, "data.resolution": 32, "codec.channels": 3}
OWN = {"ldm_unet_text": ["model.empty_text=null", "model.num_classes=0"]}  # a published file has it
LARGE = {
    "clip",
    "dit_b2",
    "dit_b4",
    "dit_l2",
    "dit_l4",
    "dit_xl2",
    "edm2_unet",
    "edm2_unet_m",
    "edm2_unet_s",
    "unet_large",
}
NETWORKS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))


def network(group: str, name: str) -> nn.Module:
    """The option, without memory; in training mode. Of a ControlNet that on a small network."""
    if name in (kinds := {"controlnet": ControlNet, "t2i_adapter": T2IAdapter}):
        with torch.device("meta"):
            return kinds[name](network(group, "unet_tiny"), READ["data.channels"])
    values = [f"+{key}={value}" for key, value in READ.items() if not key.startswith(f"{group}.")]
    with initialize_config_dir(str(CONF), version_base="1.3"), torch.device("meta"):
        return instantiate(compose(overrides=[f"+{group}={name}", *values, *OWN.get(name, [])])[group], _convert_="all")


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in NETWORKS])
def test_networks_stay_on_the_device(name, cuda):
    made = network("model", name)
    with FakeCUDA() as mode:
        made.to_empty(device="cuda")
        if name.startswith("clip"):
            length, size = made.text.place.shape[0], 2 * made.image.multiple
            ids = cuda(2, length, dtype=torch.int64)
            out = made(cuda(2, 3, size, size), ids, ids == 0)
        else:
            signals = {
                "label": Label(cuda(2, dtype=torch.int64)),
                "text": Text(cuda(2, 5, READ["conditioner.text_dim"]), cuda(2, 5, dtype=torch.bool), cuda(2, 8)),
                "control": Control(cuda(2, 3, 32, 32), cuda(2, dtype=torch.bool), *(cuda(2) for _ in range(3))),
            }
            cond = {name: signals[name] for name in kinds_read(made)}
            x = cuda(2, 3, *(32,) * getattr(made, "dims", 2))
            out = [made(x, cuda(2), c) for c in (cond, {})]
    assert on_cuda(*out) and mode.on_host == []


@pytest.mark.slow
@over(name=[p.stem for p in (CONF / "codec").glob("*.yaml") if p.stem not in ("trained", "trained_emoji", "diffusers")])
def test_codecs_stay_on_the_device(name, cuda):
    made = network("codec", name)
    with FakeCUDA() as mode:
        made.to_empty(device="cuda")
        z = made.encode(cuda(2, made.in_channels if hasattr(made, "in_channels") else 3, 32, 32))
        image = made.decode(z)
    assert on_cuda(z, image) and mode.on_host == []


# --- schedules and parameterizations


@over(schedule=SCHEDULES)
def test_schedules_stay_on_the_device(schedule, cuda):
    with FakeCUDA():
        t, x = cuda(3), cuda(3, 2)
        maps = (schedule.alpha, schedule.sigma, schedule.log_snr, schedule.t_from_log_snr)
        assert on_cuda(*(f(t) for f in maps), schedule.add_noise(x, x, t), schedule.prior(x))


@pytest.mark.slow
@over(schedule=SCHEDULES, parameterization=PARAMETERIZATIONS, where=defined)
def test_denoisers_stay_on_the_device(schedule, parameterization, cuda):
    denoiser = Denoiser(Network(), schedule, parameterization)
    with FakeCUDA():
        x, t = cuda(3, 2, 4, 4), cuda(3)
        assert on_cuda(denoiser(x, t, Condition()), *denoiser.with_variance(x, t, labels(cuda)))
        assert on_cuda(parameterization.target(x, x, expand_as(t, x), expand_as(t, x)))


# --- sampling

DENOISER = Denoiser(Network(), VP(), EDM())
GUIDANCE = configured("guidance", without=("autoguidance", "classifier", "embedded", "per_condition"))  # files, scales
GUIDANCE |= {"autoguidance": Autoguidance(DENOISER), "classifier": Classifier(NoisyClassifier(Logits(), VP()))}
WEIGHTS_OF_GUIDANCE = configured("guidance/weight")
GUIDANCE |= {"per_condition": PerCondition({"label": 2.0})}
GUIDANCE |= {f"{name} weight": ClassifierFree(2.0, w) for name, w in WEIGHTS_OF_GUIDANCE.items()}
SOLVERS = {**SAMPLERS, **{name: Adaptive() for name in ADAPTIVE}, "walk_back": WalkBack()}

# What waits for a value of the device, and why.
WAITING_SAMPLERS = {"adaptive": "the length of the next step, and whether there is one, follow from the error"}
ONE_LESS = "an evaluation is saved where the weight is 0 for the whole batch"
WAITING_GUIDANCE = {
    **dict.fromkeys(["autoguidance", *(f"{name} weight" for name in WEIGHTS_OF_GUIDANCE)], ONE_LESS),
    "classifier": f"{ONE_LESS}, and labels that the classifier does not know are refused",
    "dps": "the step around each time of the batch is sought among the nodes, which are on the host",
    "cfg_pp": "the step around each time of the batch is sought among the nodes, which are on the host",
}
WAITING_LOSSES = {
    "loss_aware": "bins of the losses are filled with as many as there are",
    "optimal_transport": "the assignment is solved on the host",
}


def waits(call) -> bool:
    try:
        call()
    except Waits:
        return True
    return False


def sampled(sampler, guidance, cuda, answer=None) -> None:
    """A batch of a labelled model, on the device from noise to image."""
    guided = guidance(DENOISER, sampler.nodes(DENOISER.schedule))
    with FakeCUDA(answer):
        assert on_cuda(sampler(guided, cuda(3, 2, 4, 4), labels(cuda), SampleNoise(0, [0, 1, 2])))


@pytest.mark.slow
@over(name=SOLVERS.keys())
def test_samplers_stay_on_the_device(name, cuda):
    sampler = SOLVERS[name] if name in ADAPTIVE else of_steps(SOLVERS[name], 4)
    assert waits(lambda: sampled(sampler, Unguided(), cuda)) == (name in WAITING_SAMPLERS)
    if name in WAITING_SAMPLERS:
        sampled(sampler, Unguided(), cuda, answer=0.0)  # as if there were no error


@over(name=GUIDANCE.keys())
def test_guidance_stays_on_the_device(name, cuda):
    assert waits(lambda: sampled(Heun(3), GUIDANCE[name], cuda)) == (name in WAITING_GUIDANCE)
    if name in WAITING_GUIDANCE and name != "classifier":  # which labels are unknown is no single value
        sampled(Heun(3), GUIDANCE[name], cuda, answer=1.0)


# --- a device without float64


@pytest.fixture
def single(cuda, monkeypatch):
    monkeypatch.setattr(precision, "WITHOUT_FLOAT64", {"cuda"})
    return cuda


@over(schedule=SCHEDULES)
def test_schedules_need_no_float64_of_the_device(schedule, single):
    with WithoutFloat64():
        t, x = single(3), single(3, 2)
        maps = (schedule.alpha, schedule.sigma, schedule.log_snr, schedule.t_from_log_snr)
        out = [*(f(t) for f in maps), schedule.add_noise(x, x, t), schedule.prior(x)]
    assert on_cuda(*out) and {v.dtype for v in out} == {torch.float32}


@pytest.mark.slow
@over(name=sorted({"ldm_unet", "ldm_unet_text", "unet_tiny", "unet_1d", "dit", "edm2_unet_tiny"} & set(NETWORKS)))
def test_networks_need_no_float64_of_the_device(name, single):
    made = network("model", name)
    with WithoutFloat64():
        made.to_empty(device="cuda")
        made(single(2, 3, *(32,) * getattr(made, "dims", 2)), single(2), {})


@over(name=SOLVERS.keys())
def test_samplers_need_no_float64_of_the_device(name, single):
    sampler = SOLVERS[name] if name in ADAPTIVE else of_steps(SOLVERS[name], 4)
    guided = Unguided()(DENOISER, sampler.nodes(DENOISER.schedule))
    with WithoutFloat64(answer=0.0):  # as if there were no error
        assert on_cuda(sampler(guided, single(3, 2, 4, 4), labels(single), SampleNoise(0, [0, 1, 2])))


@over(name=[name for name in GUIDANCE if name != "classifier"])
def test_guidance_needs_no_float64_of_the_device(name, single):
    guided = GUIDANCE[name](DENOISER, Heun(3).nodes(DENOISER.schedule))
    with WithoutFloat64():
        assert on_cuda(Heun(3)(guided, single(3, 2, 4, 4), labels(single), SampleNoise(0, [0, 1, 2])))


# --- losses

PENALTIES, COUPLINGS = configured("loss/penalty"), configured("loss/coupling")
PARTS = pairs(time=TIMES, weighting=WEIGHTS, penalty=PENALTIES, coupling=COUPLINGS)


def lost(loss, cuda) -> None:
    """Objective and validation loss of a batch, with all that the loss keeps on the device."""
    g = torch.Generator().manual_seed(0)
    with FakeCUDA():
        loss = deepcopy(loss).to("cuda")
        x, cond = cuda(3, 2, 4, 4), labels(cuda)
        out = [loss(DENOISER, x, cond, g), loss.at_quantile(DENOISER, x, cond, cuda(3), x)]
    assert on_cuda(*out)


@over(parts=dict(zip(map("-".join, PARTS), PARTS, strict=True)))
def test_denoising_losses_stay_on_the_device(parts, cuda):
    time, weighting, penalty, coupling = parts
    loss = Denoising(TIMES[time], WEIGHTS[weighting], PENALTIES[penalty], COUPLINGS[coupling], True, 0.1, 0.1)
    assert waits(lambda: lost(loss.train(), cuda)) == bool({time, coupling} & set(WAITING_LOSSES))


def test_the_other_losses_stay_on_the_device(cuda):
    lost(Hybrid(MinSNR(), Squared(), 20), cuda)
    with FakeCUDA():
        classes, g = cuda(3, dtype=torch.int64), torch.Generator().manual_seed(0)
        noisy = CrossEntropy(Uniform())(NoisyClassifier(Logits(), VP()), cuda(3, 2, 4, 4), classes, g)
        image, captions, scale = cuda(3, 8), cuda(3, 5, dtype=torch.int64), cuda()
        pairs_ = [loss(image, image, captions, scale, scale) for loss in (Contrastive(), SigLIP())]
    assert on_cuda(noisy, *pairs_)


def test_a_loss_of_images_stays_on_the_device(cuda):
    loss = Reconstruction(Zero(), Patch(3, 8, 1), warmup=1)
    with torch.device("meta"):
        codec = Autoencoder(3, 4, 8, (1, 2), 1)
    with FakeCUDA():
        codec.to_empty(device="cuda")
        terms = loss.to("cuda")(codec, cuda(2, 3, 16, 16), 5, torch.Generator().manual_seed(0))
    assert on_cuda(terms.objective, *terms.numbers.values())


def test_the_losses_of_students_stay_on_the_device(cuda):
    """Samples of two steps, the objective of a student and its opponents, and the loss of validation."""
    beside = Teaches(DENOISER), DENOISER, Uniform(), loss_of()
    losses = [kind(*beside, adversarial=0.0) for kind in (DMD2, SiD)]
    losses.append(ADD(Teaches(DENOISER), features.Perceptual(Fashion()), Uniform()))
    for loss in losses:
        with FakeCUDA():
            x, cond, g = cuda(3, 1, 28, 28), labels(cuda), torch.Generator().manual_seed(0)
            terms = loss.to("cuda")(DENOISER, DDIM(2, float("inf")), x, cond, g, True)
            out = [terms.objective, loss.at_quantile(DENOISER, x, cond, cuda(3), x)]
        assert on_cuda(*out, *terms.numbers.values())


def test_the_losses_of_generators_stay_on_the_device(cuda):
    shape = {"size": 8, "width": 8, "channel_mult": (1, 2), "num_classes": 10}
    with torch.device("meta"):
        networks = [kind(1, latent=4, **shape) for kind in (DCGAN, VAE)]
        losses = [GAN(discriminators.DCGAN(1, **shape)), Variational()]
    with FakeCUDA():
        generator, vae = (Denoiser(network.to_empty(device="cuda"), Linear(), X0()) for network in networks)
        game, bound = (loss.to_empty(device="cuda") for loss in losses)
        x, cond, g = cuda(3, 1, 8, 8), labels(cuda), torch.Generator().manual_seed(0)
        terms = game(generator, DDIM(1), x, cond, g, True)
        out = [terms.objective, game.at_quantile(generator, x, cond, cuda(3), x), bound(vae, x, cond, g)]
        out.append(bound.at_quantile(vae, x, cond, cuda(3), x))
    assert on_cuda(*out, *terms.numbers.values(), *bound.watched.values())


# --- and the checks bite


def test_two_devices_and_waiting_are_noticed(cuda):
    with FakeCUDA() as mode:
        with pytest.raises(RuntimeError, match="same device"):
            cuda(3) + torch.ones(3)
        assert mode.on_host == ["aten.ones.default"]
        with WithoutFloat64(), pytest.raises(TypeError, match="makes float64"):
            cuda(3).double()
        for wait in (torch.Tensor.item, bool, torch.Tensor.nonzero, torch.Tensor.cpu):
            assert waits(lambda wait=wait: wait(cuda(1))), wait
        assert torch.ones(3).sum().item() == 3 and (torch.ones(3).to(cuda(3)) + 2 * cuda(3)).device.type == "cuda"
