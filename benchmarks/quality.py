"""Fréchet distance at equal wall clock: oboro's first run beside diffusers' ``train_unconditional`` recipe.

    pip install -e ".[benchmark]"
    python benchmarks/quality.py --seconds 300

The peer's recipe, from the defaults of that script: batch 16, AdamW (lr 1e-4, betas 0.95 and 0.999, weight decay 1e-6)
with 500 warm-up steps, eps prediction on 1000 linear betas, EMA of at most 0.9999 with warm-up (power 3/4), gradient
norm 1, float32. Its network is a UNet2DModel of 1.6 M parameters at 32×32. Both see the 9,500 training images that the
first run sees; the peer's are padded to 32×32 and its samples cropped back, so that no resize blurs them. The peer is
sampled from its averaged weights with DDIM. Both numbers are the distance of 2,000 samples in the `fashion` features.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from oboro.data import FashionMNIST
from oboro.extractor import Fashion
from oboro.metrics import Extracted, Frechet, look_at, measure
from oboro.modality import to_uint8

ROOT = Path(__file__).resolve().parent.parent


def data() -> FashionMNIST:
    """The embedded data with the split of the first run."""
    module = FashionMNIST(part="test", channels=1, resolution=28, num_classes=10, batch_size=16, validation=500, seed=0)
    module.prepare_data()
    module.setup()
    return module


def ours(overrides: list[str]) -> dict:
    """``python train.py`` as it is; its own last line of metrics and its training seconds."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "train.py"), f"hydra.run.dir={folder}", *overrides]
        subprocess.run(command, check=True, cwd=ROOT)
        rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    merged = {k: v for row in rows for k, v in row.items()}
    (name,) = [k for k in merged if k.startswith("fd_")]
    return {
        "who": "oboro train.py",
        "seconds": merged["training_seconds"],
        "images": max(r["images"] for r in rows),
        name: merged[name],
    }


def diffusers_recipe(seconds: float, n: int, sampling_steps: int) -> dict:
    """The peer for ``seconds`` of training."""
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    torch.manual_seed(0)
    module = data()
    images = F.pad(
        module.train.samples[torch.arange(len(module.train.samples))].float() / 127.5 - 1, (2, 2, 2, 2), value=-1
    )
    model = UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=16,
    )
    ema = EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    steps_of_100_epochs = 100 * len(images) // 16
    rate = get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=steps_of_100_epochs)
    start = time.perf_counter()
    steps = 0
    while time.perf_counter() - start < seconds:
        steps += 1
        x = images[torch.randint(len(images), (16,))]
        noise, t = torch.randn_like(x), torch.randint(1000, (16,))
        loss = F.mse_loss(model(scheduler.add_noise(x, noise, t), t).sample, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        ema.step(model.parameters())
    spent = time.perf_counter() - start
    ema.copy_to(model.parameters())
    model.eval()
    samples = []
    sampler = DDIMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    sampler.set_timesteps(sampling_steps)
    with torch.no_grad():
        for first in range(0, n, 100):
            x = torch.randn(min(100, n - first), 1, 32, 32)
            for t in sampler.timesteps:
                x = sampler.step(model(x, t).sample, t, x).prev_sample
            samples.append(to_uint8(x[..., 2:-2, 2:-2]))
    extractor, train = Fashion(), module.train.samples
    reference = Extracted(extractor, ["features"], train, None, train.fingerprint, "train", module.cache_dir)
    values = measure({"frechet": Frechet()}, extractor, look_at(torch.cat(samples), extractor), reference)
    return {
        "who": f"diffusers train_unconditional, DDIM {sampling_steps}",
        "seconds": spent,
        "images": 16 * steps,
        **{name: value.value for name, value in values.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0, help="training time of the peer")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--peer-sampling-steps", type=int, default=20)
    parser.add_argument("--only", choices=("ours", "peer"), help="run one side")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides for train.py")
    args = parser.parse_args()
    rows = []
    if args.only != "peer":
        rows.append(ours(args.overrides))
    if args.only != "ours":
        rows.append(diffusers_recipe(args.seconds, args.samples, args.peer_sampling_steps))
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
