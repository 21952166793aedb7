"""The values of the published recipes, from the papers."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

import runs
from oboro.restore import inlined
from test_conf import learned_by

EXPERIMENTS = sorted(path.stem for path in (runs.ROOT / "conf/experiment").glob("*.yaml"))

TEACHERS = {"scd_cifar10": "edm.ckpt"}  # that an experiment learns from; not read here


DISTILLED = ("dmd2_cifar10",)


def published(name: str) -> tuple[dict, torch.nn.Module]:
    """The configuration as shipped and its task, on the meta device."""
    chosen = [f"experiment={name}", "output_dir=outputs"]
    if name in DISTILLED:
        chosen += ["task=distillation", f"loss.teacher.path={learned_by('diffusion')}"]
    with initialize_config_dir(str(runs.ROOT / "conf"), version_base="1.3"):
        teacher = [f"loss.teacher.path={TEACHERS[name]}"] if name in TEACHERS else []
        config = compose("train", [*chosen, *teacher])
    config = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    config["task"], _ = inlined(config["task"])
    with torch.device("meta"):
        return config, instantiate(config["task"], _convert_="all")


def images(config: dict) -> int:
    return config["trainer"]["max_steps"] * config["data"]["batch_size"]


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name.endswith("cifar10")])
def test_what_every_recipe_shares(name):
    config, task = published(name)
    assert config["task"]["denoiser"]["network"]["in_channels"] == 3
    assert config["callbacks"]["sample_metrics"]["n"] == 50_000
    assert config["extractor"]["_target_"] == "oboro.extractor.Inception"
    assert config["data"]["flip"] is True
    assert type(task.optimizer).__name__ in (("AdamW",) if name in DISTILLED else ("Adam", "RAdam"))


def test_ddpm():
    """Ho et al. 2020, section 4 and appendix B."""
    config, task = published("ddpm_cifar10")
    assert sum(p.numel() for p in task.parameters()) == 35_746_307
    assert (config["data"]["batch_size"], config["trainer"]["max_steps"]) == (128, 800_000)
    assert config["data"]["validation"] == 0  # FID against all 50,000 training images
    assert (task.optimizer.lr, task.optimizer.warmup_steps) == (2e-4, 5000)
    assert {task.optimizer.factor(step, 800_000) for step in (5000, 400_000, 799_999)} == {1.0}
    assert [p.decay for p in task.ema.profiles.values()] == [0.9999]
    assert config["trainer"]["gradient_clip_val"] == 1.0
    dropouts = {m.p for m in task.modules() if isinstance(m, torch.nn.Dropout)}
    assert dropouts == {0.1}
    assert (task.sampler.steps, task.sampler.eta) == (1000, 1.0)
    assert config["schedule"] == {"_target_": "oboro.schedule.VP", "beta_min": 0.1, "beta_max": 20.0}
    assert type(task.denoiser.parameterization).__name__ == "Eps"
    assert type(task.loss.weighting).__name__ == "Uniform" and type(task.loss.time).__name__ == "Uniform"
    assert task.conditioner.num_classes == 0


@pytest.mark.slow
def test_edm():
    """Karras et al. 2022, table 1 and appendix F; the network has their parameters, less those for augmentation."""
    config, task = published("edm_cifar10")
    assert type(task.denoiser.network).__name__ == "SongUNet"
    assert sum(p.numel() for p in task.parameters()) == 55_735_299 - 9 * 128
    assert images(config) == 200_000_000 and config["data"]["batch_size"] == 512
    assert task.optimizer.lr == 1e-3
    assert task.optimizer.warmup_steps * 512 == pytest.approx(10_000_000, rel=1e-4)
    (average,) = task.ema.profiles.values()
    assert average.decay ** (500_000 / 512) == pytest.approx(0.5, rel=2e-3)
    assert task.sampler.evaluations(task.denoiser.schedule) == 35
    assert (task.loss.time.mean, task.loss.time.std, task.loss.weighting.sigma_data) == (-1.2, 1.2, 0.5)
    schedule = {"_target_": "oboro.schedule.Karras", "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}
    assert config["schedule"] == schedule
    assert task.conditioner.num_classes == 10 and task.conditioner.dropout == 0.0
    assert {m.p for m in task.modules() if isinstance(m, torch.nn.Dropout)} == {0.13}


def test_flow_matching():
    """Lipman et al. 2023, section 6 and appendix E."""
    config, task = published("flow_cifar10")
    assert (config["data"]["batch_size"], config["trainer"]["max_steps"]) == (256, 391_000)
    assert (task.optimizer.lr, task.optimizer.warmup_steps) == (5e-4, 45_000)
    assert task.optimizer.factor(390_999, 391_000) < 1e-5
    assert config["model"]["channels"] == 256 and config["model"]["head_channels"] == 64
    assert config["model"]["channel_mult"] == [1, 2, 2, 2] and config["model"]["blocks"] == 2
    assert type(task.denoiser.parameterization).__name__ == "Velocity"
    assert {m.p for m in task.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}


@pytest.mark.slow
def test_dmd2():
    """The configuration of NVIDIA's FastGen, and the paper where that has another discriminator."""
    config, task = published("dmd2_cifar10")
    assert (config["data"]["batch_size"], config["trainer"]["max_steps"]) == (2048, 100_000)
    optimizer = task.optimizer
    assert (optimizer.lr, optimizer.betas, optimizer.weight_decay) == (1e-4, (0.9, 0.999), 0.01)
    assert optimizer.factor(0, 100_000) == 1.0
    assert task.learners["student"].every == 5 and task.learners["fake"].every == 1
    assert (task.loss.adversarial, task.loss.discriminator_weight) == (1e-3, 1e-2)
    assert (task.loss.time.low, task.loss.time.high, task.loss.weight) == (0.0, 1.0, "normalized")
    grid = task.sampler.nodes(task.denoiser.schedule)
    assert len(grid) == 2 and grid[0].sigma == pytest.approx(80.0)
    assert task.conditioner.num_classes == 10 and [p.decay for p in task.ema.profiles.values()] == [0.9999]


