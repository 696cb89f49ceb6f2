"""A small local stand-in for the Hugging Face Hub: the routes that huggingface_hub uses to list, download and commit files.

It keeps repositories in memory. Files with the suffixes of LARGE take the way of large files: a batch request, then an upload by PUT. Tests set
`faults` to make a route fail.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

LARGE = (".bin", ".npz", ".onnx", ".pt")
WRITER, READER = "hf_writer_token", "hf_reader_token"
BRANCH = "main"


@dataclass
class Repo:
    """A repository: its branches and tags, and the files of each commit."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        """Add a commit with these files, and return its hash."""
        sha = hashlib.sha1(repr((len(self.commits), branch, sorted(files))).encode()).hexdigest()
        self.commits[sha] = files
        self.refs[branch] = sha
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return the hash and the files of a branch, tag or commit."""
        sha = self.refs.get(revision, revision)
        return (sha, self.commits[sha]) if sha in self.commits else None


@dataclass
class Hub:
    """The state of the stand-in. `faults` maps a pattern of "METHOD path" to a function that answers the
    request instead; it returns False if the request is also answered as usual."""

    address: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # large files by SHA-256
    requests: list[str] = field(default_factory=list)
    faults: dict[str, Callable[[Handler], bool | None]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)  # the first line of each commit

    def repo(self, name: str, files: dict[str, bytes] | None = None, *, private: bool = False) -> Repo:
        """Make a repository with one commit."""
        made = self.repos[name] = Repo(private)
        made.commit(BRANCH, {".gitattributes": b"*.bin filter=lfs\n", **(files or {})})
        return made

    def files(self, name: str, revision: str = BRANCH) -> dict[str, bytes]:
        """Return the files of a repository."""
        found = self.repos[name].at(revision)
        assert found is not None
        return found[1]


