"""A server's options from flags, the environment and a TOML file, in this order of precedence.

Every field of :class:`ServerConfig` is a key of the file, a variable ``HETAL_NAME`` and a flag.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any, Final, get_origin, get_type_hints

from pydantic import ValidationError, create_model
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from hetal.errors import InputError
from hetal.server.config import ServerConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_FILE: Final = Path("/etc/hetal/hetal.toml")
PREFIX: Final = "HETAL_"
# Where the command differs from the Python API: a test wants any free port, an operator one that clients know.
COMMAND_DEFAULTS: Final[Mapping[str, Any]] = {"data_dir": Path("hetal-data"), "port": 7443}


@dataclass(frozen=True, slots=True)
class Settings:
    """A checked configuration and where each value came from.

    Attributes:
        origins: by option: default | file PATH | environment HETAL_NAME | flag.
        strangers: variables named HETAL_ that are no option; other tools use the prefix, so they are told, not refused.
    """

    config: ServerConfig
    origins: Mapping[str, str]
    strangers: tuple[str, ...]


def options() -> tuple[Field[Any], ...]:
    """The fields of :class:`ServerConfig`, in its order."""
    return fields(ServerConfig)


def option_types() -> dict[str, Any]:
    """Python type of each option."""
    return get_type_hints(ServerConfig)


def variable(name: str) -> str:
    """The environment variable of an option."""
    return PREFIX + name.upper()


def load(
    flags: Mapping[str, Any], *, file: Path | None = None, environment: Mapping[str, str] | None = None
) -> Settings:
    """Put the options together and check them.

    Args:
        flags: options given on the command line, by field name.
        file: TOML; None for ``DEFAULT_FILE`` where it exists.
        environment: None for the process's own.

    Raises:
        InputError: names a file that cannot be read, an unknown key, or a value of wrong type or range and its origin.
    """
    environ = os.environ if environment is None else environment
    table = _table(file)
    source = file or DEFAULT_FILE
    named = {key: value for key, value in environ.items() if key.startswith(PREFIX) and value}
    known = {variable(field.name): field.name for field in options()}
    given = {known[key]: value for key, value in named.items() if key in known}
    origins = {
        field.name: "flag"
        if field.name in flags
        else f"environment {variable(field.name)}"
        if field.name in given
        else f"file {source}"
        if field.name in table
        else "default"
        for field in options()
    }
    unknown = sorted(set(table) - set(origins))
    if unknown:
        raise InputError(f"{source}: {_stranger(unknown[0], origins)}", hint="`hetal serve --print-config` prints all.")
    kinds = option_types()
    variables = {variable(name).lower(): _variable_text(kinds[name], value) for name, value in given.items()}
    try:
        settings = _model(table, variables)(**flags)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise InputError(f"{name} = {first['input']!r} ({origins[name]}): {first['msg']}") from error
    config = ServerConfig(**{field.name: getattr(settings, field.name) for field in options()})
    config.check()
    strangers = tuple(_stranger(key, known) for key in sorted(set(named) - set(known)))
    return Settings(config, origins, strangers)


def to_toml(settings: Settings) -> str:
    """The configuration as a file that :func:`load` reads back; each value with its meaning and its origin."""
    lines = ["# hetal serve: flags go before HETAL_ variables, these before this file, and this file before defaults."]
    lines += [f"# {text}" for text in settings.strangers]
    for field in options():
        value = getattr(settings.config, field.name)
        lines += ["", f"# {field.metadata['meaning']}"]
        assignment = f"# {field.name} =" if value is None else f"{field.name} = {_toml_value(value)}"
        lines.append(f"{assignment}  # {settings.origins[field.name]}")
    return "\n".join(lines) + "\n"


def _table(file: Path | None) -> dict[str, Any]:
    """Content of the configuration file; empty where none was named and there is none at the usual place."""
    path = file or DEFAULT_FILE
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if file is None:
            return {}
        raise InputError(f"there is no configuration file {path}") from None
    except OSError as error:
        raise InputError(f"the configuration file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not TOML: {error}") from error


def _model(table: dict[str, Any], environment: Mapping[str, str]) -> type[BaseSettings]:
    """A pydantic model with the options of :class:`ServerConfig`, filled from these two beneath its own arguments."""

    class Layered(BaseSettings):
        model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid")

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, _Environment(settings_cls, environment), _Table(settings_cls, table)

    kinds = option_types()
    definitions: dict[str, Any] = {option.name: (kinds[option.name], _default(option)) for option in options()}
    return create_model("ServerSettings", __base__=Layered, **definitions)


class _Environment(EnvSettingsSource):
    """Variables out of a mapping in place of the process's."""

    def __init__(self, settings_cls: type[BaseSettings], environment: Mapping[str, str]) -> None:
        self._environment = environment
        super().__init__(settings_cls)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._environment


class _Table(PydanticBaseSettingsSource):
    """The keys of a TOML file that is read already."""

    def __init__(self, settings_cls: type[BaseSettings], table: dict[str, Any]) -> None:
        super().__init__(settings_cls)
        self._table = table

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self._table.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self._table


def _variable_text(kind: Any, value: str) -> str:
    """A list in a variable is JSON for pydantic; commas are what an operator writes."""
    if get_origin(kind) is not tuple or value.lstrip().startswith("["):
        return value
    return json.dumps([part.strip() for part in value.split(",")])


def _default(field: Field[Any]) -> Any:
    if field.name in COMMAND_DEFAULTS:
        return COMMAND_DEFAULTS[field.name]
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else ...


def _stranger(key: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(key, known, 1)
    return f"{key} is not an option" + (f"; did you mean {near[0]}?" if near else "")


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml_value(part) for part in value) + "]"
    # JSON strings are TOML strings, but for DEL, which TOML wants escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
