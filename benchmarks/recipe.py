"""What a choice is worth at equal cost: train any configuration for so many seconds of one core, then measure it.

    python benchmarks/recipe.py --cpu-seconds 270 optimizer.lr=1e-3 data.batch_size=64

prints one JSON line: steps, images per CPU second, and the Fréchet distance of 2,000 samples of the averaged weights.
Training follows ``train.py`` (its configuration, data order, noise, average), in one thread and without callbacks; the
learning rate decays over the budget, whose end nobody knows in steps. CPU seconds count, so other work on the machine
does little harm. docs/first_run.md has the table that this made.
"""

import argparse
import json
import time
from contextlib import nullcontext
from pathlib import Path

import lightning
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from oboro.base.seeding import generator
from oboro.cli.device import resolve_precision
from oboro.evaluate.evaluator import Evaluator
from oboro.evaluate.protocol import Protocol

CONF = Path(__file__).resolve().parent.parent / "conf"


def build(overrides: list[str]):
    """Task, data, evaluator, gradient norm and autocast of ``train.py OVERRIDES``."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [*overrides, "output_dir=outputs"])
    plain = OmegaConf.to_container(config, resolve=True)
    lightning.seed_everything(config.seed, verbose=False)
    task, data = (instantiate(plain[key], _convert_="all") for key in ("task", "data"))
    data.prepare_data()
    data.setup()
    bf16 = resolve_precision(str(config.trainer.precision), "cpu") == "bf16-mixed"
    autocast = (lambda: torch.autocast("cpu", torch.bfloat16)) if bf16 else nullcontext
    extractor, metrics = (instantiate(plain[key], _convert_="all") for key in ("extractor", "metrics"))
    evaluator = Evaluator(extractor, metrics, data)
    return task, data, evaluator, config.trainer.gradient_clip_val, autocast


def train(task, data, clip: float, autocast, seconds: float) -> tuple[int, float]:
    """Steps done and CPU seconds spent."""
    parameters = list(task.denoiser.parameters())
    optimizer = task.optimizer.build(parameters)
    task.ema.start(task.denoiser)
    batches = iter(data.train_dataloader())
    start, step = time.process_time(), 0
    while (spent := time.process_time() - start) < seconds:
        warmup = min(1.0, (step + 1) / max(task.optimizer.warmup_steps, 1))
        for group in optimizer.param_groups:
            group["lr"] = task.optimizer.lr * warmup * task.optimizer.decay(spent / seconds)
        batch = data.on_after_batch_transfer(next(batches), 0)
        g = generator(task.seed, "train", step, 0, 0)
        with autocast():
            loss = task.loss(task.denoiser, batch["x"], task.conditioner(batch, g), g).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        task.ema.update(task.denoiser)
        step += 1
    return step, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu-seconds", type=float, default=270.0)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("overrides", nargs="*", help="Hydra overrides for train.py")
    args = parser.parse_args()
    torch.set_num_threads(1)
    task, data, evaluator, clip, autocast = build(args.overrides)
    steps, seconds = train(task, data, clip, autocast, args.cpu_seconds)
    images = steps * data.batch_size
    values = {}
    for profile in task.ema.profiles:
        protocol = Protocol(n=args.samples, ema=profile)
        found = evaluator.evaluate(task, protocol, precision="as trained", autocast=autocast)
        for name, value in found.numbers.items():
            values[f"{name} ({profile})"] = round(value, 3)
    row = {"overrides": args.overrides, "steps": steps, "images": images, "images/s": round(images / seconds, 1)}
    print(json.dumps({**row, **values}), flush=True)


if __name__ == "__main__":
    main()
