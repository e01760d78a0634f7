"""Settings: one TOML file, every value also by environment; unknown and ill-typed keys are refused."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import msgspec

from distill.settings import DistillSettings
from gateway.settings import AuthSettings, GatewaySettings, TeacherSettings
from ledger.store import sqlite_url
from router.settings import RouterSettings
from serving.settings import StudentSettings

__all__ = ("Settings", "SettingsError", "StoreSettings", "load_settings")

DEFAULT_FILE: Final = "stillroom.toml"
PREFIX: Final = "STILLROOM_"
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
RESERVED: Final = ("auto", "student", "teacher")


class SettingsError(ValueError):
    """A settings file or variable that cannot be used; the message says which key, and how to mend it."""


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the ledger is kept."""

    url: str | None = None
    """A SQLAlchemy URL; unset: SQLite in ``home``."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings. Each room's table is defined in that room."""

    home: str = "var"
    """Ledger, releases, spool, models, logs."""
    gateway: GatewaySettings = GatewaySettings()
    student: StudentSettings = StudentSettings()
    teacher: TeacherSettings = TeacherSettings()
    router: RouterSettings = RouterSettings()
    distill: DistillSettings = DistillSettings()
    aliases: dict[str, str] = {}
    auth: AuthSettings = AuthSettings()
    store: StoreSettings = StoreSettings()

    @property
    def home_path(self) -> Path:
        """``home`` as an absolute path."""
        return Path(self.home).expanduser().resolve()

    @property
    def store_url(self) -> str:
        """The ledger's URL."""
        return self.store.url or sqlite_url(self.home_path)


def load_settings(path: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read a file (or ``stillroom.toml`` here if there is one, or nothing), then the environment over it.

    Raises `SettingsError`.
    """
    values = _file_values(path)
    for name, text in environment.items():
        if name.startswith(PREFIX):
            _set(values, name.removeprefix(PREFIX).lower().split("__"), _literal(text), name)
    _check_keys(values, Settings, "")
    try:
        settings = msgspec.convert(values, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{_source(path)}: {_located(error, values)}") from error
    _check(settings)
    return settings


def _file_values(path: Path | None) -> dict[str, Any]:
    chosen = path or Path(DEFAULT_FILE)
    try:
        return tomllib.loads(chosen.read_text("utf-8"))
    except FileNotFoundError:
        if path is None:
            return {}
        raise SettingsError(f"there is no settings file {path}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{chosen} cannot be read as TOML: {error}") from error


def _source(path: Path | None) -> str:
    return str(path or DEFAULT_FILE)


def _literal(text: str) -> Any:
    """A variable's value: as TOML where it is TOML, else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _set(values: dict[str, Any], path: list[str], value: Any, name: str) -> None:
    table: Any = values
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise SettingsError(f"{name}: {part!r} is a value, not a table")
    table[path[-1]] = value


def _check_keys(values: Any, shape: Any, where: str) -> None:
    """Refuse an unknown key, naming the ones that exist there."""
    if not (isinstance(shape, type) and issubclass(shape, msgspec.Struct) and isinstance(values, dict)):
        return
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(shape)}
    for key, value in values.items():
        if key not in fields:
            allowed = ", ".join(sorted(fields))
            raise SettingsError(f"unknown setting {where}{key} = {value!r}; allowed here: {allowed}")
        _check_keys(value, _struct_of(fields[key]), f"{where}{key}.")


def _struct_of(annotation: Any) -> Any:
    if get_origin(annotation) is None:
        return annotation
    return next((arg for arg in get_args(annotation) if isinstance(arg, type)), annotation)


def _located(error: msgspec.ValidationError, values: dict[str, Any]) -> str:
    message, _, path = str(error).partition(" - at `$.")
    keys = path.rstrip("`").split(".") if path else []
    value: Any = values
    for key in keys:
        value = value.get(key.partition("[")[0]) if isinstance(value, dict) else None
    return f"{'.'.join(keys)} = {value!r}: {message}" if keys else message


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
    shares = {
        "router.agreement_target": settings.router.agreement_target,
        "router.confidence": settings.router.confidence,
    }
    for name, value in shares.items():
        if not 0 < value < 1:
            raise SettingsError(f"{name} = {value}: must be above 0 and below 1")
    for name, value in {
        "router.explore_share": settings.router.explore_share,
        "distill.holdout_share": settings.distill.holdout_share,
        "distill.max_share_per_key": settings.distill.max_share_per_key,
    }.items():
        if not 0 <= value <= 1:
            raise SettingsError(f"{name} = {value}: must be between 0 and 1")
