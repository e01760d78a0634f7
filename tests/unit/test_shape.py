"""The code's shape: short modules and functions, whole annotations, a docstring each, few broad excepts."""

import ast
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("gateway", "router", "distill", "serving", "dashboards", "ledger", "stillroom")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
EVERYWHERE = sorted(
    [*MODULES, *(path for folder in ("tests", "tools", "bench") for path in (ROOT / folder).rglob("*.py"))]
)
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60
BROAD = {"Exception", "BaseException"}
BROAD_EXCEPTS = {
    "distill/train.py": 1, "distill/worker.py": 1, "gateway/batches/line.py": 1, "gateway/front.py": 1,
}  # fmt: skip
"""Handlers of everything, by module: outermost seams, each with its reason in a comment. Add one with care."""
ISLANDS = {"ledger": (), "router": ("ledger",), "serving": ("ledger",), "dashboards": ("ledger",)}
"""What these rooms may import of ours."""
HEAVY = {"torch", "transformers", "vllm", "peft", "accelerate"}
GATEWAY_SIDE = ("gateway", "ledger", "router", "dashboards")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), path)


@cache
def nodes(module: ast.Module) -> list[ast.AST]:
    """All of a module's, walked once."""
    return list(ast.walk(module))


def functions(module: ast.Module) -> Iterator[Function]:
    return (node for node in nodes(module) if isinstance(node, Function))


def over(paths: Sequence[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """One test over all of the files, which names those at fault: one for each file and rule would be thousands."""

    def made(check: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            wrong: dict[str, str] = {}
            for path in paths:
                try:
                    check(path)
                except AssertionError as error:
                    wrong[name(path)] = str(error)
            assert wrong == {}

        return test

    return made


each_module = over(MODULES)


def test_there_are_modules_to_look_at():
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(PACKAGES)


@over(EVERYWHERE)
def test_a_module_says_what_it_does_and_is_short(path):
    text = path.read_text("utf-8")
    assert ast.get_docstring(tree(path)), "a module begins with a docstring"
    assert text.count("\n") <= MAX_MODULE_LINES


@over(EVERYWHERE)
def test_a_function_is_short(path):
    long = [
        f"{function.name}: {lines} lines"
        for function in functions(tree(path))
        if "migrations" not in path.parts  # written by Alembic, once
        if (lines := function.end_lineno - function.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert long == []


@each_module
def test_every_argument_and_result_has_a_type(path):
    assert [problem for function in functions(tree(path)) for problem in unannotated(function)] == []


def unannotated(function: Function) -> Iterator[str]:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    arguments += [argument for argument in (function.args.vararg, function.args.kwarg) if argument is not None]
    for i, argument in enumerate(arguments):
        if argument.annotation is None and not (i == 0 and argument.arg in ("self", "cls")):
            yield f"{function.name}({argument.arg})"
    if function.returns is None:
        yield f"{function.name} -> ?"


@each_module
def test_what_is_offered_to_others_is_described(path):
    module = tree(path)
    offered = next(
        (
            set(ast.literal_eval(node.value))
            for node in module.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "__all__"
        ),
        set(),
    )
    defined = {node.name: node for node in module.body if isinstance(node, Function | ast.ClassDef)}
    assert [item for item in offered & defined.keys() if not ast.get_docstring(defined[item])] == []


@each_module
def test_everything_is_caught_in_listed_places_only(path):
    handlers = [node for node in nodes(tree(path)) if isinstance(node, ast.ExceptHandler) and is_broad(node)]
    assert len(handlers) <= BROAD_EXCEPTS.get(name(path), 0), [f"line {handler.lineno}" for handler in handlers]


def is_broad(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(kind, ast.Name) and kind.id in BROAD for kind in kinds)


def test_the_list_of_broad_excepts_names_only_what_is_there():
    assert [module for module in BROAD_EXCEPTS if not (ROOT / module).exists()] == []


@each_module
def test_nothing_unpickles_or_shares_by_global(path):
    module = tree(path)
    assert not [node for node in nodes(module) if isinstance(node, ast.Global)]
    assert {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}.isdisjoint(imported(module))
    loads = [
        node
        for node in nodes(module)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) == ("torch", "load")
    ]
    assert loads == []


def imported(module: ast.Module, anywhere: bool = True) -> set[str]:
    names: set[str] = set()
    for node in nodes(module) if anywhere else module.body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@each_module
def test_a_room_imports_only_the_rooms_it_may(path):
    room = path.relative_to(ROOT).parts[0]
    if room in ISLANDS:
        assert imported(tree(path)) & set(PACKAGES) <= {room, *ISLANDS[room]}


@over([path for path in MODULES if path.relative_to(ROOT).parts[0] in GATEWAY_SIDE])
def test_no_engine_and_no_trainer_is_loaded_with_the_gateway(path):
    assert imported(tree(path)).isdisjoint(HEAVY)


@over([path for path in EVERYWHERE if path not in MODULES and "test_" in path.name])
def test_a_tests_name_is_a_sentence(path):
    short = [
        function.name
        for function in functions(tree(path))
        if function.name.startswith("test_") and len(function.name.split("_")) < 4
    ]
    assert short == []
