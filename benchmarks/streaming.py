"""How fast data=streaming reads, and how long a training step waits for it.

    python benchmarks/streaming.py FOLDER --sides 64 256

cuts 2,000 pictures of each side out of the photographs of scikit-image, saves them as JPEG, packs them, and prints a
row for each: bytes of a picture; pictures a second that one process reads, decoded and batched by 32; and, up to 128
pixels, of 20 steps of ``model=unet_tiny`` the share of the time that a step waits for its batch, with the array of
``data=image_folder`` and with shards and 0, 1 and 2 workers. docs/streaming.md has the table.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import skimage.data
from budget import remembered, run
from PIL import Image
from torch.utils.data import DataLoader

from oboro.data import ImageFolder, Streaming
from oboro.data.pack import pack

COUNT, BATCH, STEPS = 2000, 32, 20
TRAINED = 128  # the largest side
PHOTOGRAPHS = ("astronaut", "cat", "chelsea", "coffee", "rocket")


def pictures(folder: Path, side: int) -> None:
    """Random crops, of 1 to 1.5 times the side, which are then scaled."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(side)
    photographs = [Image.fromarray(getattr(skimage.data, name)()) for name in PHOTOGRAPHS]
    for i in range(COUNT):
        photograph = photographs[i % len(photographs)]
        size = min(int(side * rng.uniform(1, 1.5)), *photograph.size)
        left, top = (int(rng.integers(0, n - size + 1)) for n in photograph.size)
        photograph.crop((left, top, left + size, top + size)).resize((side, side)).save(folder / f"{i}.jpg", quality=90)


def read(data: Streaming) -> float:
    """Pictures a second, in this process."""
    data.prepare_data()
    data.setup()
    loader: DataLoader = data.train_dataloader()
    batches = iter(loader)
    for _ in range(5):
        next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < 10:
        count += len(next(batches)["x"])
    return count / (time.perf_counter() - start)


def waited(folder: Path, side: int, typed: list[str]) -> float:
    """Share of the time of training steps."""
    arguments = [*typed, f"data.resolution={side}", f"data.batch_size={BATCH}", "data.num_classes=0", "metrics=[]"]
    arguments += ["model=unet_tiny", f"trainer.max_steps={STEPS}", f"trainer.val_check_interval={STEPS}"]
    arguments += [f"callbacks.throughput.every_n_steps={STEPS // 2}", "callbacks=[throughput]", "logger=[jsonl]"]
    status, _ = run("train.py", folder, arguments)
    if status:
        raise SystemExit(f"training failed, see {folder}.log")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["time/data"] for row in rows if "time/data" in row][-1]


def row(folder: Path, side: int) -> dict[str, float]:
    source, shards = folder / f"{side}", folder / f"{side}-shards"
    if not source.exists():
        pictures(source, side)
    settings = {"resolution": side, "channels": 3, "num_classes": 0, "cache_dir": str(folder / "cache")}
    if not shards.exists():
        pack(ImageFolder(root=str(source), **settings), shards)
    made = {"bytes": sum(path.stat().st_size for path in source.iterdir()) / COUNT}
    made["read"] = read(Streaming(root=str(shards), batch_size=BATCH, num_workers=0, **settings))
    if side > TRAINED:
        return made
    made["array"] = waited(folder / f"{side}-array", side, ["data=image_folder", f"data.root={source}"])
    for workers in (0, 1, 2):
        typed = ["data=streaming", f"data.root={shards}", f"data.num_workers={workers}"]
        made[f"{workers} workers"] = waited(folder / f"{side}-{workers}", side, typed)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 256])
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for side in arguments.sides:
        print(json.dumps({"side": side, **remembered(folder / f"{side}.json", lambda side=side: row(folder, side))}))


if __name__ == "__main__":
    main()
