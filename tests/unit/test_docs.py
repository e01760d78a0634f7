"""The documents say what the code does."""

import importlib.metadata

import pytest

from stillroom.settings import Settings
from tools import reference, settings_doc
from tools.settings_doc import PAGE, field_docs, is_struct, page, type_name


def keys(shape, table=""):
    for name, annotation in shape.__annotations__.items():
        key = f"{table}{name}"
        if is_struct(annotation):
            yield from keys(annotation, f"{key}.")
        else:
            yield key


def test_every_page_is_in_the_sites_menu_and_every_runbook_in_the_list_of_runbooks():
    menu = (PAGE.parents[1] / "mkdocs.yml").read_text("utf-8")
    pages = [page.relative_to(PAGE.parent).as_posix() for page in PAGE.parent.rglob("*.md")]
    assert [page for page in pages if f"- {page}\n" not in menu and f"[{page}]" not in menu] == [], (
        "add it to mkdocs.yml"
    )
    runbooks = (PAGE.parent / "runbooks.md").read_text("utf-8")
    assert [page for page in pages if page.startswith("runbooks/") and f"({page})" not in runbooks] == []


@pytest.mark.parametrize("name", reference.PAGES)
def test_a_page_of_the_reference_is_what_its_tool_writes(name):
    try:
        text = reference.written(reference.PAGES[name]())
    except importlib.metadata.PackageNotFoundError as error:
        pytest.skip(f"{error} (of constraints.txt) is not installed here")
    assert (reference.FOLDER / name).read_text("utf-8") == text, "run python tools/reference.py"


def test_every_setting_is_in_the_settings_page_once():
    text = PAGE.read_text("utf-8")
    found = list(keys(Settings))
    assert len(found) > 50
    assert [key for key in found if text.count(f"| `{key}` |") != 1] == []


def test_the_settings_page_is_what_its_tool_writes():
    assert PAGE.read_text("utf-8") == page(), "run python tools/settings_doc.py"


def test_the_check_of_the_settings_page_finds_an_old_one(tmp_path, monkeypatch):
    monkeypatch.setattr(settings_doc, "PAGE", tmp_path / "settings.md")
    monkeypatch.setattr("sys.argv", ["settings_doc.py", "--check"])
    assert settings_doc.main() == 1
    settings_doc.PAGE.write_text(page(), "utf-8")
    assert settings_doc.main() == 0
    settings_doc.PAGE.write_text(page() + "\n", "utf-8")
    assert settings_doc.main() == 1


def test_a_field_without_a_text_below_it_stops_the_page():
    with pytest.raises(KeyError, match="bare"):
        field_docs(Undescribed)


class Undescribed:
    """Stands for a struct with a field that nobody described."""

    __struct_fields__ = ("bare",)
    bare: int = 0


@pytest.mark.parametrize(
    ("annotation", "name"),
    [
        pytest.param(str | None, "text", id="optional"),
        pytest.param(tuple[int, ...] | None, "list of integers", id="optional list"),
        pytest.param(dict[str, str], "table of texts", id="table"),
        pytest.param(bool, "true or false", id="flag"),
    ],
)
def test_a_type_is_named_as_one_who_writes_toml_thinks_of_it(annotation, name):
    assert type_name(annotation) == name
