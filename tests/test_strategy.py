"""FSDP2 on two processes, held against DDP on two and against one: the same run, with half of the state on each."""

import os
from pathlib import Path

import lightning
import pytest
import torch
from safetensors.torch import load_file

import oboro.strategy  # noqa: F401, registers the name
import runs
from oboro.base import distributed, shards
from oboro.restore.archive import read_unchecked
from oboro.restore.lightning_file import Way, use_checkpoint_file
from oboro.restore.sharded import join_shards
from ranks import on_ranks

FAST = ("optimizer.lr=0.001", "data.batch_size=8", "data.validation=8", "trainer.val_check_interval=1000")
ALL = (  # what a step can do, and validation
    *("optimizer.lr=0.001", "data.batch_size=16", "data.validation=24", "trainer.val_check_interval=2"),
    *("trainer.gradient_clip_val=0.5", "trainer.accumulate_grad_batches=2", "model.dropout=0.3"),
    *("loss/weighting=learned_log_variance", "loss/time=loss_aware", "loss.time.bins=2", "loss.time.history=3"),
)
CASES = {  # name: the run, and its steps
    "all": (ALL, 4),
    "edm2": ((*FAST, "model=edm2_unet_tiny"), 3),
    "dit": ((*FAST, "model=dit_tiny", "model.checkpointing=true"), 2),
    "lora": ((*FAST, "adapter=lora", "adapter.rank=2"), 2),
    "classes": ((*FAST, runs.CLASSIFICATION), 2),
    "clip": ((*FAST, runs.CLIP), 2),
    "autoencoder": ((*FAST, runs.AUTOENCODER, "loss/perceptual=zero", "trainer.accumulate_grad_batches=2"), 3),
    "bf16": ((*FAST, "trainer.precision=bf16-mixed"), 2),
    "left out": ((*FAST, "divergence=skip"), 3),
    "memory": ((*FAST, "trainer.val_check_interval=2", "data.validation=24"), 3),
    "by value": ((*FAST, "trainer.gradient_clip_val=0.001", "+trainer.gradient_clip_algorithm=value"), 2),
}
NETWORK, TRANSFORMER = runs.NETWORK, ("model.patch=7", "model.dim=32", "model.depth=3", "model.heads=2")
MIDDLE = 2
APART = Way(sharded=True, asynchronous=True)


class Watch(lightning.Callback):
    """The losses of all ranks; a checkpoint of step ``MIDDLE``; broken samples on one rank at step 2 of "left out", and
    on one rank memory for ``fits`` samples at once, which it notices in the middle of what is not training."""

    def __init__(self, file: Path, broken: bool, fits: int | None):
        self.file = file
        self.broken = broken
        self.losses: list[float] = []
        self.fits = fits
        self.saved = False  # not asked of the disk: a rank that comes late would see the file of the first one

    def on_fit_start(self, trainer, task):
        def door(module, inputs):
            if not module.training and len(inputs[0]) > self.fits:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

        if self.fits and trainer.global_rank == 1:
            list(shards.units(task.sharded[0]))[-1].register_forward_pre_hook(door)

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        if self.broken and batch_idx == 1 and trainer.global_rank == 1:
            batch["x"].fill_(float("nan"))

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        self.losses.append(distributed.mean(outputs["loss"]).item())
        if trainer.global_step == MIDDLE and not self.saved and trainer.ckpt_path is None:
            self.saved = True
            trainer.save_checkpoint(self.file, weights_only=False)


