"""What the documents say exists: their links, the files they name, and the commands they show."""

import os
import re
import runpy
import shlex
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from oboro.cli.arguments import for_hydra
from oboro.cli.checkpoint import offer_checkpoint
from oboro.cli.options import VALUES, without_groups

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/*.md"))
FENCE = re.compile(r"^(```|~~~)[^\n]*\n(.*?)^\1[ \t]*$", re.M | re.S)
ENTRIES = ("train", "sample", "edit", "evaluate", "detect")

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())


def prose(text: str) -> str:
    return FENCE.sub("", text)


def links(text: str) -> list[tuple[str, str]]:
    """(path, anchor) of every relative link and image, in Markdown or HTML."""
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)", prose(text)) + re.findall(r'(?:src|href)="([^"]+)"', prose(text))
    return [tuple((target + "#").split("#")[:2]) for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to headings."""
    headings = re.findall(r"^#+\s+(.+?)\s*$", prose(text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def named_files(text: str) -> list[str]:
    """Code spans that look like a file or a folder of the repository: under one of its folders, no placeholder."""
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")} - {"outputs"}
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(text))
    paths = [s for s in spans if re.fullmatch(r"[\w.\-/]+", s) and "..." not in s]
    under_a_folder = [p for p in paths if "/" in p and p.split("/")[0] in folders]
    at_the_root = [p for p in paths if re.fullmatch(r"\w+\.(py|md|toml)", p) and not p.startswith("_")]
    return under_a_folder + at_the_root


def command_lines(text: str) -> list[str]:
    """Lines of the code blocks, fenced or indented, with continued lines joined, and code spans."""
    fenced = [body for _, body in FENCE.findall(text)]
    indented = re.findall(r"^ {4}(.+)$", prose(text), re.M)
    spans = re.findall(r"`((?:python|oboro) [^`\n]+)`", prose(text))
    return "\n".join([*fenced, *indented, *spans]).replace("\\\n", " ").splitlines()


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(entry point, overrides) of lines ``python train.py`` and ``oboro train`` that compose without a reader's file.

    Of a sweep as many runs as have each value once. Lines with ``...`` are examples of form.
    """
    found = []
    for line in command_lines(text):
        match = re.search(
            r"(?:(?:python|torchrun)\b[^#|]*?\b(?=\w+\.py\b)|\boboro )(train|sample|edit|evaluate)\b(?:\.py\b)?"
            r"([^#|>&;]*)",
            line,
        )
        own = r"--(help|cfg|info|config-dir)\b|\btrust="  # options of the reader's own, or none
        if match and not re.search(r"[.]{3}|…|<", line) and not re.search(own, line):
            words = [os.path.expandvars(w) for w in shlex.split(match[2]) if w not in ("-m", "--multirun")]
            values = [sweep(word) for word in words]
            runs = range(max(map(len, values), default=1))
            found += [(match[1], for_hydra([v[i % len(v)] for v in values])) for i in runs]
    return found


def sweep(override: str) -> list[str]:
    """``a=1,2`` as ``a=1`` and ``a=2``; commas inside of brackets, braces and quotes stay."""
    key, equals, value = override.partition("=")
    if numbers := re.fullmatch(r"range\((\d+)\)", value):
        return [f"{key}={i}" for i in range(int(numbers[1]))]
    parts, depth = [""], 0
    for character in value:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [key + equals + part for part in parts]


@cache
def composed(entry: str, *overrides: str):
    offer_checkpoint([])  # the options called from_checkpoint, empty: keys below them cannot be checked here
    known = [o for o in overrides if not o.startswith("hydra.") and not needs_checkpoint(entry, o, overrides)]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"), without_groups(VALUES.get(entry, ())):
        return compose(entry, [*known, "output_dir=outputs"])


def needs_checkpoint(entry: str, override: str, overrides: tuple[str, ...]) -> bool:
    """Whether a key lies below a group that only the checkpoint fills."""
    group = override.lstrip("+~").partition("=")[0].partition("@")[0].partition(".")
    return entry != "train" and bool(group[1]) and not any(o.startswith(f"{group[0]}=") for o in overrides)


@each_document
def test_relative_links_lead_to_files_and_headings(document):
    for path, anchor in links(document.read_text()):
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{document.name} links to {path}"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{document.name} links to {path}#{anchor}"


@each_document
def test_files_that_are_named_exist(document):
    missing = [path for path in named_files(document.read_text()) if not (ROOT / path).exists()]
    assert missing == []


def test_every_promise_has_a_test_and_every_fault_a_row():
    """docs/reliability.md names files under tests/ and functions in them, and says of each row what docs/reliability.py
    says."""
    page = (ROOT / "docs/reliability.md").read_text()
    script = runpy.run_path(str(ROOT / "docs/reliability.py"))
    rows = script["rows"](page)
    assert len(rows) == len(re.findall(r"^\| (?!F )", page, re.M)) and {len(row.cells) for row in rows} == {5}
    assert all(str(row) in page for row in rows)
    assert {fault for row in rows for fault in row.faults} == set(range(1, script["FAULTS"] + 1))
    for row in rows:
        assert row.tests and len(row.tests) == row.cells[3].count(", ") + 1, row
        for test in row.tests:
            file, _, function = test.partition("::")
            source = (ROOT / "tests" / file).read_text()
            assert not function or f"\ndef {function}(" in source, f"{file} has no {function}"
        assert re.fullmatch(r"not run|not tried: .+|held, \d+ tests?, \d+\.\d s", row.result), row
    assert script["SUMMARY"].search(page)[0].startswith(script["summary"](page))


@pytest.mark.slow
@each_document
def test_commands_compose(document):
    for entry, overrides in commands(document.read_text()):
        try:
            composed(entry, *overrides)
        except Exception as error:
            error.add_note(f"{document.name}: {entry}.py {' '.join(overrides)}")
            raise


@pytest.mark.slow
def test_the_example_in_python_runs(monkeypatch, tmp_path):
    """That of the README, with two steps of training in the place of five hundred."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    assert "range(500)" in code
    names: dict = {}
    monkeypatch.chdir(tmp_path)  # where its picture goes
    exec(code.replace("range(500)", "range(2)"), names)
    assert names["samples"].shape == (16, 1, 28, 28) and names["samples"].isfinite().all()
    assert (tmp_path / "samples.png").stat().st_size > 0


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 900


def test_imports_go_downwards_in_the_picture_of_the_layout():
    """A row of docs/adding.md imports itself and the rows below; commands of other rooms stand at the top."""
    picture = re.search(r"┌.*?┘", (ROOT / "docs/adding.md").read_text(), re.S)[0]
    rows = [re.findall(r"(?<=[│ ]) ?(\w+)(?= {2,})", row) for row in re.split("├─*┤", picture)]
    height = {room: -i for i, row in enumerate(rows) for room in row}
    top = {f"interop/{name}.py" for name in ("__main__", "controlnet", "onnx", "pipeline")}
    top |= {"data/pack/__main__.py"}
    source = ROOT / "src/oboro"
    for path in source.rglob("*.py"):
        place = path.relative_to(source)
        room = place.parts[0].removesuffix(".py")
        if room.startswith("__") or place.as_posix() in top:
            continue
        for used in re.findall(r"^from oboro\.(\w+)", path.read_text(), re.M):
            assert height[used] <= height[room], f"{place} imports {used}, which stands above it"


# --- the checks themselves bite

SHOWN = """
```bash
python train.py model=unet_small \\
  trainer.max_steps=10    # a comment
python train.py -m schedule=linear,cosine seed=1,2 'model.channel_mult=[1,2]'
python sample.py checkpoint=last.ckpt sampler.steps=10 n=4
oboro evaluate checkpoint=last.ckpt n=100
oboro train --config-dir mine model=mine
python train.py data=...
```
See [there](docs/nowhere.md#top), `src/oboro/nothing.py`, `conf/<group>/<name>.yaml` and [a site](https://a.b/c).
"""


def test_commands_are_found_and_sweeps_split():
    assert commands(SHOWN) == [
        ("train", ["model=unet_small", "trainer.max_steps=10"]),
        ("train", ["schedule=linear", "seed=1", "model.channel_mult=[1,2]"]),
        ("train", ["schedule=cosine", "seed=2", "model.channel_mult=[1,2]"]),
        ("sample", ["checkpoint=last.ckpt", "sampler.steps=10", "n=4"]),
        ("evaluate", ["checkpoint=last.ckpt", "n=100"]),
    ]
    for entry, overrides in commands(SHOWN):
        composed(entry, *overrides)


@pytest.mark.parametrize(
    "line",
    [
        "python train.py sampler=eulr",
        "oboro train sampler=eulr",
        "python train.py smapler=ddim",
        "python train.py trainer.max_step=3",
        "python train.py -m schedule=linear,cosin",
        "python sample.py checkpoint=last.ckpt count=3",
        "python evaluate.py checkpoint=last.ckpt sampler=ddim sampler.step=3",
    ],
)
def test_wrong_commands_are_noticed(line):
    with pytest.raises(Exception, match=r"(?i)could not"):
        for entry, overrides in commands(f"```\n{line}\n```"):
            composed(entry, *overrides)


def test_links_and_files_are_found():
    assert links(SHOWN) == [("docs/nowhere.md", "top")]
    assert named_files(SHOWN) == ["src/oboro/nothing.py"]
    assert anchors("# The eight nouns\n## Set up, `now`") == {"the-eight-nouns", "set-up-now"}
