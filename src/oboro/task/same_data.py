"""A run goes on with the data that it began with."""

from typing import Any

from oboro.base.errors import UserError


def check_same_data(checkpoint: dict[str, Any], samples: dict[str, Any], fingerprint: str | None, path: object) -> None:
    """Raises ``UserError`` where the checkpoint ``path`` is of samples of another description (``Modality.spec``), or
    of other data of the same; earlier ones name no data."""
    before = checkpoint.get("modality", samples)
    if before != samples:
        raise UserError(
            "the data have changed since the checkpoint was written, so training cannot go on: "
            f"{differences(before, samples)}; give it the same data, or start anew with init=..."
        )
    trained_on = checkpoint.get("fingerprint")
    if trained_on not in (None, fingerprint):
        raise UserError(
            f"these are other data than {path} was trained on (fingerprint {trained_on[:12]} there and "
            f"{str(fingerprint)[:12]} here), so training cannot go on; give it the same data, or start anew from its "
            f"weights with init={path}."
        )


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The values that two descriptions of samples do not share."""
    return ", ".join(
        f"{key} was {before.get(key)} and is {now.get(key)}"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key)
    )
