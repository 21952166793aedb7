"""What was measured of the checkpoints in a folder after they were written: a checkpoint is on the disk before its
weights are measured, so the outcome stands beside it."""

from pathlib import Path
from typing import Any

from oboro.base.json_text import json_text, read_json
from oboro.base.whole_file import replacing

FILE = "evaluated.json"
Outcomes = dict[int, dict[str, Any]]


def read_outcomes(folder: Path) -> Outcomes:
    """{step: {"best": the best value until then, "measure": of what}}, and none where there is no such file."""
    try:
        plain = read_json((folder / FILE).read_text(encoding="utf-8"))
        return {int(step): outcome for step, outcome in plain.items() if is_outcome(outcome)}
    except (OSError, ValueError, AttributeError):
        return {}


def is_outcome(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    best, measure = value.get("best"), value.get("measure")
    return isinstance(best, int | float) and (measure is None or isinstance(measure, str))


def write_outcomes(folder: Path, outcomes: Outcomes) -> None:
    """Raises ``OSError``."""
    text = json_text({str(step): outcome for step, outcome in outcomes.items()}, indent=1)
    with replacing(folder / FILE) as file:
        file.write(text.encode())


def is_evaluated(checkpoint: dict[str, Any], path: Path) -> bool:
    """Whether what was due at the step of the checkpoint ``path`` has been measured."""
    states = checkpoint.get("callbacks")
    state = states.get("Checkpoints") if isinstance(states, dict) else None
    written_before = isinstance(state, dict) and state.get("evaluated") is False
    return not written_before or checkpoint["global_step"] in read_outcomes(path.parent)
