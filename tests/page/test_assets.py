"""The static files of the page: how they are served, that they fit together, and that every use case of the service has a place."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from manifold.runtime import kinds
from manifold.service.core import use_cases
from manifold.service.http.app import create_app
from manifold.service.http.pages import assets
from manifold.service.settings import Settings

FOLDER = assets.FOLDER.resolve()
FILES = sorted(path for path in FOLDER.rglob("*.js"))
OWN = [path for path in FILES if path.parent.name != "vendor"]
LIMIT = 300_000  # bytes of all scripts and styles, compressed
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")


def code_of(path: Path) -> str:
    """Return a script without its comments."""
    return re.sub(r"/\*[\s\S]*?\*/|(?:^|(?<=\s))// .*", "", path.read_text(), flags=re.MULTILINE)


def name_of(path: Path) -> str:
    return path.relative_to(FOLDER).as_posix()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    """Return a client of a service that needs an API key."""
    keyed = f"me:infer:{'0' * 64}"
    return TestClient(create_app(Settings(models_dir=tmp_path_factory.mktemp("none"), keys=keyed, auth="on")))


def test_the_page_needs_no_key_and_runs_own_scripts_only(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "style-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy and "connect-src 'self'" in policy
    for link in re.findall(r'(?:href|src)="([^"#]+)"', page.text):
        assert client.get(f"/{link}").status_code == 200, link
    assert not re.search(r"https?://", page.text)


def test_files_are_compressed_and_kept(client: TestClient) -> None:
    plain = client.get("/static/styles/base.css", headers={"accept-encoding": "identity"})
    packed = client.get("/static/styles/base.css", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in plain.headers and packed.headers["content-encoding"] == "gzip"
    assert plain.content == packed.content and plain.headers["content-type"] == "text/css; charset=utf-8"
    again = client.get("/static/styles/base.css", headers={"if-none-match": plain.headers["etag"]})
    assert again.status_code == 304 and not again.content
    for refused in ("gzip;q=0", "gzip; q=0.0, identity", ""):
        assert (
            "content-encoding"
            not in client.get("/static/styles/base.css", headers={"accept-encoding": refused}).headers
        )
    assert (
        "content-encoding"
        in client.get("/static/styles/base.css", headers={"accept-encoding": "br, gzip;q=0.5"}).headers
    )
    assert client.get("/static/styles/base.css", headers={"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize("path", ["none.js", "../__init__.py", "..%2f__init__.py", "index.html", ""])
def test_other_files_are_not_served(client: TestClient, path: str) -> None:
    answer = client.get(f"/static/{path}")
    assert answer.status_code in (401, 404)
    assert "error" in answer.json()


def test_the_page_is_small() -> None:
    size = sum(len(gzip.compress(path.read_bytes())) for path in (*FILES, *FOLDER.rglob("*.css")))
    assert size <= LIMIT


@pytest.mark.parametrize("path", OWN, ids=name_of)
def test_every_import_exists(path: Path) -> None:
    """A name that is imported from another module is exported there."""
    text = path.read_text()
    for names, where in re.findall(
        r"""^import (?:(?:\{([^}]*)\}|\* as \w+|\w+) from )?["']([^"']+)["']""", text, re.MULTILINE
    ):
        if not where.startswith("."):
            assert name_of(path) == "lib/preact.js", f"{where}: import it from lib/preact.js"
            continue
        target = (path.parent / where).resolve()
        assert target in FILES, where
        if target.parent.name == "vendor":
            continue
        exported = target.read_text()
        for name in (each.split(" as ")[0].strip() for each in names.split(",") if each.strip()):
            declared = rf"export (?:async )?(?:const|let|function\*?|class) (?:[^\n]*, )?{re.escape(name)}\b"
            assert re.search(declared, exported) or re.search(rf"export \{{[^}}]*\b{re.escape(name)}\b", exported), (
                f"{where}: {name}"
            )
    for where in re.findall(r"""import\(["']([^"']+)["']\)""", text):
        assert (path.parent / where).resolve() in FILES, where


@pytest.mark.parametrize("path", OWN, ids=name_of)
def test_scripts_use_public_endpoints_and_nothing_from_elsewhere(path: Path) -> None:
    text = path.read_text()
    assert not re.search(
        r"""\beval\(|new Function\(|\.innerHTML\b|dangerouslySetInnerHTML|<[a-z]+[^>`]* style="[^$]""", text
    )
    assert "admin/" not in text
    for call in re.findall(r"""(?:fetch|send|getJson|postJson|postFile|postArray|postLines)\(["'`](\w+:)?/""", text):
        raise AssertionError(f"{call or '/'}: paths are relative, so that a proxy may add a prefix")


@pytest.mark.parametrize("path", OWN, ids=name_of)
def test_scripts_know_no_kind_by_name(path: Path) -> None:
    """Kinds of data that are added later work without a change of the page. An HTML table is allowed; its tag is also the name of a kind."""
    text = re.sub(r'createElement\("table"\)|scope="row"', "", code_of(path))
    assert not re.search(r"\.kind ?===", text)
    for kind in kinds.every:
        for name in (kind.model_fields["kind"].default, kind.wire.many, kind.wire.one, *kind.wire.media_types):
            assert not re.search(rf"""["'`]{re.escape(name)}["'`]|(?<!\.)\.{re.escape(name)}\b""", text), name


def test_every_use_case_has_a_view() -> None:
    registry = (assets.FOLDER / "views/registry.js").read_text()
    offered = {
        name
        for listed in re.findall(r"endpoints: \[([^\]]*)\]", registry)
        for name in re.findall(r'"([\w-]+)"', listed)
    }
    assert offered == set(use_cases.every)


def test_every_view_requests_its_use_cases() -> None:
    """A view that the registry lists for an endpoint has a request of that endpoint in its modules."""
    registry = (assets.FOLDER / "views/registry.js").read_text()
    text = "".join(
        path.read_text() for path in OWN if path.parent.name != "lib" or path.name not in ("snippets.js", "api.js")
    )
    for names in re.findall(r"endpoints: \[([^\]]*)\]", registry):
        for name in re.findall(r'"([\w-]+)"', names):
            assert re.search(rf"""(?:send|postJson|postFile|postArray|postLines)\(\s*["'`]{name}\b""", text), name


@needs_node
def test_pure_modules() -> None:
    """The tests in *.test.mjs run in node: numbers, recipes, arrays and files."""
    tests = sorted(Path(__file__).parent.glob("*.test.mjs"))
    assert tests
    done = subprocess.run(
        ["node", "--test", *map(str, tests)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
