"""Writes docs/reference/ from the code: the commands, the API, its headers and error codes, metrics, licences.

``python tools/reference.py`` writes, ``--check`` only says which pages are out of date (status 1).
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
FOLDER: Final = ROOT / "docs" / "reference"
WRITTEN: Final = "<!-- Written by tools/reference.py from the code; do not edit. -->\n"
COMMANDS: Final = """\
# Commands

Exit status 2 is a wrong call or a wrong setting, 1 a failure; both say why in one line on standard error.
`--json` prints what programs can read.

"""
API: Final = """\
# API

Below `/v1` requests and answers are OpenAI's, unknown fields pass through, and errors have OpenAI's shape everywhere
([codes](errors.md)). Schemas of all bodies are in `/openapi.json` of a running gateway. A key is sent as
`Authorization: Bearer`; its scope is `inference`, `read` or `admin`.

"""
METRICS: Final = """\
# Metrics

Of `GET /metrics`, by name. How they are read, and what is added up over processes, is [another page](../metrics.md).

"""
HEADERS: Final = """\
# Headers

Routes and reasons are [words](../architecture.md#words) of Stillroom; a webhook has [a page](../webhooks.md).

"""
ERRORS: Final = """\
# Error codes

An error is `{"error": {"message", "type", "param", "code"}}`, as OpenAI's clients expect. An upstream's refusal
passes as it came, with the upstream's own code. A `code` of null is a request that cannot be understood; its message
says why.

"""
LICENCES: Final = """\
# Licences

Stillroom is under Apache-2.0. These are the packages that `constraints.txt` pins for all extras together, with the
licence that each states in its own metadata. The last column says what asks for one; the others come with those.

"""
Row = tuple[str, ...]


def main() -> int:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 when a page is out of date")
    check = parser.parse_args().check
    old = []
    for name, page in PAGES.items():
        path, text = FOLDER / name, written(page())
        if check and (not path.exists() or path.read_text("utf-8") != text):
            old.append(name)
        elif not check:
            path.write_text(text, "utf-8")
    for name in old:
        print(f"docs/reference/{name} is out of date: run python tools/reference.py", file=sys.stderr)
    return int(bool(old))


def written(page: str) -> str:
    """A page that says where it comes from. Its heading stays its first line: the site's menus take it from there."""
    heading, _, rest = page.partition("\n")
    return f"{heading}\n\n{WRITTEN}{rest}"


def commands_page() -> str:
    """Every command with its arguments and options."""
    from stillroom.cli import cli  # noqa: PLC0415 found only once the path is set

    sections = (_command(command, path, cli.context_settings) for path, command in commands(cli, "stillroom"))
    return COMMANDS + "\n".join(sections)


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """(what is typed, command) of this one and all below it, in the order of the alphabet."""
    yield path, command
    for name, inner in sorted(getattr(command, "commands", {}).items()):
        yield from commands(inner, f"{path} {name}")


def _command(command: click.Command, path: str, inherited: Mapping[str, Any]) -> str:
    # a command keeps the first help option that it is asked for
    with click.Context(command, info_name=path, **inherited) as context:
        usage = " ".join(command.collect_usage_pieces(context))
        options = [
            (f"`{', '.join((*option.opts, *option.secondary_opts))}`", _default(option, context), _meaning(option))
            for option in command.params
            if isinstance(option, click.Option) and not option.hidden
        ]
    about = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    table = _table(("option", "default", "meaning"), options) if options else ""
    return f"## {path}\n\n```text\n{path} {usage}\n```\n\n{_plain(about)}\n{table and f'{chr(10)}{table}'}"


def _default(option: click.Option, context: click.Context) -> str:
    if option.required:
        return "needed"
    value = option.get_default(context)
    if option.is_flag or option.multiple or not isinstance(value, str | int | float):
        return ""
    return f"`{value}`"


def _meaning(option: click.Option) -> str:
    choices = option.type.choices if isinstance(option.type, click.Choice) else ()
    one_of = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
    return f"{_plain(' '.join((option.help or '').split()))}{one_of}"


def api_page() -> str:
    """Every path with its scope, parameters and meaning, from the OpenAPI document."""
    from gateway.openapi import document  # noqa: PLC0415 as above

    with _gateway() as app:
        paths = document(app)["paths"]
    operations = [
        (method.upper(), path, methods[method])
        for path, methods in sorted(paths.items())
        for method in sorted(methods)
    ]
    rows = [(f"`{method} {path}`", _scope(operation), operation["summary"]) for method, path, operation in operations]
    details = "\n".join(_operation(*operation) for operation in operations if _queries(operation[2]))
    return f"{API}{_table(('request', 'scope', 'meaning'), rows)}\n{details}"


@contextlib.contextmanager
def _gateway() -> Iterator[Any]:
    """The application with every setting at its default."""
    from ledger.store import open_store, sqlite_url  # noqa: PLC0415 as above
    from stillroom.compose import build_gateway  # noqa: PLC0415 as above
    from stillroom.settings import Settings  # noqa: PLC0415 as above

    with tempfile.TemporaryDirectory() as home:
        store = open_store(sqlite_url(Path(home)))
        yield build_gateway(Settings(home=home), store)
        store.close()


def metrics_page() -> str:
    """Every metric with its labels, as `/metrics` names it."""
    with _gateway() as app:
        registry = app.state.metrics.registry
        # the registry tells labels of what was counted only, and a gateway that was just made has counted nothing
        rows = [_metric(collector) for collector in registry._collector_to_names]  # noqa: SLF001
    return METRICS + _table(("metric", "type", "labels", "meaning"), sorted(rows))


def _metric(collector: Any) -> Row:
    (family,) = collector.collect()
    labels = collector._labelnames or {name for sample in family.samples for name in sample.labels} - {"le"}  # noqa: SLF001
    suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
    kind = "gauge" if family.type == "info" else family.type
    return f"`{family.name}{suffix}`", kind, ", ".join(f"`{label}`" for label in labels), family.documentation


def _scope(operation: Mapping[str, Any]) -> str:
    return f"`{operation['security'][0]['key'][0]}`" if operation["security"] else "none"


def _queries(operation: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [each for each in operation["parameters"] if each.get("in") == "query"]


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    rows = [(f"`{each['name']}`", _type(each["schema"])) for each in _queries(operation)]
    about = f"{operation['description']}\n\n" if operation["description"] else ""
    return f"## {method} {path}\n\n{_plain(about)}{_table(('query', 'value'), rows)}"


def _type(schema: Mapping[str, Any]) -> str:
    values = ", ".join(f"`{value}`" for value in schema.get("enum", ()))
    bounds = {"minimum": "at least", "maximum": "at most", "default": "by default"}
    limits = "".join(f", {words} {schema[key]}" for key, words in bounds.items() if key in schema)
    about = f". {schema['description']}" if "description" in schema else ""
    return f"{values or schema.get('type', 'any')}{limits}{about}"


def headers_page() -> str:
    """Every header that the gateway reads, passes on, or answers."""
    from gateway.header_list import ANSWERED, PASSED_ON, SENT  # noqa: PLC0415 as above

    parts = {"Read": SENT, "Passed on to the upstream": PASSED_ON, "Answered": ANSWERED}
    sections = (
        f"## {title}\n\n{_table(('header', 'meaning'), ((f'`{name}`', text) for name, text in sorted(part.items())))}"
        for title, part in parts.items()
    )
    return HEADERS + "\n".join(sections)


def errors_page() -> str:
    """Every code of an error."""
    from gateway.error_codes import CODES  # noqa: PLC0415 as above

    rows = ((f"`{code}`", status, meaning) for code, (status, meaning) in sorted(CODES.items()))
    return ERRORS + _table(("code", "status", "meaning"), rows)


def licences_page() -> str:
    """The licence of everything that constraints.txt pins."""
    from tools.licences import licences  # noqa: PLC0415 as above

    return LICENCES + _table(("package", "licence", "asked for by"), licences())


def _table(head: Row, rows: Iterable[Row]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def _plain(text: str) -> str:
    """Docstrings mark code by two signs, and Markdown takes < for HTML."""
    return text.replace("``", "`").replace("<", "&lt;")


PAGES: Final[dict[str, Callable[[], str]]] = {
    "commands.md": commands_page,
    "api.md": api_page,
    "headers.md": headers_page,
    "errors.md": errors_page,
    "metrics.md": metrics_page,
    "licences.md": licences_page,
}

if __name__ == "__main__":
    sys.exit(main())
