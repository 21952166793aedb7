"""python train.py resume=PATH: a run goes on as it was; the command line says what shall be otherwise.

What the checkpoint was trained with are options called ``from_checkpoint``, as for ``init=``, and a layer of values
over what the task's option sets. An experiment comes after that layer and the command line last, so both count as
named, and the command line that started the run gives the run again.
"""

import re
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override

from oboro.base.errors import UserError
from oboro.base.grammar import files, parsed, quoted, values
from oboro.cli.folder import AUTO
from oboro.cli.offered import OPTION, elsewhere, is_group, offer, store
from oboro.cli.options import folders
from oboro.restore.beside import BESIDE, LOOKED_AT_BY_CALLBACKS, output_folder, restored
from oboro.restore.checkpoint import check_kind, kind_of, load_checkpoint
from oboro.restore.plain import plain
from oboro.restore.rebuild import check_trainable

WHOLE = ("experiment", "debug", "hparams_search")  # options that choose others and set values anywhere
LISTS = ("metrics", "callbacks", "logger")  # groups of which a run has several options
AT_THE_ROOT = ("data", "extractor", "metrics", "seed", *BESIDE)  # of a stored configuration, beside its task
BROUGHT = {"data": ("conditioner", "extractor"), "model": ("optimizer",)}  # groups that an option of another chooses
VALUE = re.compile(r"\$\{([\w.]+)\}")
ELSEWHERE = re.compile(r"^[/~]|(^|/)\.\.(/|$)")  # a path that leads out of the folder that it is in
MOVABLE = re.compile(r"[^$\\{}]*")  # of a path: nothing that OmegaConf would read as more than text

Config = dict[str, Any]
Place = tuple[str, ...]


def offer_resume(arguments: list[str]) -> list[str]:
    """``arguments`` of train.py, with the options of ``resume=PATH`` before those that are named.

    Raises ``UserError`` where there is no such checkpoint, where it holds no state of training or is of another task
    than the one that is named, and where there is an ``init`` beside it.
    """
    path = chosen(arguments, "resume")
    if path in (None, AUTO):  # auto: of a job, which has a folder, or of one that is not known yet
        return arguments
    check_alone(path, chosen(arguments, "init"))
    file = file_named(path)
    checkpoint = load_checkpoint(file)
    check_trainable(checkpoint, file)
    kind, config = kind_of(checkpoint), checkpoint["config"]
    words, flags = split(arguments)
    typed = [(word, parsed(word)) for word in words if not word.endswith(f"={OPTION}")]
    overrides = [o for _, o in typed if o is not None]
    named = named_options(overrides)
    if "task" in named:
        check_kind(checkpoint, file, named["task"])
    stored = layer_of({**config, **restored(config, file)[0]}, kind)
    rewired = Rewiring(stored, output_folder(config), {o.key_or_group for o in overrides}, file)
    added = offer_all(stored, set(named), kind, file, rewired)
    rest = [again(word, o, stored, named) for word, o in typed if key_of(word) not in ("task", "resume")]
    several = len(values(words, "resume")) > 1  # of the jobs of a sweep
    last = [w for w in words if key_of(w) == "resume"] if several else [f"resume={quoted(str(file.resolve()))}"]
    return [*flags, *with_lists(added, overrides), *(word for word in rest if word is not None), *last]


def key_of(word: str) -> str:
    return word.lstrip("+").partition("=")[0]


def check_alone(resume: str | None, init: str | None) -> None:
    """Raises ``UserError`` where a run shall go on and start anew."""
    if resume is not None and init is not None:
        raise UserError(
            "resume goes on from a checkpoint and init starts anew from one; leave one of the two out (a run that "
            "began with init goes on with resume alone)."
        )


