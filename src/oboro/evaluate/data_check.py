"""Whether data are those that a model can be measured against."""

from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.conditioner import Image as ImageConditioner
from oboro.data import DataModule
from oboro.modality import Modality, Series
from oboro.task import Generation

ENTRIES = {"label": "classes", "caption": "captions"}  # of a batch, in words


def check_data(task: Generation, data: DataModule) -> None:
    """Raises ``UserError`` where the model of ``task`` draws other samples than ``data`` has, or where the data lack
    what it draws after. ``data`` has been set up."""
    check_modality(task.modality or data.modality, data.modality)
    classes, present = task.conditioner.num_classes, data.num_classes
    if classes not in (0, present):
        has = counted(present, "classes") if present else "none, since data.num_classes is 0"
        raise UserError(
            f"the checkpoint draws {counted(classes, 'classes')} and the data have {has}; choose data=... of its "
            "classes."
        )
    population = data.population
    known = {"label": population.labels, "caption": population.captions}
    for entry in sorted(task.conditioner.entries & set(known)):
        if known[entry] is None:
            raise UserError(
                f"the checkpoint draws after {ENTRIES[entry]} and the data have none; choose data=... with "
                f"{ENTRIES[entry]}."
            )
    for single in task.conditioner.singles:
        if isinstance(single, ImageConditioner) and single.entry in data.hint_modalities:
            channels = data.hint_modalities[single.entry].shape[0]
            if channels != single.image_channels:
                raise UserError(
                    f"the checkpoint reads second pictures of {counted(single.image_channels, 'channels')} and those "
                    f"of the data have {channels}; set data.hint_channels={single.image_channels}."
                )
    task.conditioner.check(population)
    task.check(data)


def check_modality(drawn: Modality, modality: Modality) -> None:
    """Raises ``UserError`` where samples of ``drawn`` are of another kind or shape than those of the data."""
    if type(drawn) is not type(modality):
        raise UserError(
            f"the checkpoint draws {drawn.noun} and the data are {modality.noun}; choose data=... of its kind."
        )
    if drawn.shape != modality.shape:
        (channels, *size), wanted = drawn.shape, []
        if channels != modality.shape[0]:
            wanted.append(f"data.channels={channels}")
        if tuple(size) != modality.shape[1:]:
            side = f"{size[0]}" if len(set(size)) == 1 else f"[{','.join(map(str, size))}]"
            wanted.append(f"{modality.size_option}={side}")
        raise UserError(
            f"the checkpoint draws {drawn.noun} of {drawn} and the data are {modality}; set {' '.join(wanted)}, or "
            "choose other data."
        )
    if isinstance(drawn, Series) and isinstance(modality, Series) and drawn.names != modality.names:
        names = [", ".join(one.names) or "without names" for one in (drawn, modality)]
        raise UserError(
            f"the channels that the checkpoint draws are {names[0]} and those of the data {names[1]}; set data.columns "
            "to the names and the order of the checkpoint."
        )


def difference(task: Generation, data: DataModule) -> str | None:
    """A sentence where the data are not those that the model was trained on; None where they are, or nobody knows."""
    if task.fingerprint in (None, data.fingerprint):
        return None
    return (
        f"the data are not those that the checkpoint was trained on: fingerprint {data.fingerprint[:6]}, trained on "
        f"{str(task.fingerprint)[:6]}"
    )
