"""``serving ray-serve``."""

import json

import pytest

from ledger import releases
from ledger.artifacts import seal
from ledger.releases import Release


@pytest.fixture
def student(ledger, home):
    """The student's folder of release ``r1``."""
    folder = home / "releases" / "r1"
    (folder / "student").mkdir(parents=True)
    (folder / "student" / "config.json").write_text("{}")
    releases.add(ledger, Release("r1", "candidate", 1, None, None, None, str(folder), seal(folder, {}), {}))
    return folder / "student"


def test_the_configuration_names_the_releases_own_folder(run, student):
    status, out, _ = run("serving", "ray-serve", "r1", "--max-replicas", "3", "--accelerator", "L4")
    assert status == 0
    (app,) = json.loads(out)["applications"]
    (model,) = app["args"]["llm_configs"]
    assert model["model_loading_config"] == {"model_id": "student", "model_source": str(student)}
    assert model["deployment_config"]["autoscaling_config"] == {"min_replicas": 1, "max_replicas": 3}


def test_files_that_are_not_the_releases_are_refused(run, student):
    (student / "config.json").write_text('{"changed": true}')
    status, out, err = run("serving", "ray-serve", "r1")
    assert (status, out, err.count("\n")) == (1, "", 1)


def test_what_cannot_be_is_said_in_one_line(run, student, monkeypatch):
    assert run("serving", "ray-serve", "nobody")[0] == 1
    status, _, err = run("serving", "ray-serve", "r1", "--min-replicas", "2")
    assert (status, err.count("\n")) == (2, 1)
    assert "--min-replicas 2 is above --max-replicas 1" in err
    monkeypatch.setenv("STILLROOM_STUDENT__ENGINE_ARGS", '["fast"]')
    status, _, err = run("serving", "ray-serve", "r1")
    assert (status, err) == (1, "stillroom: student.engine_args: 'fast' is neither a flag nor the value of one\n")
