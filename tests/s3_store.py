"""A real object store for tests and benchmarks: OpenStack Swift's S3 API behind a `FaultProxy`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fault_proxy import FaultProxy

HERE = Path(__file__).parent
PYTHON = HERE.parent / ".venv-s3" / "bin" / "python"
ACCOUNT = {
    "AWS_ACCESS_KEY_ID": "test:tester", "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}  # fmt: skip


def environment(endpoint: str) -> dict[str, str]:
    """What a client's environment needs; nothing of the user's own configuration."""
    nowhere = dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), "/dev/null")
    return ACCOUNT | nowhere | {"AWS_ENDPOINT_URL": endpoint}


@contextmanager
def server(*command: object) -> Iterator[int]:
    """A process that prints the port at which it answers; killed at the end."""
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{command} did not start; stderr says why")
            yield int(line)
        finally:
            process.kill()


@contextmanager
def swift() -> Iterator[int]:
    """The port on loopback of an empty store; it and its files go at the end."""
    if not PYTHON.exists():
        raise RuntimeError(f"{PYTHON}: not found; `make test` installs the S3 server there")
    with (
        tempfile.TemporaryDirectory(prefix="palaestra-swift-") as folder,
        # eventlet warns whoever imports it that new projects should not
        server(PYTHON, "-W", "ignore", HERE / "swift_server.py", folder) as port,
    ):
        yield port


@contextmanager
def delayed(port: int, latency: float) -> Iterator[str]:
    """URL at which a proxy, in its own process, passes on the store's answers so late."""
    with server(sys.executable, HERE / "fault_proxy.py", port, latency) as door:
        yield f"http://127.0.0.1:{door}"


@contextmanager
def object_store() -> Iterator[FaultProxy]:
    """An empty store, answering at the proxy's URL."""
    with swift() as port, FaultProxy(port).running() as proxy:
        yield proxy
