"""A configuration against the signatures of the classes that it names, before anything is built.

Every node with ``_target_`` has the arguments of that class; each value is held against the annotation of its
argument, and a node against the kind that its place has: a sampler, a schedule. What has no annotation is taken as it
is. Errors name the key as it is typed: ``task.denoiser.network`` is ``${model}``, so its channels are
``model.channels``.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args, is_typeddict

from annotated_types import MaxLen, MinLen

from oboro.base.annotation import article, bare, fitted, is_class, is_free, is_mapping, is_sequence, members, words
from oboro.base.errors import UserError
from oboro.base.signature import Signature, located, of_typed_dict, result_of, signature

Path = tuple[str | int, ...]
TARGET = "_target_"
HYDRAS = {TARGET, "_partial_", "_args_", "_convert_", "_recursive_"}
REFERENCE = re.compile(r"\$\{([\w.]+)\}")
SHOWN = 60  # characters of a value in a message


class Configuration:
    """``raw`` is what was written, interpolations and all; ``resolved`` what it comes to.

    ``stand_ins`` are classes that stand for objects of any kind. ``check`` collects ``changes``: values by their place
    that are meant in another type, 2e1 for an integer.
    """

    hydras = HYDRAS  # keys of a node that are no arguments

    def __init__(self, raw: dict[str, Any], resolved: dict[str, Any] | None, stand_ins: tuple[type, ...] = ()):
        self.raw = raw
        self.resolved = resolved  # None: what is interpolated is not known yet
        self.stand_ins = stand_ins
        self.changes: dict[Path, Any] = {}
        self._seen: set[tuple[Path, Any]] = set()

    def check(self, settings: type) -> None:
        """Raises ``UserError`` where the configuration is none of ``settings``, a ``TypedDict``, and what those name.

        Groups that nothing uses are held against their own classes. Other keys, mappings of plain values among them,
        are those that something interpolates.
        """
        known = of_typed_dict(settings)
        for key in known.arguments:
            if key in self.raw:
                self.value(known.arguments[key], (key,))
        used = {str(place[0]) for place, _ in self._seen} | set(known.arguments)
        for key in [key for key in self.raw if key not in used]:
            built = list(nodes(self.raw[key], (key,)))
            for place in built:
                self.value(Any, place)
            if not built and not any(re.match(rf"{key}\b", name) for name in interpolated(self.raw)):
                raise UserError(self.no_key((key,), [*known.arguments, *self.raw]))

    def value(self, annotation: Any, place: Path) -> None:
        """Raises ``UserError`` where what stands at ``place`` is not what ``annotation`` means."""
        written, place = place, self.owner(place)
        if (place, repr(annotation)) in self._seen:
            return
        self._seen.add((place, repr(annotation)))
        value = at(self.raw, place)
        if self.resolved is None and (
            (isinstance(value, str) and "${" in value) or (place != written and not isinstance(value, dict | list))
        ):
            return
        if self.resolved is not None:
            value = at(self.resolved, place)
        if value == "???":
            return
        if isinstance(value, dict) and TARGET in value:
            self.node(annotation, place, value)
        elif isinstance(value, dict) and (settings := next(filter(is_typeddict, inners(annotation)), None)):
            self.arguments(of_typed_dict(settings), place, value, settings.__name__)
        elif isinstance(value, dict | list) and (item := item_of(annotation, value)) is not None:
            self.items(annotation, item, place, value)
        elif self.resolved is not None or not any(interpolated(value)):
            self.plain(annotation, place, value)

    def plain(self, annotation: Any, place: Path, value: Any) -> None:
        try:
            meant = fitted(annotation, value)
        except ValueError as error:
            raise UserError(self.misfit(place, value, str(error))) from error
        if meant is not value and not same(meant, value):
            self.changes[place] = meant

    def items(self, annotation: Any, item: Any, place: Path, value: dict[str, Any] | list[Any]) -> None:
        """Nodes in a list, or by name."""
        lengths = [m for member in members(annotation) for m in bare(member)[1]]
        least = max((m.min_length for m in lengths if isinstance(m, MinLen)), default=0)
        most = min((m.max_length for m in lengths if isinstance(m, MaxLen)), default=len(value))
        if not least <= len(value) <= most:
            raise UserError(self.misfit(place, value, f"must be {words(annotation)}"))
        for key in value if isinstance(value, dict) else range(len(value)):
            self.value(item, (*place, key))

    def node(self, annotation: Any, place: Path, value: dict[str, Any]) -> None:
        """A node of ``_target_`` and arguments."""
        target = value[TARGET]
        if isinstance(target, str) and "${" in target:
            return
        try:
            called = located(target)
        except (ImportError, TypeError) as error:
            wrong = f"{key_of(place)}._target_={shown(target)} cannot be imported ({' '.join(str(error).split())})"
            raise UserError(self.message(f"{wrong}; name a class by its path, mypackage.module.Class")) from error
        if not callable(called):
            wrong = f"{key_of(place)}._target_={shown(target)} is no class"
            raise UserError(self.message(f"{wrong}; name one by its path, mypackage.module.Class"))
        self.kind(annotation, place, value, called)
        self.arguments(signature(called), place, value, getattr(called, "__name__", str(target)))

    def kind(self, annotation: Any, place: Path, value: dict[str, Any], called: Any) -> None:
        """Raises ``UserError`` where the node is of another kind than its place."""
        kinds = list(inners(annotation))
        if value.get("_partial_") or any(is_free(kind) for kind in kinds):
            return
        made = called if isinstance(called, type) else bare(result_of(called))[0]
        if not isinstance(called, type) and not is_class(made):  # a function need not say what it makes
            return
        if issubclass(made, self.stand_ins):
            return
        if not any(is_class(kind) and is_a(made, kind) for kind in kinds):
            wrong = f"{key_of(place)} is {article(made.__name__)} and must be {words(annotation)}"
            raise UserError(self.message(wrong, self.instead(place, kinds)))

    def arguments(self, known: Signature, place: Path, value: dict[str, Any], owner: str) -> None:
        """The arguments in a node, or the keys of a mapping, that is an ``owner``."""
        given = [key for key in value if key not in self.hydras]
        for key in given:
            if key in known.arguments or known.others:
                self.value(known.arguments.get(key, Any), (*place, key))
            else:
                raise UserError(self.no_key((*place, key), known.arguments))
        missing = [key for key in known.arguments if key in known.required and key not in given]
        if missing and not HYDRAS & {"_partial_", "_args_"} & set(value):
            key = key_of((*place, missing[0]))
            raise UserError(self.message(f"{owner} needs a value for {key}; set {key}=..."))

    def owner(self, place: Path) -> Path:
        """Where the value at ``place`` is written: interpolations of another key are followed."""
        for _ in range(20):
            match = REFERENCE.fullmatch(value) if isinstance(value := at(self.raw, place), str) else None
            source = tuple(match.group(1).split(".")) if match else ()
            if not source or at(self.raw, source, self) is self:
                return place
            place = source
        return place

    def misfit(self, place: Path, value: Any, why: str) -> str:
        return self.message(f"{key_of(place)}={shown(value)} {why}")

    def no_key(self, place: Path, names: Iterator[str] | Sequence[str] | Mapping[str, Any]) -> str:
        names = sorted({name for name in names if name != place[-1]})
        close = get_close_matches(str(place[-1]), names, 1)
        meant = f" Did you mean {key_of((*place[:-1], close[0]))}?" if close else ""
        others = f"there {'are' if len(names) > 1 else 'is'} {', '.join(names)}" if names else "there is none"
        return self.message(f"there is no key {key_of(place)}; {others}", meant)

    def instead(self, place: Path, kinds: Sequence[Any]) -> str:
        """What to put in the place of a node that is of none of ``kinds``: for who knows what there is."""
        return ""

    def message(self, text: str, hint: str = "") -> str:
        return f"{text}.{hint}"


def at(config: Any, place: Path, default: Any = None) -> Any:
    """What stands at ``place``, or ``default``."""
    for key in place:
        try:
            config = config[key]
        except (KeyError, IndexError, TypeError):
            return default
    return config


def nodes(value: Any, place: Path) -> Iterator[Path]:
    """Where the outermost nodes in ``value`` are."""
    if isinstance(value, dict) and TARGET in value:
        yield place
    elif isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from nodes(value[key], (*place, key))


def interpolated(value: Any) -> Iterator[str]:
    """The names after ``${`` in every text of ``value``."""
    if isinstance(value, str):
        yield from re.findall(r"\$\{([^}]*)", value)
    elif isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            yield from interpolated(child)


def inners(annotation: Any) -> Iterator[Any]:
    return (bare(member)[0] for member in members(annotation))


def item_of(annotation: Any, value: dict[str, Any] | list[Any]) -> Any | None:
    """The annotation of the nodes in ``value``; None where plain values are meant and held."""
    is_collection = is_mapping if isinstance(value, dict) else is_sequence
    items = [arg for inner in inners(annotation) if is_collection(inner) for arg in (get_args(inner) or (Any,))[-1:]]
    if value and (found := next((item for item in items if any(map(is_class, inners(item)))), None)) is not None:
        return found
    if not any(nodes(value, ())):
        return None
    free = any(is_free(inner) for inner in inners(annotation))
    return next((item for item in items if any(map(is_free, inners(item)))), Any if free else None)


def is_a(made: type, kind: type) -> bool:
    """Whether objects of class ``made`` are of ``kind``; of a protocol, whether the class has its methods."""
    if not getattr(kind, "_is_protocol", False):
        return issubclass(made, kind)
    protocols = [cls for cls in kind.__mro__ if getattr(cls, "_is_protocol", False)]
    methods = {name for cls in protocols for name, value in vars(cls).items() if callable(value) and is_public(name)}
    return all(callable(getattr(made, name, None)) for name in methods)


def is_public(name: str) -> bool:
    return name == "__call__" or not name.startswith("_")


def same(a: Any, b: Any) -> bool:
    """Whether two plain values are equal and of equal types."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and bool(a == b)


def key_of(place: Path) -> str:
    return ".".join(map(str, place))


def shown(value: Any) -> str:
    """``value`` as it is typed, shortened."""
    text = " ".join(_typed(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _typed(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(_typed(child) for child in value[:SHOWN])}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{k}:{_typed(v)}' for k, v in list(value.items())[:SHOWN])}}}"
    return str(value)
