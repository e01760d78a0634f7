"""Settings: one TOML file, every value also by environment; unknown and ill-typed keys are refused."""

import importlib.util
import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from types import UnionType
from typing import Any, Final, cast, get_args, get_origin
from urllib.parse import urlsplit

import msgspec

from distill.canary_settings import CANARY_RANGES
from distill.data.settings import DATA_RANGES
from distill.gate_settings import GATE_RANGES
from distill.settings import ABOVE_ZERO, TRAINING_RANGES, DistillSettings
from distill.trigger_settings import TRIGGER_RANGES
from gateway.settings import AuthSettings, EmbeddingsSettings, GatewaySettings, TeacherSettings, WebhookSettings
from gateway.webhook_endpoints import problem_with
from ledger.store import sqlite_url
from router.comparators import AUTO, COMPARATORS, DEFERRED
from router.settings import RouterSettings
from serving.address import address_problem
from serving.settings import StudentSettings

__all__ = ("Settings", "SettingsError", "StoreSettings", "changed_settings", "load_settings")

DEFAULT_FILE: Final = "stillroom.toml"
PREFIX: Final = "STILLROOM_"
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
RESERVED: Final = ("auto", "student", "teacher")
SHARE: Final = (0, 1)
COUNT: Final = (1, 1e9)
WAIT: Final = (0.01, 86_400)
RETRIES: Final = (0, 20)
RANGES: Final[dict[str, tuple[float, float]]] = {
    "gateway.port": (0, 65_535),
    "gateway.workers": (1, 256),
    "gateway.drain_delay_seconds": (0, 3_600),
    "gateway.max_in_flight": COUNT,
    "gateway.tracing.sample_ratio": SHARE,
    "gateway.total_timeout_seconds": WAIT,
    "teacher.first_byte_timeout_seconds": WAIT,
    "teacher.total_timeout_seconds": WAIT,
    "teacher.retries": RETRIES,
    "student.first_byte_timeout_seconds": WAIT,
    "student.total_timeout_seconds": WAIT,
    "student.retries": RETRIES,
    "student.max_lora_rank": (1, 512),
    "student.replicas": (1, 256),
    **{f"student.{name}_parallel": (1, 4_096) for name in ("tensor", "pipeline", "data")},
    "router.agreement_target": SHARE,
    "router.confidence": SHARE,
    "router.explore_share": SHARE,
    "router.shadow_share": SHARE,
    "router.canary_explore_share": SHARE,
    "router.max_teacher_share": SHARE,
    "router.drift_alarms_per_month": (0, 1_000),
    "router.similarity_floor": (-1, 1),
    "router.likelihood_floor": (-100, 0),
    "distill.processes": (2, 4_096),
    "distill.holdout_share": SHARE,
    "distill.max_share_per_key": SHARE,
    "distill.min_agreement": SHARE,
    "distill.margin": (-1, 1),
    **{f"distill.canary.{name}": bounds for name, bounds in CANARY_RANGES.items()},
    **{f"distill.data.{name}": bounds for name, bounds in DATA_RANGES.items()},
    **{f"distill.gate.{name}": bounds for name, bounds in GATE_RANGES.items()},
    **{f"distill.training.{name}": bounds for name, bounds in TRAINING_RANGES.items()},
    **{f"distill.triggers.{name}": bounds for name, bounds in TRIGGER_RANGES.items()},
}
"""Where a number may lie; one that is not named here, in `ANY_NUMBER`. Nothing takes NaN or infinity."""
ANY_NUMBER: Final = (0, 1e12)
DEVICES: Final = ("auto", "cpu", "cuda")
INSIDE: Final = ("router.agreement_target", "router.confidence", *(f"distill.training.{name}" for name in ABOVE_ZERO))
"""Numbers that may not be at the ends of their range."""
SECRET: Final = re.compile("key|secret|password", re.IGNORECASE)


