"""Frozen dataclasses from TOML or JSON values, strict about keys and types."""

from __future__ import annotations

import dataclasses
import types
from typing import Any, get_args, get_origin, get_type_hints

from .errors import ConfigError, UnknownNameError


def parse(kind: Any, data: dict[str, Any], where: str) -> Any:
    """A frozen dataclass from TOML values, strict about keys and types; errors name the key."""
    hints, fields = get_type_hints(kind), {f.name: f for f in dataclasses.fields(kind)}
    for key in data:
        if key not in fields:
            raise UnknownNameError("key", key, fields, where)
    values = {}
    for name, spec in fields.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], f"{where}: {name}")
        elif (
            spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        ):
            raise ConfigError(f"{where}: key {name!r} is missing")
    return kind(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, found {value!r}")
        inners = get_args(hint)
        if inners[-1] is Ellipsis:
            inners = inners[:1] * len(value)
        if len(inners) != len(value):
            raise ConfigError(f"{where}: expected {len(inners)} entries, found {value!r}")
        pairs = enumerate(zip(inners, value, strict=True))
        return tuple(_convert(inner, v, f"{where}[{i}]") for i, (inner, v) in pairs)
    if origin is types.UnionType:
        if value is None and type(None) in get_args(hint):
            return None
        return _convert(next(h for h in get_args(hint) if h is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected a table, found {value!r}")
        return parse(hint, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected a table, found {value!r}")
        inner = get_args(hint)[1]
        if inner is Any:
            return value
        return {key: _convert(inner, v, f"{where}.{key}") for key, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where}: expected {hint.__name__}, found {value!r}")
    return value