class Handler(BaseHTTPRequestHandler):
    """The routes."""

    protocol_version = "HTTP/1.1"
    hub: Hub
    body: bytes

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def answer(self, status: int, content: object = b"", **headers: str) -> None:
        """Send a response. An object becomes JSON. HEAD requests get the headers alone."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, message: str, code: str = "") -> None:
        """Send an error in the form of the Hub."""
        self.answer(status, {"error": message}, X_Error_Message=message, **({"X_Error_Code": code} if code else {}))

    @property
    def token(self) -> str | None:
        """The token of the request."""
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def _take(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        said = f"{self.command} {path}"
        self.hub.requests.append(said)
        for pattern, fault in self.hub.faults.items():
            if re.search(pattern, said) and fault(self) is not False:
                return
        if self.token not in (None, READER, WRITER):
            self.refuse(401, "Invalid username or password.")
            return
        for method, pattern, route in ROUTES:
            if method == self.command and (match := re.fullmatch(pattern, path)):
                route(self, **match.groupdict())
                return
        self.refuse(404, f"the stand-in has no route {said}")

    do_GET = do_HEAD = do_POST = do_PUT = _take  # noqa: N815

    def _found(self, repo: str) -> Repo | None:
        """Return a repository that the token may read. Otherwise send the error."""
        there = self.hub.repos.get(repo)
        if there is None or (there.private and self.token is None):
            self.refuse(401 if self.token is None else 404, "Repository not found", "RepoNotFound")
            return None
        return there

    def _at(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        there = self._found(repo)
        if there is None:
            return None
        found = there.at(revision)
        if found is None:
            self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    def _writable(self) -> bool:
        if self.token == WRITER:
            return True
        if self.token is None:
            self.refuse(401, "Invalid username or password.")
        else:
            self.refuse(403, "You do not have the required permissions to write here.")
        return False


def info(handler: Handler, repo: str, revision: str = BRANCH) -> None:
    """GET the description of a repository."""
    if found := handler._at(repo, revision):
        siblings = [{"rfilename": name} for name in found[1]]
        handler.answer(
            200, {"_id": "0", "id": repo, "modelId": repo, "sha": found[0], "siblings": siblings, "tags": []}
        )


def tree(handler: Handler, repo: str, revision: str, below: str | None = None) -> None:
    """GET the files of a commit."""
    if found := handler._at(repo, revision):
        entries: list[dict[str, Any]] = []
        for name, content in found[1].items():
            entry = {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            if name.endswith(LARGE):
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            entries.append(entry)
        folders = {name.rpartition("/")[0] for name in found[1] if "/" in name}
        entries += [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in sorted(folders)]
        handler.answer(200, entries)


def resolve(handler: Handler, repo: str, revision: str, path: str) -> None:
    """GET or HEAD a file."""
    if found := handler._at(repo, revision):
        content = found[1].get(path)
        if content is None:
            handler.refuse(404, "Entry not found", "EntryNotFound")
            return
        handler.answer(200, content, X_Repo_Commit=found[0], ETag=f'"{hashlib.sha256(content).hexdigest()}"')


def create(handler: Handler) -> None:
    """POST a new repository."""
    wanted = json.loads(handler.body)
    if handler._writable():
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in handler.hub.repos:
            handler.refuse(409, "You already created this model repo")
            return
        private = wanted.get("visibility", "private" if wanted.get("private") else "public") == "private"
        handler.hub.repo(name, private=private)
        handler.answer(200, {"url": f"{handler.hub.address}/{name}", "name": name})


def validate(handler: Handler) -> None:
    """POST the text of a model card. Its metadata must be YAML."""
    text = json.loads(handler.body)["content"]
    fields = yaml.safe_load(text.split("---")[1])
    errors = [] if isinstance(fields.get("tags", []), list) else [{"message": "tags must be a list"}]
    handler.answer(400 if errors else 200, {"errors": errors, "warnings": []})


def preupload(handler: Handler, repo: str, revision: str) -> None:
    """POST the names of files, to know which take the way of large files."""
    wanted = json.loads(handler.body)
    if handler._writable() and handler._at(repo, revision):
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in wanted["files"]
        ]
        handler.answer(200, {"files": modes})


def batch(handler: Handler, repo: str) -> None:
    """POST the checksums of large files, to know where they are uploaded."""
    wanted = json.loads(handler.body)
    if handler._writable():
        objects = [
            {
                "oid": each["oid"],
                "size": each["size"],
                **(
                    {}
                    if each["oid"] in handler.hub.objects
                    else {
                        "actions": {"upload": {"href": f"{handler.hub.address}/objects/{each['oid']}?signature=secret"}}
                    }
                ),
            }
            for each in wanted["objects"]
        ]
        handler.answer(200, {"transfer": "basic", "objects": objects})


def put(handler: Handler, oid: str) -> None:
    """PUT a large file."""
    content = handler.body
    if hashlib.sha256(content).hexdigest() != oid:
        handler.refuse(400, "the checksum differs")
        return
    handler.hub.objects[oid] = content
    handler.answer(200)


def commit(handler: Handler, repo: str, revision: str) -> None:
    """POST a commit: lines of JSON."""
    lines = [json.loads(line) for line in handler.body.splitlines()]
    found = handler._at(repo, revision)
    if not handler._writable() or found is None:
        return
    header = next(line["value"] for line in lines if line["key"] == "header")
    if header.get("parentCommit") not in (None, found[0]):
        handler.refuse(412, "A commit has happened since. Please refresh and try again.")
        return
    files = dict(found[1])
    for line in lines:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = handler.hub.objects[value["oid"]]
    sha = handler.hub.repos[repo].commit(revision, files)
    handler.hub.messages.append(header["summary"])
    handler.answer(200, {"success": True, "commitUrl": f"{handler.hub.address}/{repo}/commit/{sha}", "commitOid": sha})


REPO = r"(?P<repo>[^/]+/[^/]+)"
ROUTES: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("GET", f"/api/models/{REPO}", info),
    ("GET", f"/api/models/{REPO}/revision/(?P<revision>[^/]+)", info),
    ("GET", f"/api/models/{REPO}/tree/(?P<revision>[^/]+)", tree),
    ("GET", f"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", resolve),
    ("HEAD", f"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", resolve),
    ("POST", "/api/repos/create", create),
    ("POST", "/api/validate-yaml", validate),
    ("POST", f"/api/models/{REPO}/preupload/(?P<revision>[^/]+)", preupload),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", batch),
    ("PUT", "/objects/(?P<oid>[0-9a-f]{64})", put),
    ("POST", f"/api/models/{REPO}/commit/(?P<revision>[^/]+)", commit),
)


@contextmanager
def running() -> Iterator[Hub]:
    """Run the stand-in on a free port during the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
