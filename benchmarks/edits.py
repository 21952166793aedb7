"""The table and the picture of docs/editing.md: how often an edit changes the class, against how far it goes.

    python benchmarks/edits.py CHECKPOINT FOLDER [docs/edits.png]

edits held-out clothes with ``python edit.py``, one command for each pair of classes, edit, scale and seed; what lies in
FOLDER already is not made again. A flip is an edit that the classifier of extractor=fashion takes for the target; the
distance to the source is that of ``metrics=[perceptual_fashion]``, both of the files that the command wrote.
"""

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from oboro.extractor import Fashion
from oboro.metrics import PerceptualFashion
from oboro.modality import Image
from oboro.task.autoencoder import psnr

HOUSE = Path(__file__).resolve().parent.parent
PAIRS = {"sneaker to boot": (7, 9), "pullover to coat": (2, 4)}
SEEDS = (0, 1, 2)
WITHOUT_NOISE = ("inversion",)  # all seeds are one
NOISELESS = ["edit=inversion", "sampler=dpm_solver_pp", "sampler.steps=50"]
STRONG = {
    "ddpm_inversion": ["edit=ddpm_inversion", "sampler.steps=100"],
    "flow_edit": ["edit=flow_edit", "sampler.steps=50"],
}
GUIDED = "guidance=classifier_free"
SETTINGS: dict[str, dict[str, list[str]]] = {
    "sdedit": {f"strength {s}": ["edit=sdedit", f"edit.strength={s}", "sampler.steps=30"] for s in (0.5, 0.7, 0.85)},
    "inversion": {f"scale {w}": [*NOISELESS, GUIDED, f"guidance.scale={w}"] for w in (1, 3)},
    **{
        edit: {
            f"strength {s}, scale {w}": [*command, f"edit.strength={s}", GUIDED, f"guidance.scale={w}"]
            for s, w in ((0.6, 3), (0.8, 3), (0.9, 3))
        }
        for edit, command in STRONG.items()
    },
}


def write_originals(folder: Path) -> dict[str, Path]:
    """The held-out pictures of each source class."""
    with initialize_config_dir(str(HOUSE / "conf"), version_base="1.3"):
        data = instantiate(compose("train", ["output_dir=outputs"]).data)
    data.prepare_data()
    data.setup()
    held_out, places = data.validation, {}
    for name, (source, _) in PAIRS.items():
        places[name] = folder / "originals" / name.split()[0]
        places[name].mkdir(parents=True, exist_ok=True)
        for row in (held_out.labels == source).nonzero().flatten().tolist():
            data.modality.write(held_out.samples[row], places[name] / f"{row:04d}")
    return places


def edited(checkpoint: str, folder: Path, images: Path, pair: tuple[int, int], command: list[str], seed: int) -> Path:
    """The pictures that ``python edit.py`` makes."""
    if not (folder / "grid.png").exists():
        keys = [f"checkpoint={checkpoint}", f"image={images}", f"source_label={pair[0]}", f"label={pair[1]}"]
        print(" ".join(["python edit.py", *keys, *command, f"seed={seed}"]), flush=True)
        run = [sys.executable, str(HOUSE / "edit.py"), *keys, *command, f"seed={seed}", f"hydra.run.dir={folder}"]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
    return folder / "images"


@torch.no_grad()
def numbers(made: Path, images: Path, target: int) -> tuple[float, float, float]:
    """Share of flips, mean distance and mean PSNR to the sources."""
    modality, names = Image(1, 28, 28), sorted(file.name for file in images.glob("*.png"))
    x, source = (torch.stack([modality.read(folder / name) for name in names]) for folder in (made, images))
    fashion = Fashion()
    logits = fashion.forward(fashion.build().eval(), x, ["logits"])["logits"]
    a, b = modality.to_model(x), modality.to_model(source)
    distance = PerceptualFashion()
    distance.check(modality)
    far = distance.score(a, b, torch.ones_like(a, dtype=torch.bool))
    flips = (logits.argmax(1) == target).double().mean()
    return flips.item(), far.mean().item(), psnr(a, b).mean().item()


def main(checkpoint: str, folder: Path, picture: Path | None) -> None:
    places = write_originals(folder)
    rows = defaultdict(list)
    for name, pair in PAIRS.items():
        for edit, settings in SETTINGS.items():
            for label, command in settings.items():
                for seed in SEEDS[:1] if edit in WITHOUT_NOISE else SEEDS:
                    place = (
                        folder / name.replace(" ", "-") / edit / label.replace(", ", "-").replace(" ", "") / f"{seed}"
                    )
                    made = edited(checkpoint, place, places[name], pair, command, seed)
                    rows[name, edit, label].append(numbers(made, places[name], pair[1]))
    for (name, edit, label), values in rows.items():
        t = torch.tensor(values)
        mean, std = t.mean(0).tolist(), t.std(0, correction=min(1, len(t) - 1)).tolist()
        print(
            f"| {name} | `{edit}` | {label} | {100 * mean[0]:.0f} ± {100 * std[0]:.0f} % | {mean[1]:.3f} ± {std[1]:.3f}"
            f" | {mean[2]:.1f} ± {std[2]:.1f} |"
        )
    if picture is not None:
        draw(rows, picture)


def draw(rows: dict[tuple[str, str, str], list[tuple[float, float, float]]], picture: Path) -> None:
    """Flips against distance, a line for each edit and a point for each seed."""
    figure, panels = plt.subplots(1, len(PAIRS), figsize=(11, 4.4), sharey=True, layout="constrained")
    for axes, name in zip(panels, PAIRS, strict=True):
        for colour, edit in zip(("#0072B2", "#D55E00", "#009E73", "#CC79A7"), SETTINGS, strict=True):
            settings = [
                torch.tensor(values) for (pair, kind, _), values in rows.items() if (pair, kind) == (name, edit)
            ]
            mean = torch.stack(sorted((points.mean(0) for points in settings), key=lambda point: float(point[1])))
            axes.plot(mean[:, 1], 100 * mean[:, 0], color=colour, label=edit)
            axes.scatter(*(torch.cat(settings)[:, [1, 0]] * torch.tensor([1.0, 100.0])).T, color=colour, s=12)
        axes.set(title=name, xlabel="distance to the source (perceptual_fashion)", ylim=(-3, 103))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("flips to the target class, %")
    panels[0].legend()
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