class SettingsError(ValueError):
    """A settings file or variable that cannot be used; the message says which key, and how to mend it."""


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the ledger is kept."""

    url: str | None = None
    """Of a PostgreSQL, as in ``postgresql://user@host/name`` (``stillroom[postgres]``); unset: SQLite in ``home``."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings. Each room's table is defined in that room."""

    home: str = "var"
    """Folder of the ledger, releases, spool, models and logs."""
    gateway: GatewaySettings = GatewaySettings()
    """Where the gateway listens, and its bounds."""
    student: StudentSettings = StudentSettings()
    """The model that is distilled into, and how it is served."""
    teacher: TeacherSettings = TeacherSettings()
    """The frontier model."""
    router: RouterSettings = RouterSettings()
    """How much quality is asked for, and how the router may learn."""
    distill: DistillSettings = DistillSettings()
    """What a job takes, and what lets its release go live."""
    aliases: dict[str, str] = {}
    """Further model names that clients may send, each for ``auto``, ``student`` or ``teacher``."""
    embeddings: EmbeddingsSettings = EmbeddingsSettings()
    """Where embeddings are answered, if anywhere."""
    auth: AuthSettings = AuthSettings()
    """Whether API keys are asked for."""
    store: StoreSettings = StoreSettings()
    """Where the ledger is kept."""
    webhooks: tuple[WebhookSettings, ...] = ()
    """Who is told of jobs, releases, canaries, drift and budgets."""

    @property
    def home_path(self) -> Path:
        """``home`` as an absolute path."""
        return Path(self.home).expanduser().resolve()

    @property
    def store_url(self) -> str:
        """The ledger's URL."""
        return self.store.url or sqlite_url(self.home_path)

    @property
    def release_cache(self) -> Path:
        """Where a release's files are kept that are not on this machine."""
        return self.home_path / "cache" / "releases"


def load_settings(path: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read a file (or ``stillroom.toml`` here if there is one, or nothing), then the environment over it.

    Raises `SettingsError`.
    """
    values = _file_values(path)
    variables: dict[str, str] = {}
    # by name, so that a whole table comes before one of its keys, whatever the environment's order
    for name in sorted(name for name in environment if name.startswith(PREFIX)):
        keys = name.removeprefix(PREFIX).lower().split("__")
        text = environment[name]
        value = _literal(text)
        # a model called 4 is not a number
        _set(values, keys, value if isinstance(value, str) or not _is_text(keys) else text, name)
        variables[".".join(keys)] = name
    _check_keys(values, Settings, "")
    try:
        settings = msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        key, why = _located(error, values)
        variable = next((name for keys, name in variables.items() if f"{key}.".startswith(f"{keys}.")), None)
        raise SettingsError(f"{variable or path or DEFAULT_FILE}: {why}") from error
    _check(settings)
    return settings


def changed_settings(old: Settings, new: Settings) -> list[str]:
    """The keys whose values differ."""
    return list(_changed(msgspec.to_builtins(old), msgspec.to_builtins(new), ""))


def _changed(old: Any, new: Any, where: str) -> Iterator[str]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if old != new:
            yield where
        return
    before, after = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
    for name in sorted(before.keys() | after.keys()):
        yield from _changed(before.get(name), after.get(name), f"{where}.{name}" if where else name)


def _file_values(path: Path | None) -> dict[str, Any]:
    chosen = path or Path(DEFAULT_FILE)
    try:
        return tomllib.loads(chosen.read_text("utf-8"))
    except FileNotFoundError:
        if path is None:
            return {}
        raise SettingsError(f"there is no settings file {path}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError(f"{chosen} cannot be read as TOML: {error}") from error


def _literal(text: str) -> Any:
    """A variable's value: as TOML where it is TOML, else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def _is_text(keys: list[str]) -> bool:
    """True for a setting that is a string."""
    shape: Any = Settings
    for key in keys:
        if not (isinstance(shape, type) and issubclass(shape, msgspec.Struct)):
            return False
        shape = {field.encode_name: field.type for field in msgspec.structs.fields(shape)}.get(key)
    return shape is str or (isinstance(shape, UnionType) and str in get_args(shape))


def _set(values: dict[str, Any], path: list[str], value: Any, name: str) -> None:
    table: Any = values
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise SettingsError(
                f"{name} = {value!r}: {part} is a value ({table!r}), not a table with keys of its own"
            )
    table[path[-1]] = value


def _check_keys(values: Any, shape: Any, where: str) -> None:
    """Refuse an unknown key, naming the ones that exist there."""
    if not (isinstance(shape, type) and issubclass(shape, msgspec.Struct) and isinstance(values, dict)):
        return
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(shape)}
    for key, value in values.items():
        if key not in fields:
            allowed = ", ".join(sorted(fields))
            shown = "(not shown)" if isinstance(value, str) and SECRET.search(key) else repr(value)
            raise SettingsError(f"unknown setting {where}{key} = {shown}; allowed here: {allowed}")
        for name, table in _tables(f"{where}{key}", value):
            _check_keys(table, _struct_of(fields[key]), f"{name}.")


