"""Keys, tokens and passwords are in no file and in no line that a run writes."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

import runs
from oboro.base.secret import HIDDEN, hide, visible
from oboro.callbacks.checkpoints import Checkpoints

SECRETS = {"OBORO_TEST_API_KEY": "s3cr3t-of-a-key", "OBORO_TEST_PLAIN": "s3cr3t-of-no-name"}
TYPED, PASSWORD, NESTED = "s3cr3t-that-was-typed", "s3cr3t-of-an-address", "s3cr3t-in-a-mapping"


class Keen(Checkpoints):
    """Callbacks of a run that are kept in its checkpoints, with arguments that no run should keep."""

    def __init__(self, *args, api_key=None, note=None, address=None, more=None, secret_token=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.known = (api_key, note, address, more, secret_token)
        assert SECRETS["OBORO_TEST_API_KEY"] in str(self.known)  # the run itself is given them


ARGUMENTS = [
    "callbacks.checkpoints._target_=cli.test_secrets.Keen",
    "+callbacks.checkpoints.api_key=${oc.env:OBORO_TEST_API_KEY}",
    "+callbacks.checkpoints.note='from ${note}'",
    f"+callbacks.checkpoints.address='https://me:{PASSWORD}@host/x'",
    f"+callbacks.checkpoints.more={{password: {NESTED}, list: ['${{oc.env:OBORO_TEST_PLAIN}}']}}",
    f"+callbacks.checkpoints.secret_token={TYPED}",
    "+note=${oc.env:OBORO_TEST_PLAIN}",
    "callbacks=[checkpoints,sample_metrics]",
    "logger=[jsonl,tensorboard]",
]


def files_with(folder: Path, *texts: str) -> list[tuple[str, str]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [
        (str(path.relative_to(folder)), text) for path in files for text in texts if text.encode() in path.read_bytes()
    ]


@pytest.fixture
def environment(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow
def test_no_file_of_a_run_has_a_secret(tmp_path, environment):
    run = runs.train(tmp_path / "run", *ARGUMENTS)
    secrets = [*SECRETS.values(), TYPED, PASSWORD, NESTED]
    assert not files_with(run.folder, *secrets)
    assert not [secret for secret in secrets if secret in run.stdout + run.stderr]
    kept = run.checkpoint()["config"]["callbacks"]["checkpoints"]
    assert kept["api_key"] == kept["note"] == kept["more"]["password"] == HIDDEN
    assert kept["address"] == f"https://me:{HIDDEN}@host/x" and kept["folder"] == str(run.folder / "checkpoints")
    saved = OmegaConf.to_container(OmegaConf.load(run.folder / ".hydra/config.yaml"))
    assert saved["callbacks"]["checkpoints"]["api_key"] == "${oc.env:OBORO_TEST_API_KEY}"  # as it was written

    again = runs.call(
        "train.py",
        *runs.outputs(tmp_path / "again", f"resume={run.last}", "trust=[cli]", "trainer.max_steps=3"),
        cwd=tmp_path,
    )
    assert again.status == 1 and "was hidden when it was saved" in again.stderr and again.stderr.count("\n") == 1
    named = [word.lstrip("+") for word in ARGUMENTS[1:6]]
    more = ["trainer.max_steps=3", "trust=[cli]", *ARGUMENTS[:1], *named, ARGUMENTS[6]]
    again = runs.call("train.py", *runs.outputs(tmp_path / "named", f"resume={run.last}", *more), cwd=tmp_path)
    assert again.status == 0, again.stderr
    assert not files_with(tmp_path / "named", *secrets)
    assert not [secret for secret in secrets if secret in again.stdout + again.stderr]


def test_no_message_and_no_printed_configuration_has_a_secret(tmp_path, environment):
    wrong = runs.call(
        "train.py", *runs.outputs(tmp_path, "trainer.max_steps=${oc.env:OBORO_TEST_API_KEY}"), cwd=tmp_path
    )
    assert wrong.status == 1 and "trainer.max_steps" in wrong.stderr and HIDDEN in wrong.stderr
    typed = runs.call("train.py", f"+secret_token={TYPED}", cwd=tmp_path)
    shown = runs.call("train.py", *ARGUMENTS, "--cfg", "job", "--resolve", cwd=tmp_path)
    assert shown.status == 0, shown.stderr
    for run in (wrong, typed, shown):
        assert SECRETS["OBORO_TEST_API_KEY"] not in run.stdout + run.stderr
    assert TYPED not in typed.stderr
    assert f"api_key: {HIDDEN}" in shown.stdout


@pytest.mark.parametrize(
    "text",
    [
        "+logger.wandb.api_key=SECRET",
        "+a.b_token='SECRET word'",
        "{_target_: a.B, token: SECRET, b: 1}",
        "HF_TOKEN=SECRET",
        "'client_secret': 'SECRET'",
        "https://me:SECRET@host/x?y",
        "postgresql://:SECRET@host",
    ],
)
def test_secrets_in_texts(text):
    assert "SECRET" not in hide(text) and HIDDEN in hide(text)


@pytest.mark.parametrize(
    "text",
    [
        "a cat with a key: gold",
        "model.text.tokens=77",
        "data.root=/a/key/b",
        "monkey=3",
        "a.api_key=${oc.env:API_KEY}",
        "a.api_key=null",
        "give a.api_key=... again",
        "eos_token: <|end|>",
        "conditioner.placeholder_token=<cat>",
        "{image_key: jpg, data.cond_stage_key: txt}",
        "12:30@home, http://host:80/x",
    ],
)
def test_what_is_no_secret_stays(text):
    assert hide(text) == text


def test_what_a_terminal_would_obey_is_shown():
    assert visible("a\x1b[31mb\u202ec\x07 é 日本") == r"a\x1b[31mb\u202ec\x07 é 日本"
