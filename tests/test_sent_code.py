"""What was sent never runs code that it names, until `--code` says so."""

import sys
from pathlib import Path

import pytest
from tiny import refused, tiny_file
from typer.testing import CliRunner

from kd_ray import own_code
from kd_ray.cli import app

pytestmark = pytest.mark.usefixtures("no_own_code")
NET = """
from pathlib import Path
from torch import nn
Path({mark!r}).touch()
def tiny(classes, width: int = 4):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes))
"""


@pytest.fixture
def sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run and a sweep of own code, beside it the code; all permission is gone."""
    monkeypatch.chdir(tmp_path)
    Path("own_nets.py").write_text(NET.format(mark=str(tmp_path / "ran")))
    table = {
        "student.model": "{ name = 'own_nets:tiny' }",
        "teacher.model": "{ name = 'own_nets:tiny', width = 6 }",
        "student.baselines": "[]",
        "data.validation": "40",
        "train.keep": "'best'",
        "sweep": "{ trials = 2, space = { 'student.model.width' = { choice = [3, 4] } } }",
    }
    tiny_file(tmp_path, *(f"{key}={value}" for key, value in table.items()))
    for command in (["run"], ["tune", "run"]):
        answer = CliRunner().invoke(app, [*command, "tiny.toml", "--local", "--runs", "runs"])
        assert answer.exit_code == 0, answer.output
    own_code._allowed.clear()
    (tmp_path / "ran").unlink()
    del sys.modules["own_nets"]
    return tmp_path


def test_nothing_that_reads_what_was_sent_imports_its_code_without_permission(sent: Path):
    sys.path.insert(0, str(sent))
    home = Path("runs/tiny")
    for words in (
        ["evaluate", home / "student/distilled/seed-0"],
        ["audit", home / "transfer_set"],
        ["inspect", home / "teacher/member-00"],
        ["tune", "resume", home / "sweep", "--epochs", 3, "--local"],
        ["tune", "retrain", home / "sweep", "--local"],
    ):
        sentence = refused(*words, at_once=False)
        assert "--code own_nets.py" in sentence, words
        assert "remove" not in sentence, words  # nothing is wrong with what was sent
    for words in (["report", home], ["inspect", home], ["inspect", home / "transfer_set"]):
        CliRunner().invoke(app, [str(word) for word in words])
    assert not (sent / "ran").exists()
    assert "own_nets" not in sys.modules


@pytest.mark.usefixtures("sent")
def test_with_permission_it_is_read_as_where_it_was_made():
    for words in (
        ["evaluate", "runs/tiny/student/distilled/seed-0"],
        ["audit", "runs/tiny/transfer_set"],
        ["inspect", "runs/tiny/teacher/member-00"],
        ["tune", "resume", "runs/tiny/sweep", "--epochs", "3", "--local"],
    ):
        answer = CliRunner().invoke(app, [*words, "--code", "own_nets.py"])
        assert answer.exit_code == 0, answer.output