def _tables(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A table, or those of a list of tables."""
    if not isinstance(value, list):
        yield name, value
        return
    for index, table in enumerate(cast("list[Any]", value)):
        yield f"{name}[{index}]", table


def _struct_of(annotation: Any) -> Any:
    if get_origin(annotation) is None:
        return annotation
    return next((arg for arg in get_args(annotation) if isinstance(arg, type)), annotation)


def _located(error: msgspec.ValidationError, values: dict[str, Any]) -> tuple[str, str]:
    """The key that the error is about, and what is wrong with its value."""
    message, _, path = str(error).partition(" - at `$")
    value: Any = values
    key = ""
    for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", path):
        value = value[name] if name else value[int(index)]
        key += f".{name}" if name else f"[{index}]"
    if "[...]" in path:
        # msgspec does not say which one; open tables hold strings or numbers
        wanted = str if message.startswith("Expected `str`") else (int, float)
        wrong = (name for name, each in value.items() if isinstance(each, bool) or not isinstance(each, wanted))
        name = next(wrong)
        value = value[name]
        key += f".{name}"
    return key[1:], f"{key[1:]} = {value!r}: {message}".replace("`object`", "a table")


def _check(settings: Settings) -> None:
    if not settings.auth.required and settings.gateway.host not in LOOPBACK:
        raise SettingsError(
            f"auth.required = false is taken on loopback only, and gateway.host is {settings.gateway.host!r}; "
            'set auth.required = true, or gateway.host = "127.0.0.1"'
        )
    for alias, target in settings.aliases.items():
        if target not in RESERVED or alias in RESERVED:
            raise SettingsError(
                f"aliases.{alias} = {target!r}: an alias is a new name for one of {', '.join(RESERVED)}"
            )
    if settings.student.device not in DEVICES:
        raise SettingsError(f"student.device = {settings.student.device!r}: must be one of {', '.join(DEVICES)}")
    for name, value in _numbers(settings, ""):
        _check_number(name, value)
    _check_comparators(settings)
    _check_adapters(settings)
    _check_students(settings.student)
    _check_told(settings)
    _check_redis(settings)
    for name, url in (
        ("teacher.base_url", settings.teacher.base_url),
        ("embeddings.base_url", settings.embeddings.base_url),
        *((f"teacher.fallbacks[{i}].base_url", each.base_url) for i, each in enumerate(settings.teacher.fallbacks)),
        ("student.base_url", settings.student.base_url),
        *((f"student.more_base_urls[{i}]", url) for i, url in enumerate(settings.student.more_base_urls)),
        ("gateway.tracing.endpoint", settings.gateway.tracing.endpoint),
    ):
        if url is not None and not _is_http_url(url):
            raise SettingsError(f"{name} = {url!r}: must be a URL as in http://127.0.0.1:8000/v1")
    try:
        _ = settings.home_path
    except (ValueError, RuntimeError, OSError) as error:
        raise SettingsError(f"home = {settings.home!r}: must be the path of a folder ({error})") from error


def _check_told(settings: Settings) -> None:
    """Who is told of requests and of events."""
    if problem := problem_with(settings.webhooks):
        raise SettingsError(problem)
    if settings.gateway.tracing.endpoint is not None and importlib.util.find_spec("opentelemetry") is None:
        raise SettingsError("gateway.tracing.endpoint needs OpenTelemetry: pip install 'stillroom[otel]'")


def _check_redis(settings: Settings) -> None:
    url = settings.gateway.redis_url
    if url is None:
        return
    if not url.startswith(("redis://", "rediss://", "unix://")):
        # it may hold a password, so it is not shown
        raise SettingsError("gateway.redis_url: must be a URL as in redis://127.0.0.1:6379/0")
    if importlib.util.find_spec("redis") is None:
        raise SettingsError("gateway.redis_url needs the client of Redis: pip install 'stillroom[redis]'")


def _check_students(student: StudentSettings) -> None:
    """How many, and where they are, if Stillroom does not start them."""
    if problem := address_problem(student):
        raise SettingsError(problem)
    if student.replicas > 1 and student.swap != "blue_green":
        raise SettingsError(f'student.replicas = {student.replicas} needs student.swap = "blue_green"')
    for key, is_set in (("more_base_urls", bool(student.more_base_urls)), ("discover", student.discover)):
        if is_set and student.base_url is None:
            raise SettingsError(f"student.{key} needs student.base_url, which is unset")
    for url in (student.base_url, *student.more_base_urls):
        if student.discover and url is not None and url.startswith("https:"):
            raise SettingsError(
                f"student.discover takes http only, not {url!r}: a certificate is for a name, not for an address"
            )


def _check_adapters(settings: Settings) -> None:
    """A server of adapters has one set of weights below all of them."""
    if settings.student.swap != "adapter":
        return
    training, most = settings.distill.training, settings.student.max_lora_rank
    for is_so, needed in (
        (training.lora_rank is not None and training.lora_rank <= most, f"distill.training.lora_rank of 1 to {most}"),
        (settings.distill.start_from == "base", 'distill.start_from = "base"'),
        (training.layers is None, "distill.training.layers unset"),
    ):
        if not is_so:
            raise SettingsError(f'student.swap = "adapter" needs {needed}: adapters share the weights below them')


def _check_comparators(settings: Settings) -> None:
    """Each is one that there is, and what it asks is there."""
    router = settings.router
    named = {f"router.comparators.{key}": name for key, name in router.comparators.items()}
    allowed = (AUTO, *COMPARATORS, *DEFERRED)
    for key, name in {"router.comparator": router.comparator, **named}.items():
        if name not in allowed:
            raise SettingsError(f"{key} = {name!r}: must be one of {', '.join(allowed)}")
        if name == "embedding" and settings.embeddings.base_url is None:
            raise SettingsError(f"{key} = {name!r}: needs embeddings.base_url, which is unset")
        if name == "judge" and not router.judge_calls_per_hour:
            raise SettingsError(f"{key} = {name!r}: needs router.judge_calls_per_hour above 0")


def _numbers(table: msgspec.Struct, where: str) -> Iterator[tuple[str, float]]:
    for name in table.__struct_fields__:
        value = getattr(table, name)
        if isinstance(value, msgspec.Struct):
            yield from _numbers(value, f"{where}{name}.")
        elif isinstance(value, tuple):
            for index, each in enumerate(cast("tuple[Any, ...]", value)):
                if isinstance(each, msgspec.Struct):
                    yield from _numbers(each, f"{where}{name}[{index}].")
        elif isinstance(value, Decimal):
            # what is not finite refuses to be compared
            yield f"{where}{name}", float(value) if value.is_finite() else math.nan
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{where}{name}", value


def _check_number(name: str, value: float) -> None:
    low, high = RANGES.get(name, ANY_NUMBER)
    if name in INSIDE:
        if not low < value < high:
            raise SettingsError(f"{name} = {value}: must be above {low:g} and below {high:g}")
    elif not low <= value <= high:
        raise SettingsError(f"{name} = {value}: must be between {low:g} and {high:g}")


def _is_http_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
