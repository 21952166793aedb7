"""What was done at the steps of a run after their checkpoints were written.

A checkpoint is on the disk before its weights are looked at, and names what is due then. What was done of that stands
beside it, in ``evaluated.json``. So a run that ends in between, however it does, makes up what is missing when it goes
on, and repeats nothing.
"""

from pathlib import Path
from typing import Any

from oboro.base.json_text import json_text, read_json
from oboro.base.whole_file import replacing

FILE = "evaluated.json"
DUE = "due"  # of a checkpoint: {"names": of what is due after its step, "row": what is to be logged of the step}
Outcomes = dict[int, dict[str, Any]]


def read_outcomes(folder: Path) -> Outcomes:
    """{step: {"done": {name: {}}, "best": the best value until then, "measure": of what}}, and none where there is no
    such file. What has measured has "numbers" and "objective", which is [name, value], in its place of "done". "best"
    and "measure" are absent before they were compared."""
    try:
        plain = read_json((folder / FILE).read_text(encoding="utf-8"))
        return {int(step): outcome for step, outcome in plain.items() if is_outcome(outcome)}
    except (OSError, ValueError, AttributeError):
        return {}


def is_outcome(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    best, measure, done = value.get("best", 0.0), value.get("measure"), value.get("done", {})
    compared = isinstance(best, int | float) and (measure is None or isinstance(measure, str))
    return compared and isinstance(done, dict) and all(is_done(entry) for entry in done.values())


def is_done(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    numbers, objective = value.get("numbers", {}), value.get("objective")
    if not isinstance(numbers, dict) or not all(isinstance(number, int | float) for number in numbers.values()):
        return False
    if objective is None:
        return True
    pair = isinstance(objective, list) and len(objective) == 2
    return pair and isinstance(objective[0], str) and isinstance(objective[1], int | float)


def write_outcomes(folder: Path, outcomes: Outcomes) -> None:
    """Raises ``OSError``."""
    text = json_text({str(step): outcome for step, outcome in outcomes.items()}, indent=1)
    with replacing(folder / FILE) as file:
        file.write(text.encode())


def going_on_from(folder: Path, step: int, outcomes: Outcomes) -> Outcomes:
    """Those of ``outcomes``, of the run in ``folder``, that count where it goes on from ``step``.

    Later ones are of a course that it has left, but for ``best.ckpt``: it stays what it is, so its value stays the one
    to be better than."""
    kept = {k: outcome for k, outcome in outcomes.items() if k <= step}
    left = [k for k, outcome in outcomes.items() if k > step and "best" in outcome]
    if left and (folder / "best.ckpt").exists():
        last = outcomes[max(left)]
        kept[step] = {**kept.get(step, {}), "best": last["best"], "measure": last.get("measure")}
    return kept


def due(checkpoint: dict[str, Any]) -> tuple[list[str], dict[str, float]]:
    """What was due when ``checkpoint`` was written, and what was to be logged of its step."""
    state = checkpoint.get(DUE)
    names, row = (state.get("names"), state.get("row")) if isinstance(state, dict) else (None, None)
    return (
        [name for name in names if isinstance(name, str)] if isinstance(names, list) else [],
        {k: v for k, v in row.items() if isinstance(v, int | float)} if isinstance(row, dict) else {},
    )


def unfinished(checkpoint: dict[str, Any], path: Path) -> list[str]:
    """What is due after the step of the checkpoint ``path`` and was not done since."""
    done = read_outcomes(path.parent).get(checkpoint["global_step"], {}).get("done", {})
    return [name for name in due(checkpoint)[0] if name not in done]
