"""The modules form layers: no circle of imports, and some rooms are closed to others."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
FILES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (SOURCE / "oboro").rglob("*.py")
}
# What a room may import of oboro, itself apart; None: everything but what the test of circles forbids.
ALLOWED = {
    "base": (),
    "schedule": ("base",),
    "denoiser": ("base", "condition", "parameterization", "schedule"),
    "model": ("base", "condition", "denoiser", "schedule"),
    "modality": ("base",),
    "measurement": ("base", "condition", "modality", "schedule"),
    "hint": ("base", "condition", "measurement"),
    "restore": ("base", "adapter", "condition", "modality"),
    "detection": ("base",),
    "anomalies": ("base", "data", "measurement"),
    "metrics": ("base", "condition", "data", "extractor", "hint", "loss", "modality"),
}


def imported(module: str) -> set[str]:
    """The modules of oboro that ``module`` imports anywhere in its file, for annotations and inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            # ``from package import submodule`` needs the submodule, any other name the package
            names |= {full if (full := f"{node.module}.{alias.name}") in FILES else node.module for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name in FILES and name != module}


def test_there_is_no_circle_of_imports():
    try:
        list(TopologicalSorter({module: imported(module) for module in FILES}).static_order())
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_there_are_no_relative_imports():
    assert not [m for m, p in FILES.items() for n in ast.walk(ast.parse(p.read_text())) if getattr(n, "level", 0)]


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_what_it_may(room):
    inside = [m for m in FILES if m == f"oboro.{room}" or m.startswith(f"oboro.{room}.")]
    rooms = {name.split(".")[1] for m in inside for name in imported(m) if name != "oboro"} - {room}
    assert rooms <= set(ALLOWED[room])


def test_the_root_holds_few_loose_modules():
    assert len([path for path in (SOURCE / "oboro").glob("*.py") if path.stem != "__init__"]) <= 16
