"""The picture of docs/schedules.md: the log-SNR of every option of conf/schedule against t.

python benchmarks/schedule_plot.py [docs/schedules.png]
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

ROOT = Path(__file__).resolve().parents[1]
PANELS = {
    "In continuous time": ["linear", "cosine", "sigmoid", "laplace", "vp", "sub_vp"],
    "alpha = 1, and tables": ["karras", "ve", "ddpm", "scaled_linear", "discrete_cosine"],
    "Made of another": ["cosine", "shifted", "interpolated", "scaled_linear", "zero_terminal_snr"],
}
LIMIT = 13.0


def schedules() -> dict:
    """Every configured schedule, by the name of its option."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        names = sorted(path.stem for path in (ROOT / "conf" / "schedule").glob("*.yaml"))
        return {name: instantiate(compose(overrides=[f"+schedule={name}"]).schedule) for name in names}


def apart(heights: list[float], gap: float) -> list[float]:
    """The heights, in their order, moved as little as keeps ``gap`` between neighbours and all within the axes."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed = [0.0] * len(heights)
    floor = -LIMIT + gap / 2
    for rank, i in enumerate(order):
        above = LIMIT - gap / 2 - gap * (len(order) - 1 - rank)
        placed[i] = min(max(heights[i], floor), above)
        floor = placed[i] + gap
    return placed


def draw(axes, names: list[str], every: dict) -> None:
    """One panel; each curve is named at the right, in its own colour."""
    palette = plt.get_cmap("Dark2").colors
    colours = dict(zip(names, palette[: len(names)], strict=True))
    t = torch.linspace(0, 1, 4001, dtype=torch.float64)
    curves = {name: every[name].log_snr(t) for name in names}
    ends = [float(curves[name][t <= 0.985][-1].clamp(-LIMIT, LIMIT)) for name in names]
    for name, end, height in zip(names, ends, apart(ends, 1.7), strict=True):
        axes.plot(t, curves[name], color=colours[name], linewidth=1.6)
        axes.plot([0.985, 1.03], [end, height], color=colours[name], linewidth=0.7, clip_on=False)
        axes.text(1.04, height, name, color=colours[name], va="center", fontsize=9.5)
    axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    axes.set(xlim=(0, 1), ylim=(-LIMIT, LIMIT), xlabel="t (0 data, 1 noise)")
    axes.spines[["top", "right"]].set_visible(False)


def main(target: Path) -> None:
    every = schedules()
    drawn = {name for names in PANELS.values() for name in names}
    if drawn != set(every):
        raise SystemExit(f"PANELS and conf/schedule differ: {sorted(drawn ^ set(every))}")
    figure, panels = plt.subplots(1, 3, figsize=(12, 5), sharey=True, gridspec_kw={"wspace": 0.7})
    for axes, (title, names) in zip(panels, PANELS.items(), strict=True):
        draw(axes, names, every)
        axes.set_title(title, fontsize=11, loc="left")
        axes.tick_params(labelleft=True)
    panels[0].set_ylabel("log-SNR = log(alpha²/sigma²)")
    figure.savefig(target, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "schedules.png")
