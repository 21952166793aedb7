"""Run the tests that docs/reliability.md names, and write what came of each row into its tables.

python docs/reliability.py            # all of them: about half an hour on two cores
python docs/reliability.py F7 F30     # the rows of these faults
python docs/reliability.py ends       # the rows whose tests have this word in their names
python docs/reliability.py missing    # the rows of which nothing is known
python docs/reliability.py run.xml    # all of them, from what `pytest --junitxml=run.xml` has reported; several files

A row is `| F | fault | promise | test | result |`. F is the number of the fault among the 45 that this project has set
itself to meet, or empty. The result is written here and nowhere else; CI runs the same tests after every change, so
what no longer holds is seen there.
"""

import platform
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from os import cpu_count
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"
FAULTS = 45
UNKNOWN = "not run"
TEST = re.compile(r"`((?:\w+/)?test_\w+\.py)(?:::(\w+))?`")
SUMMARY = re.compile(r"^\*\*\d+ of \d+ .*$", re.M)


@dataclass
class Outcome:
    """Of a test, over all its cases: how many there are, their seconds, what failed, why others were left out."""

    cases: int = 0
    seconds: float = 0.0
    failed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(
            self.cases + other.cases,
            self.seconds + other.seconds,
            self.failed + other.failed,
            self.left_out + other.left_out,
        )

    def __str__(self) -> str:
        if self.failed:
            return f"**failed**: {', '.join(dict.fromkeys(self.failed))}"
        if self.left_out:
            return f"not tried: {'; '.join(dict.fromkeys(self.left_out))}"
        if not self.cases:
            return UNKNOWN
        return f"held, {self.cases} test{'s' * (self.cases > 1)}, {self.seconds:.1f} s"


@dataclass(frozen=True)
class Row:
    """A line of the page. ``faults`` are the numbers in its first column."""

    cells: tuple[str, ...]

    @property
    def faults(self) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", self.cells[0])]

    @property
    def tests(self) -> list[str]:
        """``faults/test_ends.py::test_...`` or a whole file, below tests/."""
        return [f"{file}::{name}" if name else file for file, name in TEST.findall(self.cells[3])]

    @property
    def result(self) -> str:
        return self.cells[4]

    def with_result(self, result: str) -> "Row":
        return Row((*self.cells[:4], result))

    def __str__(self) -> str:
        return f"| {' | '.join(self.cells)} |".replace("|  |", "| |")


def rows(page: str) -> list[Row]:
    """Those of all tables, without their heads."""
    lines = re.findall(r"^\|(?! F \||---)(.*)\|$", page, re.M)
    return [Row(tuple(cell.strip() for cell in line.split(" | "))) for line in (f" {line} " for line in lines)]


def held(page: str) -> set[int]:
    """The numbers of the faults all of whose rows have held."""
    by_fault = defaultdict(list)
    for row in rows(page):
        for fault in row.faults:
            by_fault[fault].append(row.result.startswith("held"))
    return {fault for fault, results in by_fault.items() if all(results)}


def summary(page: str) -> str:
    """The sentence that counts them."""
    missing = sorted(set(range(1, FAULTS + 1)) - held(page))
    names = ", ".join(f"F{fault}" for fault in missing)
    return f"**{FAULTS - len(missing)} of {FAULTS} faults held when their tests were last run.**" + (
        f" Without a result: {names}." if missing else ""
    )


class Recorder:
    """What pytest reports, by file and function."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = defaultdict(Outcome)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file, name = report.nodeid.removeprefix("tests/").split("::")[:2]
        for place in (file, f"{file}::{name.partition('[')[0]}"):
            outcome = self.outcomes[place]
            outcome.seconds += report.duration
            if report.when == "call":
                outcome.cases += 1
            if report.failed:
                outcome.failed.append(name)
            if report.skipped:
                outcome.left_out.append(str(report.longrepr[2] if isinstance(report.longrepr, tuple) else "skipped"))


def reported(files: Iterable[str]) -> dict[str, Outcome]:
    """The same from reports of pytest in the format of JUnit."""
    outcomes: dict[str, Outcome] = defaultdict(Outcome)
    for file in files:
        for case in ElementTree.parse(file).iter("testcase"):
            name = case.attrib["name"].partition("[")[0]
            module = case.attrib["classname"].removeprefix("tests.").replace(".", "/") + ".py"
            bad = [name for kind in ("failure", "error") if case.find(kind) is not None]
            skipped = [skip.attrib.get("message", "skipped") for skip in case.findall("skipped")]
            outcome = Outcome(int(not skipped), float(case.attrib["time"]), bad, skipped)
            for place in (module, f"{module}::{name}"):
                outcomes[place] += outcome
    return outcomes


def run(tests: Iterable[str]) -> tuple[dict[str, Outcome], int]:
    """What came of ``tests``, and pytest's status."""
    recorder = Recorder()
    status = pytest.main(["-q", "-W", "ignore", *(f"{ROOT / 'tests' / test}" for test in tests)], plugins=[recorder])
    return recorder.outcomes, int(status)


def chosen(all_rows: Iterable[Row], words: list[str]) -> list[Row]:
    def fits(row: Row, word: str) -> bool:
        if re.fullmatch(r"F\d+", word):
            return int(word[1:]) in row.faults
        return row.result == UNKNOWN if word == "missing" else any(word in test for test in row.tests)

    return [row for row in all_rows if not words or any(fits(row, word) for word in words)]


def main(words: list[str]) -> int:
    reports = [word for word in words if word.endswith(".xml")]
    picked = chosen(rows(PAGE.read_text()), [word for word in words if word not in reports])
    tests = list(dict.fromkeys(test for row in picked for test in row.tests))
    outcomes, status = (reported(reports), 0) if reports else run(tests)
    page = PAGE.read_text()
    for row in picked:
        results = [outcomes[test] for test in row.tests]
        result = str(sum(results, Outcome())) if all(r.cases or r.failed or r.left_out for r in results) else UNKNOWN
        page = page.replace(str(row), str(row.with_result(result)))
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, {cpu_count()} cores"
    page = SUMMARY.sub(lambda _: f"{summary(page)} The last of these runs: {date.today()}, {versions}.", page)
    PAGE.write_text(page)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
