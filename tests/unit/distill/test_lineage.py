"""What a manifest says of the code and of the student's tokens; and that pruning takes the store's copy too."""

import dataclasses
import json

import pytest

from distill.lineage import code_version, student_facts
from distill.retention import prune
from ledger import artifact_store, releases
from ledger.artifact_store import ARTIFACT
from ledger.artifacts import seal
from ledger.releases import Release
from ledger.store import open_store, sqlite_url


@pytest.fixture
def student(tmp_path):
    files = {
        "config.json": "{}", "model.safetensors": "w", "tokenizer.json": '{"a": 1}',
        "tokenizer_config.json": '{"chat_template": "{{ messages }}"}',
    }  # fmt: skip
    (tmp_path / "student").mkdir()
    for name, text in files.items():
        (tmp_path / "student" / name).write_text(text)
    return tmp_path / "student"


def changed(student, name, text):
    before = student_facts(student)
    (student / name).parent.mkdir(exist_ok=True)
    (student / name).write_text(text)
    after = student_facts(student)
    return {fact for fact in before.keys() | after.keys() if before.get(fact) != after.get(fact)}


def test_each_hash_changes_with_what_it_is_of(student):
    assert changed(student, "model.safetensors", "other weights") == set()
    assert changed(student, "tokenizer.json", '{"a": 2}') == {"tokenizer"}
    assert changed(student, "chat_template.jinja", "{{ system }}") == {"chat_template"}
    assert changed(student, "adapter/adapter_config.json", "{}") == {"adapter"}
    assert changed(student, "adapter/adapter_model.safetensors", "a") == {"adapter"}


def test_a_template_inside_of_the_tokenizers_settings_counts_as_one_in_its_own_file(student):
    inside = student_facts(student)["chat_template"]
    (student / "tokenizer_config.json").write_text("{}")
    assert "chat_template" not in student_facts(student)
    (student / "chat_template.jinja").write_text("{{ messages }}")
    assert student_facts(student)["chat_template"] == inside


def test_the_code_is_named_by_its_version_and_commit():
    found = code_version()
    assert found["version"]
    assert len(found.get("commit", "0" * 40)) == 40
    json.dumps(found)


def test_pruning_deletes_the_folder_and_the_copy_in_the_store(tmp_path):
    store = open_store(sqlite_url(tmp_path))
    folder = tmp_path / "releases" / "old"
    (folder / "student").mkdir(parents=True)
    (folder / "student" / "config.json").write_text("{}")
    digest = seal(folder, {})
    url = artifact_store.push(folder, f"file://{tmp_path}/shared")
    row = Release("old", "rejected", 0, None, None, None, str(folder), digest, {ARTIFACT: url})
    releases.add(store, row)
    releases.add(store, dataclasses.replace(row, id="older", created_at=-1, folder=str(tmp_path / "no"), summary={}))
    assert [each.id for each in prune(store, 1, "test")] == ["older"]
    assert folder.is_dir()
    assert [each.id for each in prune(store, 0, "test")] == ["old"]
    assert not folder.exists()
    assert not (tmp_path / "shared" / "old" / "manifest.json").exists()
    store.close()