def trained(case: str, strategy: str, folder: Path, resume: Path | None = None, devices: int = 2) -> dict:
    """What the processes see of a run: numbers, how much they hold, and samples of the averaged weights."""
    overrides, steps = CASES[case]
    folder.mkdir(parents=True, exist_ok=True)
    runs.NETWORK = TRANSFORMER if case == "dit" else NETWORK
    watch = Watch(folder / f"{MIDDLE}.ckpt", case == "left out", 3 if case == "memory" else None)
    trainer, task, data = runs.built(
        *overrides, callbacks=[watch], accelerator="cpu", max_steps=steps, devices=devices, strategy=strategy
    )
    trainer.fit(task, data, ckpt_path=resume, weights_only=True)
    with task.averaged():
        trainer.save_checkpoint(folder / "last.ckpt", weights_only=False)  # of the raw weights
    apart = folder / "apart"
    apart.mkdir(exist_ok=True)
    use_checkpoint_file(trainer.strategy)
    with task.averaged():
        trainer.save_checkpoint(apart / "last.ckpt", weights_only=False, storage_options=APART)
    trainer.strategy.checkpoint_io.wait()
    with task.averaged():  # as many passes as one likes, on one rank alone
        draws = task.draws and distributed.rank() == 0
        cond = task.conditioner.for_samples([0, 1], None) if draws else None
        samples = task.generate([0, 1], 0, cond, data.modality.shape) if draws else None
    validation = {name: v.item() for name, v in trainer.callback_metrics.items() if name.startswith("val/")}
    trained = [p for p in task.parameters() if p.requires_grad]
    of_adam = [v for kept in trainer.optimizers[0].state.values() for v in kept.values() if v.ndim]
    return {
        "losses": watch.losses,
        "validation": validation,
        "samples": samples,
        "weights": sum(p.numel() for p in trained),
        "held": [
            sum(shards.local(v).numel() for v in values)
            for values in (trained, task.ema.averages[task.ema.default], of_adam)
        ],
    }


