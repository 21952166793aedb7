"""The table of docs/inverse_problems.md: ways to fill holes of held-out clothes, over seeds.

    python benchmarks/inpainting.py FOLDER DENOISER CONCAT...

measures with ``python evaluate.py``, one command for each method, hole and seed; what lies in FOLDER already is not
measured again. DENOISER is a checkpoint of ``python train.py``, each CONCAT one of experiment=inpainting_fashion with
data.seed=0, the first for seed=0: no model has seen any of the pictures. Numbers are means over seeds ± their
standard deviation.
"""

import subprocess
import sys
from pathlib import Path

import torch

from oboro.evaluate.result import read_result

HOUSE = Path(__file__).resolve().parent.parent
HOLES = {
    "box": ["measurement=mask_box", "measurement.height=14", "measurement.width=14"],
    "half": ["measurement=mask_half"],
    "70 % random": ["measurement=mask_random", "measurement.share=0.7"],
}
ANCESTRAL = "sampler=ddim_ancestral"
REPAINT = ["guidance=unguided", "sampler=repaint", "sampler.steps=50", "sampler.jump=5"]
METHODS = {
    "repaint, once": [*REPAINT, "sampler.repeats=1"],
    "repaint, 4 times": [*REPAINT, "sampler.repeats=4"],
    "ddnm": ["guidance=ddnm", ANCESTRAL, "sampler.steps=50"],
    "ddnm_plus": ["guidance=unguided", "sampler=ddnm_plus", "sampler.steps=50"],
    "pigdm": ["guidance=pigdm", ANCESTRAL, "sampler.steps=50"],
    "mmps": ["guidance=mmps", ANCESTRAL, "sampler.steps=50"],
    "dps": ["guidance=dps", "guidance.zeta=0.3", ANCESTRAL, "sampler.steps=250"],
}
TRAINED = "trained concatenation"
METRICS = ["frechet", "psnr", "perceptual_fashion", "known_kept"]
REGIONS = ["metrics.psnr.regions=[hole]", "metrics.perceptual_fashion.regions=[hole]"]
COMMON = ["n=500", "data.seed=0", f"metrics=[{','.join(METRICS)}]", *REGIONS]
SHOWN = {"fd_fashion": 2, "psnr_hole": 1, "perceptual_fashion_hole": 3, "known_kept": 4}


def measured(folder: Path, checkpoint: str, command: list[str]) -> tuple[dict[str, float], float]:
    """The values that ``python evaluate.py`` finds, by the names without n, and the evaluations of the network."""
    if not (folder / "evaluation.json").exists():
        arguments = [f"checkpoint={checkpoint}", *COMMON, *command]
        print(" ".join(["python evaluate.py", *arguments]), flush=True)
        run = [sys.executable, str(HOUSE / "evaluate.py"), *arguments, f"hydra.run.dir={folder}"]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL)
    result = read_result(folder / "evaluation.json")
    values = {name.removesuffix("_500"): value["value"] for name, value in result["metrics"].items()}
    return values, result["protocol"]["evaluations_per_sample"]


def main(folder: Path, denoiser: str, *concat: str) -> None:
    methods = {TRAINED: ["guidance=unguided"], **METHODS}
    rows: dict[tuple[str, str], list[list[float]]] = {(hole, method): [] for hole in HOLES for method in methods}
    evaluations: dict[str, float] = {}
    order = [(hole, method, seed) for method in methods for seed in range(len(concat)) for hole in HOLES]
    for hole, method, seed in order:
        checkpoint = concat[seed] if method == TRAINED else denoiser
        place = folder / f"{hole}-{method}-{seed}".replace(" ", "-").replace(",", "")
        command = [*HOLES[hole], *methods[method], f"seed={seed}"]
        values, evaluations[method] = measured(place, checkpoint, command)
        rows[hole, method].append([values[name] for name in SHOWN])
    for (hole, method), numbers in rows.items():
        mean, std = (f(torch.tensor(numbers), 0).tolist() for f in (torch.mean, torch.std))
        cells = [f"{m:.{d}f} ± {s:.{d}f}" for m, s, d in zip(mean, std, SHOWN.values(), strict=True)]
        print(" | ".join(["", hole, method, f"{evaluations[method]:.0f}", *cells, ""]).strip())


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
