"""F42: nobody can ask a run for anything, from this machine or another one."""

import os
import socket
from pathlib import Path

import lightning
import pytest

import runs


def listening() -> set[str]:
    """The sockets of this process that wait for others to connect, as the system numbers them."""
    own = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:  # that of the list itself
            continue
        if target.startswith("socket:["):
            own.add(target[8:-1])
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[9] for row in rows if row[3] == "0A" and row[9] in own}


class Doors(lightning.Callback):
    """Notes what listens while a run trains, and at its end."""

    seen: list[set[str]] = []  # noqa: RUF012, of all instances

    def on_train_batch_end(self, *_) -> None:
        self.seen.append(listening())

    on_train_end = on_train_batch_end


@pytest.mark.slow
def test_no_run_of_one_device_and_none_of_its_loggers_listens(tmp_path):
    before = listening()
    with socket.create_server(("127.0.0.1", 0)):
        assert len(listening() - before) == 1  # it would be seen
    Doors.seen.clear()
    doors = f"+callbacks.doors={{_target_: {__name__}.Doors}}"
    run = runs.train(tmp_path / "run", "logger=[jsonl,tensorboard]", doors)
    runs.sample(tmp_path / "images", run.last, "n=2", "sampler.steps=2")
    assert len(Doors.seen) == 3 and all(seen <= before for seen in (*Doors.seen, listening()))
