"""Ranks and micro-batches that share a batch have, together, the noise of one process."""

import pytest
import torch

import runs
from oboro.base.seeding import derive_seed, generator
from oboro.model.dropout import Dropout, dropouts
from ranks import on_ranks

DRAWS = (  # everything that a step of diffusion draws
    *("loss.stratified=true", "loss.offset_noise=0.1", "loss.input_perturbation=0.1", "conditioner.dropout=0.4"),
    "model.dropout=0.5",
)
CASES = {
    "all draws": DRAWS,
    "recomputed, weights that write to themselves": (
        *("model=edm2_unet_tiny", "model.dropout=0.5", "model.checkpointing=true", "loss=denoising_edm"),
        *("parameterization=edm", "schedule=karras", "optimizer=adamw"),
    ),
    "a variance": ("loss=hybrid", "model.learned_variance=true", "sampler=learned_variance", "schedule=vp"),
    "times that follow the losses": ("loss/time=loss_aware", "loss.time.bins=2", "loss.time.history=3"),
    "consistency": (
        *("loss=consistency", "loss.curriculum.first=2", "loss.curriculum.last=4", "model.dropout=0.5"),
        "sampler=ddim_consistency",
    ),
    "mean velocities": ("loss=mean_flow_improved", "model.dropout=0.5", "sampler=heun"),
    "alpha-Flow": ("loss=mean_flow_alpha", "loss.alpha.last=4", "model.dropout=0.5", "sampler=heun"),
    "MeanFlow": ("loss=mean_flow", "loss.guidance_scale=2", "model.dropout=0.5", "sampler=heun"),
    "shortcuts": ("loss=shortcut", "loss.share=0.5", "model.dropout=0.5", "sampler=heun"),
    "consistency in continuous time": (
        *("loss=continuous_consistency", "loss.warmup_steps=2", "model.dropout=0.5", "sampler=ddim_consistency"),
    ),
    "classes": (runs.CLASSIFICATION, "model.dropout=0.5"),
    "a codec": (runs.AUTOENCODER, "loss.adversarial=0", "loss.l1=0", "loss.l2=1", "loss/perceptual=zero"),
}
STEPS = 3


def trained(*overrides: str, accumulate: int = 1, **trainer_settings) -> torch.Tensor:
    """The weights after a few steps."""
    settings = {"max_steps": STEPS, "accumulate_grad_batches": accumulate, "limit_val_batches": 0, **trainer_settings}
    trainer, task, data = runs.built(*overrides, accelerator="cpu", **settings)
    data.setup()
    task.check(data)  # reads the weights of a perceptual loss
    with torch.random.fork_rng(devices=[]):
        trainer.fit(task, data)
    return torch.cat([p.detach().flatten().double() for p in task.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_batch_in_parts_is_trained_on_as_one(case):
    """The weights differ by rounding, those that saw other noise a thousand times as much."""
    whole, parts = trained(*CASES[case]), trained(*CASES[case], accumulate=4)
    assert (whole - parts).norm() < 1e-6 * whole.norm()
    other = trained(*CASES[case], "task.noise=per_rank", accumulate=4)
    assert (whole - other).norm() > 1e3 * (whole - parts).norm()


SHARED = ("consistency", "mean velocities", "shortcuts", "consistency in continuous time", "alpha-Flow", "MeanFlow")
# Losses with a teacher, whose path is added.
TAUGHT = {
    "consistency distillation": (
        *("loss=consistency_distillation", "loss.curriculum.first=2", "loss.curriculum.last=4"),
        "sampler=ddim_consistency",
    ),
    "a guided teacher": ("loss=consistency_latent", "sampler=ddim_consistency"),
    "progressive distillation": ("loss=progressive", "loss.steps=2", "sampler=ddim", "sampler.steps=2"),
    "sCD": ("loss=continuous_consistency_distillation", "loss.warmup_steps=2", "sampler=ddim_consistency"),
    "MeanFlow with a teacher": ("loss=mean_flow_distillation", "sampler=heun"),
    "scales": ("loss=consistency_latent_scales", "model.reads_guidance_scale=true", "sampler=ddim_consistency"),
    "reflow": ("loss=reflow", "loss.sampler.steps=2", "sampler=euler"),
}


def students(teacher) -> dict[str, tuple[str, ...]]:
    taught = {name: (*words, "model.dropout=0.5", f"loss.teacher.path={teacher}") for name, words in TAUGHT.items()}
    return {**{name: CASES[name] for name in SHARED}, **taught}


def train_all(rank: int, teacher, folder) -> None:
    weights = {name: trained(*words, devices=2, strategy="ddp") for name, words in students(teacher).items()}
    torch.save(weights, folder / f"{rank}.pt")


@pytest.mark.slow
def test_two_processes_share_the_gradients_of_students(tmp_path):
    """Neither a forward derivative of the network that ranks wrap nor its passes without a gradient must lead past the
    exchange of its gradients: the ranks have the same weights after some steps, and those of one process to within
    rounding."""
    teacher = runs.train(tmp_path / "teacher", runs.NO_EVALUATION).last
    on_ranks(2, train_all, teacher, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, words in students(teacher).items():
        whole = trained(*words)
        assert torch.equal(first[name], second[name]), name
        assert (whole - first[name]).norm() < 1e-6 * whole.norm(), name


def test_noise_of_one_process_is_that_of_its_key(monkeypatch):
    """As it has always been: a first run gives the same number."""
    trainer, task, data = runs.built(*DRAWS, accelerator="cpu", max_steps=1, limit_val_batches=0)
    seen = []

    def objective(batch, x, g):
        seen.append([torch.randn(5, generator=g), torch.rand(5)])
        return type(task).objective(task, batch, x, g)

    monkeypatch.setattr(task, "objective", objective)
    with torch.random.fork_rng(devices=[]):
        trainer.fit(task, data)
        torch.manual_seed(derive_seed(task.seed, "dropout", 0, 0, 0))
        expected = [torch.randn(5, generator=generator(task.seed, "train", 0, 0, 0)), torch.rand(5)]
    assert runs.equal(seen, [expected])


def test_layers_of_others_are_not_given_one_noise_on_all_ranks():
    class Foreign(torch.nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    own = [Dropout(0.5), torch.nn.Linear(2, 2), torch.nn.Sequential()]
    assert dropouts(own) == own[:1]
    attention = torch.nn.MultiheadAttention(4, 1)
    assert dropouts([*own, attention]) == own[:1]
    for other in (torch.nn.Dropout(0.5), Foreign(), torch.nn.MultiheadAttention(4, 1, dropout=0.1)):
        assert dropouts([*own, other]) is None
        assert dropouts([*own, other.eval()]) == own[:1]
