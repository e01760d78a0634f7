"""Writes docs/settings.md from the settings' own code: for each TOML table its keys, types, defaults and meanings."""

import argparse
import ast
import inspect
import sys
import types
from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "settings.md"
INTRODUCTION = """\
<!-- Written by tools/settings_doc.py from the settings' code; do not edit. -->
# Settings

Stillroom reads one TOML file: the one that `--config` names, or `stillroom.toml` in the current folder. Every value
can also be set by a variable, which comes before the file: `STILLROOM_` and the key in upper case, with two
underscores for each dot, as in `STILLROOM_TEACHER__BASE_URL=https://teacher.example/v1`. A variable's value is
written as in TOML; text needs no quotes. Secrets are not settings: `teacher.api_key_env` names the variable that
holds the teacher's key.

An unknown key, a value of another type and a number out of its range stop the start with exit status 2; the message
names the key, the value and what is allowed.
"""


def main() -> int:
    """Write the page; with ``--check``, only say whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 when the page is out of date")
    check = parser.parse_args().check
    sys.path.insert(0, str(ROOT))
    text = page()
    if check:
        return int(not PAGE.exists() or PAGE.read_text("utf-8") != text)
    PAGE.write_text(text, "utf-8")
    return 0


def page() -> str:
    """The whole page."""
    from stillroom.settings import Settings  # noqa: PLC0415 found only once main has set the path

    return INTRODUCTION + "".join(_sections(Settings, ""))


def _sections(shape: type[msgspec.Struct], table: str) -> Iterator[str]:
    meanings = field_docs(shape)
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    inner: list[tuple[type[msgspec.Struct], str]] = []
    path = table.strip("[]")
    for field in msgspec.structs.fields(shape):
        key = f"{path}.{field.name}" if path else field.name
        if is_struct(field.type):
            inner.append((field.type, key))
            continue
        cells = (f"`{key}`", type_name(field.type), _default(field), meanings[field.name])
        if is_struct(element := element_type(field.type)):
            inner.append((element, f"[{key}]"))
        rows.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    title = f"`[{table}]`" if table else "Top level"
    about = (shape.__doc__ or "").split("\n\n")[0].replace("``", "`").replace("\n", " ")
    yield f"\n## {title}\n\n{' '.join(about.split())}\n\n" + "\n".join(rows) + "\n"
    for struct, key in inner:
        yield from _sections(struct, key)


def element_type(annotation: Any) -> Any:
    """What a list holds; None for anything else."""
    return get_args(annotation)[0] if get_origin(annotation) is tuple else None


def is_struct(annotation: Any) -> bool:
    """True for a table's type."""
    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)


def field_docs(shape: type[msgspec.Struct]) -> dict[str, str]:
    """The text below each field of a struct or its bases. Raises ``KeyError`` for a field without one."""
    bases = [base for base in shape.__mro__ if issubclass(base, msgspec.Struct) and base is not msgspec.Struct]
    found: dict[str, str] = {}
    for base in reversed(bases):
        (body,) = (node.body for node in ast.parse(inspect.getsource(base)).body if isinstance(node, ast.ClassDef))
        for field, below in pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
            ):
                text = ast.literal_eval(below.value)
                found[field.target.id] = " ".join(inspect.cleandoc(text).replace("``", "`").split())
    return {name: found[name] for name in shape.__struct_fields__}


def type_name(annotation: Any) -> str:
    """A type as somebody who writes TOML thinks of it."""
    names = {str: "text", int: "integer", float: "number", Decimal: "number", bool: "true or false"}
    if annotation in names:
        return names[annotation]
    if is_struct(annotation):
        return "table"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (types.UnionType, getattr(types, "Union", None)):
        return type_name(next(argument for argument in arguments if argument is not types.NoneType))
    if origin is tuple:
        element = type_name(arguments[0])
        return f"list of {element}" if element.startswith("`") else f"list of {element}s"
    if origin is dict:
        return f"table of {type_name(arguments[1])}s"
    return " or ".join(f'`"{argument}"`' for argument in arguments)


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "needed"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if value is None:
        return "unset"
    if isinstance(value, str):
        return f'`"{value}"`'
    return f"`{msgspec.json.encode(value).decode()}`"


if __name__ == "__main__":
    sys.exit(main())
