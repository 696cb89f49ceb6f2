"""The contract with uvicorn, whose internals service/http/connections.py and service/server.py subclass: they exist and behave as expected.

If these tests fail with a newer uvicorn, its upper bound in pyproject.toml stays. If they pass, it can be raised. Each used name is listed once and
compared with the code: a name that is not listed fails.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tests.conftest import ROOT

# methods that are overridden or called, with their parameters
METHODS: dict[type[Any], dict[str, list[str]]] = {
    HttpToolsProtocol: {
        "__init__": ["config", "server_state", "app_state", "_loop"], "connection_made": ["transport"], "data_received": ["data"],
        "send_400_response": ["msg"], "on_headers_complete": [], "on_body": ["body"], "on_message_complete": [], "on_response_complete": [],
        "_start_asgi_task": ["cycle", "app"], "_unset_keepalive_if_required": [],
    },
    FlowControl: {"pause_reading": [], "resume_reading": []},
    uvicorn.Server: {
        "__init__": ["config"], "run": ["sockets"], "startup": ["sockets"], "shutdown": ["sockets"], "on_tick": ["counter"],
        "handle_exit": ["sig", "frame"],
    },
}  # fmt: skip
# attributes of a connection
ATTRIBUTES = {
    "loop", "transport", "connections", "parser", "headers", "scope", "expect_100_continue", "cycle", "pipeline", "flow",
    "timeout_keep_alive_task",
}  # fmt: skip
LATER = {"url"}  # set at the beginning of a request
# attributes of a request and its answer
OF_CYCLE = {"response_started", "response_complete", "more_body", "waiting_for_100_continue", "keep_alive"}
OF_SERVER = {"started", "should_exit", "force_exit", "server_state", "config"}


def test_the_version_is_within_its_bounds() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (text,) = [line for line in wanted if line.startswith("uvicorn")]
    low, high = [part.strip("<>=") for part in text.removeprefix("uvicorn").split(",")]
    have, *bounds = [tuple(map(int, number.split("."))) for number in (version("uvicorn"), low, high)]
    assert bounds[0] <= have < bounds[1]


@pytest.mark.parametrize("owner", METHODS, ids=lambda owner: owner.__name__)
def test_methods_have_their_parameters(owner: type[Any]) -> None:
    for name, parameters in METHODS[owner].items():
        found = list(inspect.signature(getattr(owner, name)).parameters)
        assert found == ["self", *parameters], name


def uses(file: str, of: str) -> set[str]:
    """Return the attributes of `of` (self, or self.NAME) that a class in a file uses and does not define."""
    tree = ast.parse((ROOT / file).read_text())
    (owner,) = [each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == "Protocol"]
    used, own = set[str](), set[str]()
    for node in ast.walk(owner):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in (of, of.removeprefix("self.")):
            (own if isinstance(node.ctx, ast.Store) else used).add(node.attr)
        if isinstance(node, ast.FunctionDef):
            own.add(node.name)
    defined = {
        target.id for each in owner.body if isinstance(each, ast.Assign | ast.AnnAssign) for target in names(each)
    }
    return used - own - defined if of == "self" else used


def names(assignment: ast.Assign | ast.AnnAssign) -> list[ast.Name]:
    targets = assignment.targets if isinstance(assignment, ast.Assign) else [assignment.target]
    return [target for target in targets if isinstance(target, ast.Name)]


def test_what_the_code_uses_is_listed() -> None:
    assert uses("service/http/connections.py", "self") <= ATTRIBUTES | LATER | METHODS[HttpToolsProtocol].keys()
    assert uses("service/http/connections.py", "self.cycle") <= OF_CYCLE
    inherited = set(dir(HttpToolsProtocol))
    own = {name for name in METHODS[HttpToolsProtocol] if name != "__init__"}
    assert own <= inherited


class Transport(asyncio.Transport):
    """A transport that records what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed, self.paused = b"", False, False

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


async def connected(app: Any) -> tuple[Any, Transport]:
    """Return uvicorn's own protocol on such a transport, in front of an application."""
    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, ws="none")
    config.load()
    protocol, transport = HttpToolsProtocol(config, uvicorn.Server(config).server_state, {}), Transport()
    assert {name for name in ATTRIBUTES if not hasattr(protocol, name)} == set()
    protocol.connection_made(transport)
    return protocol, transport


HEAD = b"POST /a HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\n\r\n"


def run(what: Callable[[], Any]) -> None:
    asyncio.run(asyncio.wait_for(what(), 30))


def test_a_request_goes_its_way() -> None:
    async def check() -> None:
        go, bodies = asyncio.Event(), list[bytes]()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            bodies.append((await receive())["body"])
            await go.wait()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

        protocol, transport = await connected(app)
        assert (protocol.cycle, protocol.timeout_keep_alive_task) == (None, None)
        assert protocol in protocol.connections
        protocol.data_received(HEAD)
        first: Any = protocol.cycle
        assert protocol.cycle.__class__ is RequestResponseCycle
        assert {name for name in OF_CYCLE if not hasattr(first, name)} == set()
        assert (protocol.url, dict(protocol.headers)[b"host"]) == (b"/a", b"here")
        assert first.more_body and not first.response_started and not first.response_complete
        protocol.data_received(b"body" + HEAD + b"next")
        assert not first.more_body
        # the second request waits, and the protocol reads nothing meanwhile
        assert protocol.cycle is not first and len(protocol.pipeline) == 1
        assert protocol.flow.read_paused and transport.paused
        go.set()
        while not protocol.cycle.response_complete:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert bodies == [b"body", b"next"]
        assert first.response_complete and not protocol.pipeline and not protocol.flow.read_paused
        assert transport.written.count(b"HTTP/1.1 200 OK\r\n") == 2
        assert protocol.timeout_keep_alive_task is not None  # uvicorn limits the time between two requests
        protocol._unset_keepalive_if_required()
        assert protocol.timeout_keep_alive_task is None
        protocol.connection_lost(None)
        assert protocol not in protocol.connections

    run(check)


def test_a_client_that_waits_to_be_asked_for_its_body() -> None:
    async def check() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()

        protocol, transport = await connected(app)
        protocol.data_received(HEAD.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert protocol.cycle.waiting_for_100_continue and protocol.expect_100_continue
        await asyncio.sleep(0)
        assert transport.written == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert not protocol.cycle.waiting_for_100_continue
        protocol.connection_lost(None)

    run(check)


def test_what_is_no_http_is_told_to_the_method_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[str]()
    monkeypatch.setattr(HttpToolsProtocol, "send_400_response", lambda self, msg: told.append(msg))

    async def check() -> None:
        protocol, _ = await connected(None)
        protocol.data_received(b"nonsense\r\n\r\n")
        protocol.connection_lost(None)

    run(check)
    assert len(told) == 1


def test_the_server_ends_at_its_attributes() -> None:
    async def check() -> None:
        config = uvicorn.Config(None, lifespan="off", log_config=None, port=0, timeout_graceful_shutdown=1)  # type: ignore[arg-type]
        config.load()
        server = uvicorn.Server(config)
        assert {name for name in OF_SERVER if not hasattr(server, name)} == set()
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        assert server.started and server.servers[0].sockets
        assert not await server.on_tick(0)
        server.should_exit = True
        assert await server.on_tick(1)
        await server.shutdown()
        # the time limit for running requests is read at the end, not at the start
        assert "self.config.timeout_graceful_shutdown" in inspect.getsource(uvicorn.Server.shutdown)

    run(check)
