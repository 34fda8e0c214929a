"""OpenStack Swift with its S3 API, whole in one process on loopback: run by .venv-s3's Python.

Usage: swift_server.py FOLDER. Keeps everything below FOLDER, which needs a file system with
extended attributes, chooses free ports and prints that of the S3 API when it answers. The account
is test:tester, the password testing. One replica, no daemons: what tests need and no more.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import eventlet
from eventlet import wsgi
from swift.account.server import AccountController
from swift.common.http_protocol import SwiftHttpProtocol
from swift.common.ring import RingBuilder
from swift.common.utils import eventlet_monkey_patch, get_logger, set_swift_dir
from swift.common.wsgi import loadapp
from swift.container.server import ContainerController
from swift.obj.server import ObjectController

SERVERS = {
    "account": AccountController, "container": ContainerController, "object": ObjectController
}  # fmt: skip
PROXY = """
[DEFAULT]
swift_dir = {folder}
log_level = ERROR
[pipeline:main]
pipeline = catch_errors gatekeeper cache listing_formats bulk s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
# one process serves all: when it is busy nobody answers in the half second that Swift expects, and
# a server that fails ten times is left alone for a minute, though there is no other
conn_timeout = 60
node_timeout = 60
error_suppression_limit = 1000000
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
"""
PLAIN = ("catch_errors", "gatekeeper", "listing_formats", "bulk", "s3api", "slo", "dlo")


def listen() -> Any:
    """A socket on a free port."""
    return eventlet.listen(("127.0.0.1", 0))


def serve(socket: Any, app: Any, conf: dict[str, str]) -> None:
    """Answer requests for ever."""
    wsgi.server(socket, app, get_logger(conf), protocol=SwiftHttpProtocol, log_output=False)


def write_ring(folder: Path, kind: str, port: int) -> None:
    """Say that the one server of this kind listens at `port`."""
    builder = RingBuilder(part_power=1, replicas=1, min_part_hours=0)
    place = {"region": 1, "zone": 1, "ip": "127.0.0.1", "device": "disk", "meta": ""}
    builder.add_dev(place | {"id": 0, "port": port, "weight": 1.0})
    builder.rebalance(seed=0)
    builder.get_ring().save(str(folder / f"{kind}.ring.gz"))


def main(folder: Path) -> None:
    """Start the three storage servers, then the proxy that speaks S3."""
    eventlet_monkey_patch()
    (folder / "devices" / "disk").mkdir(parents=True)
    (folder / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = palaestra\n")
    set_swift_dir(str(folder))  # /etc/swift otherwise
    conf = {
        "devices": str(folder / "devices"), "swift_dir": str(folder), "mount_check": "false",
        "fallocate_reserve": "0", "log_level": "ERROR", "conn_timeout": "60", "node_timeout": "60",
    }  # fmt: skip
    for kind, controller in SERVERS.items():
        socket = listen()
        write_ring(folder, kind, socket.getsockname()[1])
        eventlet.spawn(serve, socket, controller(conf), conf)
    filters = "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in PLAIN)
    (folder / "proxy.conf").write_text(PROXY.format(folder=folder) + filters)
    socket, app = listen(), loadapp(str(folder / "proxy.conf"))
    print(socket.getsockname()[1], flush=True)
    serve(socket, app, conf)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