def file_named(text: str) -> Path:
    """The checkpoint that a value on the command line means: a file, or the last one of a run's folder. Raises
    ``UserError`` for a folder without one."""
    path = Path(text).expanduser()
    last = path / "checkpoints" / "last.ckpt"
    if path.is_dir() and not last.is_file():
        raise UserError(f"{path} is a folder without checkpoints/last.ckpt; give a run's folder, or a .ckpt file.")
    return last if path.is_dir() else path


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The overrides on a command line, and its flags with their values."""
    words = list(get_args_parser().parse_known_args(arguments)[0].overrides)
    flags = list(arguments)
    for word in words:
        flags.remove(word)
    return words, flags


def chosen(arguments: list[str], key: str) -> str | None:
    """The text that ``key=...`` gives, of a sweep the first one; None without one, or for null."""
    return next(iter(files(arguments, key)), None)


def named_options(overrides: list[Override]) -> dict[str, str]:
    """The options that the command line chooses, or an experiment on it, by their places in the configuration.

    One that is added to a list (``+callbacks=snapshots``) leaves the rest of the list as it was.
    """
    named: dict[str, str] = {}
    for o in overrides:
        group, value = o.key_or_group, None if o.is_delete() else o.value()
        if group in WHOLE:
            for name in value if isinstance(value, list) else [value]:
                named |= chosen_by(group, str(name))
        elif is_group(group) and added_options(o) is None:
            named[place_of(group, o.package)] = str(value)
    return named


def added_options(o: Override) -> list[str] | None:
    """What ``o`` adds to a group that is a list; None where it does not add."""
    value = None if o.is_delete() else o.value()
    names = [str(name) for name in (value if isinstance(value, list) else [value])]
    if o.key_or_group not in LISTS or o.package is not None or o.is_delete():
        return None
    if o.is_add():
        return names
    return names[1:] if names[:1] == [OPTION] else None  # as ``with_lists`` writes it, in a job of a sweep


def with_lists(added: list[str], overrides: list[Override]) -> list[str]:
    """``added`` with the options beside those of the checkpoint: callbacks=[from_checkpoint,snapshots]."""
    more: dict[str, list[str]] = {}
    for o in overrides:
        more.setdefault(o.key_or_group, []).extend(added_options(o) or [])
    groups = [word.partition("=")[0] for word in added]
    return [f"{g}=[{','.join([OPTION, *more.get(g, [])])}]" if g in LISTS else f"{g}={OPTION}" for g in groups]


def place_of(group: str, package: str | None) -> str:
    """Where the options of a group lie in the configuration: ``loss.time``."""
    return (package or group).removeprefix("_global_.").replace("/", ".")


def chosen_by(group: str, name: str) -> dict[str, str]:
    """The options that the option ``group=name`` chooses, and those that it includes, by their places."""
    file = next((f for folder in folders() if (f := folder / group / f"{name}.yaml").is_file()), None)
    entries = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("defaults", []) if file else []
    named: dict[str, str] = {}
    for entry in entries:
        if entry == "_self_":
            continue
        for key, value in entry.items() if isinstance(entry, dict) else [("", entry)]:
            words = str(key).replace("override ", "").replace("optional ", "").strip()
            option, _, package = words.partition("@")
            if option.startswith("/"):
                named[place_of(option[1:], package)] = str(value)
            else:
                named |= chosen_by(f"{group}/{option}".rstrip("/"), str(value))
    return named


def again(word: str, o: Override | None, stored: Config, named: dict[str, str]) -> str | None:
    """An argument that may have been given to the run before: what it added is there already, what it removed is not;
    None where nothing is left to do."""
    if o is None:
        return word
    if added_options(o) is not None:
        return None if o.key_or_group in stored and o.key_or_group not in named else word
    if is_group(o.key_or_group):
        return word
    if o.is_add():
        return f"+{word}"
    place = tuple(o.key_or_group.split("."))
    kept = place[0] in stored and not any(".".join(place[:i]) in named for i in range(1, len(place)))
    return None if o.is_delete() and kept and find(stored, place) is MISSING else word


def wiring(kind: str) -> dict[str, Place]:
    """Which places of a task are another key of the configuration, by that key: ``model`` is (denoiser, network)."""
    file = next((f for folder in folders() if (f := folder / "task" / f"{kind}.yaml").is_file()), None)
    if file is None:
        raise UserError(
            f"there is no option task={kind}, which the checkpoint is of; add its folder with --config-dir."
        )
    keys: dict[str, Place] = {}

    def walk(node: Any, place: Place) -> None:
        if isinstance(node, dict):
            for key, child in node.items():
                walk(child, (*place, key))
        elif isinstance(node, str) and (match := VALUE.fullmatch(node)):
            keys[match.group(1)] = place

    walk(yaml.safe_load(file.read_text(encoding="utf-8"))["task"], ())
    return keys


def layer_of(config: Config, kind: str) -> Config:
    """The stored configuration by the keys of the command line: what the task interpolates, its own values, and what
    is beside it."""
    layer: Config = {group: config[group] for group in AT_THE_ROOT if group in config}
    keys = wiring(kind)
    for key, place in keys.items():
        put(layer, tuple(key.split(".")), find(config["task"], place))
    own = without(config["task"], {".".join(place) for place in keys.values()} | {"_target_"})
    return {**layer, "task": own}


MISSING = object()


def find(node: Any, place: Place) -> Any:
    """What a nested configuration holds at ``place``, or ``MISSING``."""
    for key in place:
        if not isinstance(node, dict) or key not in node:
            return MISSING
        node = node[key]
    return node


def put(node: Config, place: Place, value: Any) -> None:
    if value is not MISSING:
        for key in place[:-1]:
            node = node.setdefault(key, {})
        node[place[-1]] = value


def without(node: Config, places: set[str], prefix: str = "") -> Config:
    """A nested configuration without what lies at ``places``."""
    return {
        key: without(child, places, f"{prefix}{key}.") if isinstance(child, dict) else child
        for key, child in node.items()
        if f"{prefix}{key}" not in places
    }


def offer_all(stored: Config, named: set[str], kind: str, file: Path, rewired: "Rewiring") -> list[str]:
    """Register an option for each group of ``stored`` that is not ``named``, and the layer as ``task``; the arguments
    that choose them."""
    chosen = ["task"]
    for key in (*AT_THE_ROOT, *wiring(kind)):
        group, node = key.replace(".", "/"), find(stored, tuple(key.split(".")))
        if not isinstance(node, dict) or not is_group(group) or named & {key, key.partition(".")[0]}:
            continue
        if group in BESIDE:
            store(group, [], rewired(plain(node, file), group))
        else:
            brought = [elsewhere(g) for g in BROUGHT.get(group, ()) if isinstance(stored.get(g), dict)]
            offer(group, node, file, brought)
        chosen.append(group)
    layer = plain(without(stored, named), file)
    beside = {group: rewired(layer[group], group) for group in BESIDE if group in layer}
    store("task", [kind], {**layer, **beside}, package="_global_")
    return [f"{group}={OPTION}" for group in chosen]


class Rewiring:
    """A stored node, which is ``plain``, with the output folder of the new run in the place of the old one, and with
    the metrics and the extractor of the run where it had them.

    A callback or logger that writes to another place has to be named again: a file from somebody else may not choose
    where this machine is written to. Raises ``UserError`` that says so.
    """

    def __init__(self, stored: Config, folder: str | None, typed: set[str], file: Path):
        self.stored, self.folder, self.typed, self.file = stored, folder, typed, file

    def __call__(self, node: Any, place: str) -> Any:
        if isinstance(node, dict):
            return {
                key: f"${{{key}}}"
                if key in LOOKED_AT_BY_CALLBACKS and child == self.stored.get(key)
                else self(child, f"{place}.{key}")
                for key, child in node.items()
            }
        if isinstance(node, list):
            return [self(child, place) for child in node]
        if not isinstance(node, str) or place.endswith("._target_"):
            return node
        if self.folder and (node == self.folder or node.startswith(f"{self.folder}/")):
            rest = node.removeprefix(self.folder)
            if MOVABLE.fullmatch(rest) and ".." not in rest.split("/"):
                return f"${{output_dir}}{rest}"
        if ELSEWHERE.search(node):
            if place in self.typed:
                return None  # what is typed takes its place
            raise UserError(f"{self.file} has {place}={node}, outside of its run; name {place}=... to write there.")
        return node