def train_all(rank: int, folder: Path) -> None:
    os.chdir(folder)
    seen = {}
    for case in CASES:
        for strategy in ("ddp", "fsdp2"):
            seen[case, strategy] = trained(case, strategy, folder / case / strategy)
    for strategy in ("ddp", "fsdp2"):
        before = folder / "all" / strategy / f"{MIDDLE}.ckpt"
        seen["all", f"from {strategy}"] = trained("all", "fsdp2", folder / "all" / f"from {strategy}", before)
    torch.save(seen, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[dict, dict, Path]:
    """What each of two processes saw, and the folder of their checkpoints."""
    folder = tmp_path_factory.mktemp("pair")
    runs.composed()  # prepares the data, once
    on_ranks(2, train_all, folder)
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    return first, second, folder


def tensors(node, path=()) -> dict[tuple, torch.Tensor]:
    """All tensors of nested containers by their places."""
    if isinstance(node, torch.Tensor):
        return {path: node}
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    return {place: t for key, child in items for place, t in tensors(child, (*path, key)).items()}


def check_near(a: Path, b: Path, most: float) -> None:
    """Of two checkpoints: the same things of the same shapes, with values that differ by ``most`` at most."""
    a, b = (tensors(torch.load(path, weights_only=True)) for path in (a, b))
    assert a.keys() == b.keys()
    for place, value in a.items():
        assert value.shape == b[place].shape and value.dtype == b[place].dtype and type(b[place]) is torch.Tensor
        gap = (value.double() - b[place].double()).abs().max().item() if value.numel() else 0.0
        assert gap <= most, (place, gap)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_run_is_that_of_ddp(pair, case):
    """Losses, validation, samples, and all that a checkpoint holds."""
    first, second, folder = pair
    ddp, fsdp = first[case, "ddp"], first[case, "fsdp2"]
    assert ddp["losses"] == pytest.approx(fsdp["losses"], abs=1e-5 if case != "bf16" else 1e-3, nan_ok=True)
    assert ddp["validation"] == pytest.approx(fsdp["validation"], abs=1e-5)
    if ddp["samples"] is not None:
        torch.testing.assert_close(ddp["samples"], fsdp["samples"], atol=1e-4 if case != "bf16" else 1e-3, rtol=0)
    most = 1e-5 if case != "bf16" else 5e-3  # where a gradient of 8 bits is rounding, so is the sign of Adam's step
    check_near(folder / case / "ddp" / "last.ckpt", folder / case / "fsdp2" / "last.ckpt", most)
    assert first[case, "fsdp2"]["losses"] == pytest.approx(second[case, "fsdp2"]["losses"], nan_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_what_the_ranks_write_apart_is_what_is_gathered(pair, case):
    """In the background, too; each writes about half."""
    *_, folder = pair
    for strategy in ("ddp", "fsdp2"):
        path = folder / case / strategy / "apart" / "last.ckpt"
        whole = torch.load(folder / case / strategy / "last.ckpt", weights_only=True)
        assert runs.equal(join_shards(read_unchecked(path), path), whole)
        files = sorted((path.parent / "shards" / f"{whole['global_step']:08d}").iterdir())
        assert [file.name for file in files] == ["00000.safetensors", "00001.safetensors"][: 1 + (strategy == "fsdp2")]
        if case in ("all", "edm2", "dit"):
            share = 1 if strategy == "ddp" else 0.65
            assert max(size(load_file(file)) for file in files) <= share * size(whole)


def size(node) -> int:
    return sum(tensor.nbytes for tensor in tensors(node).values())


@pytest.mark.slow
def test_each_rank_holds_half(pair):
    """Of weights, averages and both moments of Adam, but for rows that do not divide."""
    first, second, _ = pair
    for case in ("all", "edm2", "dit"):
        for rank in (first, second):
            weights, averages, moments = rank[case, "fsdp2"]["held"]
            whole = rank[case, "fsdp2"]["weights"]
            assert max(weights, averages, moments / 2) < 0.55 * whole, case
        assert first[case, "ddp"]["held"][0] == whole


@pytest.mark.slow
def test_a_run_goes_on_to_the_last_bit(pair):
    *_, folder = pair
    assert runs.equal(*(torch.load(folder / "all" / f / "last.ckpt")["state_dict"] for f in ("fsdp2", "from fsdp2")))


@pytest.mark.slow
def test_a_run_of_ddp_goes_on_in_shards(pair):
    *_, folder = pair
    check_near(folder / "all" / "ddp" / "last.ckpt", folder / "all" / "from ddp" / "last.ckpt", 1e-5)


@pytest.mark.slow
def test_a_run_goes_on_upon_one_device(pair, tmp_path):
    *_, folder = pair
    middle = folder / "all" / "fsdp2" / f"{MIDDLE}.ckpt"
    trained("all", "auto", tmp_path, middle, devices=1)
    check_near(folder / "all" / "fsdp2" / "last.ckpt", tmp_path / "last.ckpt", 1e-5)


@pytest.mark.slow
def test_what_is_measured_in_training_is_measured_again_on_one_device(tmp_path):
    """To the last bit, though a rank takes as many passes as its own samples need (sampler=adaptive)."""
    settings = ("trainer.devices=2", "trainer.strategy=fsdp2", "trainer.val_check_interval=2")
    settings += ("callbacks.checkpoints.sharded=true", "callbacks.checkpoints.asynchronous=true")
    overrides = runs.outputs(tmp_path / "run", *runs.toy(*settings, "sampler=adaptive", "sampler.steps=300"))
    run = runs.succeeded(runs.shell("train.py", *overrides, cwd=tmp_path))
    run = runs.Run(run.status, run.stdout, run.stderr, tmp_path / "run")
    assert "Warning" not in run.stderr and "UNet, " in run.stdout and "FSDP" not in run.stdout
    again = runs.evaluate(tmp_path / "again", run.last, "n=20", "chunk=8")
    assert again["values"] == {name: run.logged(name)[2] for name in again["values"]}


def test_what_cannot_be_sharded_is_refused(tmp_path):
    for typed, meant in {
        ("trainer.strategy=fsdp2", "optimizer=adamw_8bit"): "choose optimizer=adamw",
        ("trainer.strategy=fsdp",): "auto, ddp, fsdp2",
        ("trainer.strategy=deepspeed_stage_2",): "auto, ddp, fsdp2",
    }.items():
        run = runs.call("train.py", *runs.outputs(tmp_path / typed[-1], *runs.toy(*typed)), cwd=tmp_path)
        assert run.status == 1 and meant in run.stderr and "Traceback" not in run.stderr
