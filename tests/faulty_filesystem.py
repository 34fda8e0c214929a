"""Memory whose calls fail as scripted: `faulty://` as an asynchronous filesystem, `faulty-sync://`."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem

METHODS = ("cat_file", "find", "get_file", "info", "ls", "pipe_file", "put_file", "rm")
SHORT = "short"
"""A fault: half of the bytes, without a word."""
DRIP = "drip"
"""A fault: an answer that takes an hour. Only an asynchronous filesystem can be left alone then."""

Fault = BaseException | str


class Script:
    """Faults to come by method, and the calls so far."""

    faults: ClassVar[dict[str, list[Fault]]] = defaultdict(list)
    calls: ClassVar[list[tuple[str, str]]] = []
    """Method and path"""

    @classmethod
    def clear(cls) -> None:
        """Forget all, the files too."""
        cls.faults.clear()
        cls.calls.clear()
        MemoryFileSystem.store.clear()
        MemoryFileSystem.pseudo_dirs[:] = [""]

    @classmethod
    def next(cls, method: str, path: str) -> Fault:
        """Raise the next fault of the method, or return it, or nothing."""
        cls.calls.append((method, path))
        fault = cls.faults[method].pop(0) if cls.faults[method] else ""
        if isinstance(fault, BaseException):
            raise fault
        return fault


def damaged(result: Any, fault: Fault) -> Any:
    """What a fault leaves of a result."""
    return result[: len(result) // 2] if fault == SHORT else result


class _Faulty:
    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return MemoryFileSystem._strip_protocol(str(path).partition("://")[2] or path)


class FaultyFileSystem(_Faulty, AsyncFileSystem):  # type: ignore[misc]
    """Memory behind an event loop, as the object stores' clients are."""

    protocol = "faulty"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.memory = MemoryFileSystem()
        for method in METHODS:
            setattr(self, f"_{method}", partial(self._strike, method))

    async def _strike(self, method: str, path: str, *args: Any, **kwargs: Any) -> Any:
        fault = Script.next(method, path)
        if fault == DRIP:
            await asyncio.sleep(3600)
        return damaged(getattr(self.memory, method)(path, *args, **kwargs), fault)


class FaultySyncFileSystem(_Faulty, MemoryFileSystem):  # type: ignore[misc]
    """The same without one."""

    protocol = "faulty-sync"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for method in METHODS:
            setattr(self, method, partial(self._strike, method, getattr(self, method)))

    def _strike(
        self, method: str, real: Callable[..., Any], path: str, *args: Any, **kwargs: Any
    ) -> Any:  # fmt: skip
        fault = Script.next(method, path)
        return damaged(real(path, *args, **kwargs), fault)


def register() -> None:
    """Make both known to fsspec."""
    for cls in (FaultyFileSystem, FaultySyncFileSystem):
        fsspec.register_implementation(cls.protocol, cls, clobber=True)