@pytest.mark.slow
def test_ect():
    """Geng et al. 2024, section 4: what a model of EDM is tuned with."""
    config, task = published("ect_cifar10")
    assert type(task.denoiser.network).__name__ == "SongUNet" and task.conditioner.num_classes == 0
    assert (config["data"]["batch_size"], config["trainer"]["max_steps"]) == (128, 200_000)
    curriculum = task.loss.curriculum
    assert (curriculum.q, curriculum.k, curriculum.b) == (2.0, 8.0, 1.0)
    assert curriculum.stage(199_999) == 7 and curriculum.stage(24_999) == 0
    assert (task.loss.time.mean, task.loss.time.std, task.loss.weight) == (-1.1, 2.0, "gap")
    assert task.loss.teacher is None and task.loss.penalty.scale < 1e-6
    assert (task.optimizer.lr, task.optimizer.factor(0, 200_000), type(task.optimizer).__name__) == (1e-4, 1.0, "RAdam")
    assert {m.p for m in task.modules() if isinstance(m, torch.nn.Dropout)} == {0.2}
    assert [p.decay for p in task.ema.profiles.values()] == [0.9999]
    levels = [node.sigma / node.alpha for node in task.sampler.nodes(task.denoiser.schedule)]
    assert levels == pytest.approx([80, 0.821, 0.0]) and task.sampler.jumps


def test_mean_flow():
    """Geng et al. 2025 (arXiv:2505.13447), section 5.2 and appendix A."""
    config, task = published("mean_flow_cifar10")
    assert (config["data"]["batch_size"], config["trainer"]["max_steps"]) == (1024, 800_000)
    assert (task.optimizer.lr, task.optimizer.warmup_steps) == (6e-4, 10_000)
    assert [(p.loc, p.scale) for p in (task.loss.time, task.loss.end_time)] == [(-2.0, 2.0)] * 2
    assert (task.loss.share, task.loss.order, task.loss.penalty.power) == (0.75, "sorted", 0.75)
    assert [p.decay for p in task.ema.profiles.values()] == [0.99995]
    assert {m.p for m in task.modules() if isinstance(m, torch.nn.Dropout)} == {0.2}
    assert task.sampler.evaluations(task.denoiser.schedule) == 1 and task.sampler.names_ends
    assert task.denoiser.reads_end and type(task.denoiser.parameterization).__name__ == "Velocity"
    assert task.conditioner.num_classes == 0


def test_continuous_consistency_distillation():
    """Lu & Song 2024 (arXiv:2410.11081), algorithm 1."""
    _, task = published("scd_cifar10")
    loss = task.loss
    assert (loss.time.mean, loss.time.std, loss.sigma_data) == (-1.0, 1.4, 0.5)
    assert (loss.warmup_steps, loss.normalisation) == (10_000, 0.1) and loss.teacher is not None
    assert type(loss.weighting).__name__ == "LearnedLogVariance" and type(loss.weighting.base).__name__ == "TrigFlow"
    assert {m.p for m in task.modules() if isinstance(m, torch.nn.Dropout)} == {0.2}
    assert task.sampler.evaluations(task.denoiser.schedule) == 1 and task.sampler.jumps
