"""HAProxy with the configuration of deploy/haproxy, in front of one service on loopback."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.served import answers, free_port, until

CONFIG = Path(__file__).parent.parent / "deploy/haproxy/haproxy.cfg"
HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")


def adapted(config: str, ports: dict[str, int], rest: int, grpc: int) -> str:
    """Return the configuration with free ports, and with servers by address instead of Docker's names."""
    config = re.sub(r"bind :(\d+)", lambda found: f"bind 127.0.0.1:{ports[found[1]]}", config)
    for own, port in (("8000", rest), ("8001", grpc)):
        config = re.sub(
            rf"server-template (\w+) \S+ \S+:{own}(.*?) resolvers \w+ init-addr none",
            rf"server \1 127.0.0.1:{port}\2",
            config,
        )
    config = config.replace("connect port 8000", f"connect port {rest}")
    return config.replace("timeout http-request 20s", "timeout http-request 1s")


@contextmanager
def haproxy(folder: Path, rest: int, grpc: int = 1) -> Iterator[dict[str, int]]:
    """Start HAProxy. Yield its ports by the ports in the configuration."""
    assert HAPROXY is not None
    text = CONFIG.read_text()
    ports = {port: free_port() for port in re.findall(r"bind :(\d+)", text)}
    (folder / "haproxy.cfg").write_text(adapted(text, ports, rest, grpc))
    process = subprocess.Popen(
        [HAPROXY, "-db", "-f", str(folder / "haproxy.cfg")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: process.poll() is not None or answers(f"http://127.0.0.1:{ports['8080']}/health/live"), 60)
        assert process.poll() is None, "HAProxy does not start"
        yield ports
    finally:
        process.terminate()
        process.wait(20)
