"""Write docs/options.md from the files of conf/: every group, its options and their settings.

python docs/options.py

An option is described by the first sentence of the comment at the top of its file, or else of its class's docstring.
"""

import re
from pathlib import Path

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
PAGE = ROOT / "docs" / "options.md"
WHOLE = ("experiment", "task", "hparams_search", "debug", "trainer")  # groups that set many things at once
HEAD = """# Options

*Generated from `conf/` by `python docs/options.py`; change the files there.*

On the command line `group=option` chooses an option, `group.setting=value` changes one of its settings, and some
groups are lists, `group=[one,another]`. A nested group is `loss/weighting=min_snr`, and its settings are
`loss.weighting.gamma=3`. The option `conf/<group>/<name>.yaml` configures the class `oboro.<group>.<Name>`; its
docstring has the formula and the paper. Options in **bold** are the defaults of `task=diffusion`.
`python train.py --cfg job` prints all values of a run.
"""
GROUPS = {
    "task": "What is trained.",
    "experiment": "A whole run, `experiment=NAME` ([recipes.md](recipes.md)).",
    "data": "What is learned from ([data.md](data.md)).",
    "model": "The network. Where a task is not named, it is a denoiser's.",
    "schedule": "How data turn into noise ([schedules.md](schedules.md)).",
    "parameterization": "What the network predicts.",
    "loss": "What training minimises.",
    "loss/time": "Which noise levels training visits.",
    "loss/weighting": "How much each noise level counts.",
    "loss/penalty": "The distance between prediction and target.",
    "loss/noise": "What is added to data in training.",
    "loss/coupling": "Which noise meets which data.",
    "loss/curriculum": "How near each other the two times of a consistency loss lie ([few_steps.md](few_steps.md)).",
    "loss/perceptual": "A distance of images for `task=autoencoder`.",
    "loss/discriminator": "The opponent of an autoencoder.",
    "loss/features": "What the discriminator of `loss=add` looks at ([few_steps.md](few_steps.md)).",
    "teacher": "A trained model that a loss learns from, as `loss.teacher` ([few_steps.md](few_steps.md)).",
    "sampler": "How noise turns into data ([choosing.md](choosing.md)).",
    "sampler/grid": "Where the steps of a sampler lie.",
    "guidance": "How samples are steered ([choosing.md](choosing.md#guidance)).",
    "detector": "What finds anomalies, `oboro detect` ([anomaly.md](anomaly.md)).",
    "distance": "How far a reconstruction is from a sample, a list.",
    "edit": "How pictures are changed, `oboro edit` ([editing.md](editing.md)).",
    "guidance/weight": "How strong guidance is at each noise level.",
    "anomalies": "The test set of anomaly detection ([data.md](data.md#test-sets-of-anomaly-detection)).",
    "measurement": "What is known of a sample ([inverse_problems.md](inverse_problems.md)).",
    "codec": "The space in which diffusion works ([latent.md](latent.md)).",
    "conditioner": "What samples are conditioned on.",
    "adapter": "Which weights are trained ([finetuning.md](finetuning.md)).",
    "ema": "Averages of the weights.",
    "optimizer": "The optimizer and its learning rate.",
    "metrics": "What is measured, a list ([metrics.md](metrics.md)).",
    "extractor": "The features in which samples are measured.",
    "callbacks": "What happens beside training, a list; `+callbacks=NAME` adds one.",
    "logger": "Where numbers are written, a list.",
    "trainer": "Arguments of Lightning's `Trainer`.",
    "hparams_search": "A search over settings ([sweeps.md](sweeps.md)).",
    "debug": "Help in finding a mistake.",
}


def groups() -> list[str]:
    """Every folder of options, those named above first and in their order."""
    folders = {path.parent.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml")} - {".", "hydra/launcher"}
    return [*(g for g in GROUPS if g in folders), *sorted(folders - set(GROUPS))]


def defaults() -> set[tuple[str, str]]:
    """(group, option) pairs that a run takes unless others are named."""
    chosen: set[tuple[str, str]] = set()
    for path in (CONF / "train.yaml", CONF / "task/diffusion.yaml"):
        chosen |= set(choices(path, ""))
    for group, option in list(chosen):
        if (path := CONF / group / f"{option}.yaml").exists():
            chosen |= set(choices(path, group))
    return chosen


def choices(path: Path, group: str) -> list[tuple[str, str]]:
    """What the defaults list of a file chooses."""
    found = []
    for entry in OmegaConf.load(path).get("defaults", []):
        if isinstance(entry, DictConfig):
            ((key, value),) = entry.items()
            name = key.removeprefix("override ").removeprefix("optional ").partition("@")[0]
            name = name[1:] if name.startswith("/") else f"{group}/{name}".strip("/")
            found += [(name, str(option)) for option in (value if OmegaConf.is_list(value) else [value])]
    return found


def base(path: Path) -> Path | None:
    """The option of the same group that this one extends."""
    for entry in OmegaConf.load(path).get("defaults", []):
        if isinstance(entry, str) and entry != "_self_" and (path.parent / f"{entry}.yaml").exists():
            return path.parent / f"{entry}.yaml"
    return None


def target(path: Path) -> str | None:
    """The class that an option configures, if need be that of the option it extends."""
    name = OmegaConf.load(path).get("_target_")
    return name if name or not (extended := base(path)) else target(extended)


def description(path: Path) -> str:
    """The first sentence of the comment at the top, or of the docstring of the class."""
    lines = path.read_text().splitlines()
    head = lines[: next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    comment = " ".join(line.removeprefix("#").strip() for line in head if not line.startswith("# @package"))
    text = comment or (get_class(target(path)).__doc__ if target(path) else "") or ""
    sentence = re.split(r"(?<=[.])(?<!al\.)\s+(?=[A-Z`\d])|\n\n", text.strip(), maxsplit=1)[0].replace("``", "`")
    return " ".join(sentence.split()).rstrip(".:;").replace("|", "\\|")


def settings(path: Path) -> str:
    """What an option sets itself, "as `unipc` `b1=true`", without parts that are classes and interpolated values."""
    if path.parent.name in WHOLE:
        return ""
    config = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    values = {k: v for k, v in config.items() if k not in ("defaults", "_target_")}
    pairs = [f"{k}={text(v)}" for k, v in values.items() if plain(v) and not str(v).startswith("${")]
    extended = base(path)
    words = [f"as `{extended.stem}`"] if extended else []
    return " ".join([*words, *(f"`{pair}`" for pair in pairs)]).replace("|", "\\|")


def plain(value: object) -> bool:
    """Whether a value is typed easily: no mapping and no list of them."""
    return not isinstance(value, dict) and not (isinstance(value, list) and any(isinstance(v, dict) for v in value))


def text(value: object) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(text, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def table(group: str, chosen: set[tuple[str, str]]) -> str:
    rows = ["| option | | settings |", "|---|---|---|"]
    for path in sorted((CONF / group).glob("*.yaml")):
        name = f"**`{path.stem}`**" if (group, path.stem) in chosen else f"`{path.stem}`"
        rows.append(f"| {name} | {description(path)} | {settings(path)} |")
    return "\n".join(rows)


def page() -> str:
    """The text of docs/options.md."""
    chosen = defaults()
    sections = [
        [f"## {group}", *([GROUPS[group]] if group in GROUPS else []), table(group, chosen)] for group in groups()
    ]
    return "\n\n".join([HEAD.strip(), *("\n\n".join(section) for section in sections)]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
