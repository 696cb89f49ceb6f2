"""The code blocks in the pages of the repository work as they are written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from manifold.service.settings import Settings
from tests import blocks
from tests.pages import ROOT, Page, pages
from tests.served import Served

README = Page(ROOT / "README.md")
PAGES = [page for page in pages() if any(blocks.steps(page))]
README_LINES = 150


class Ready(NamedTuple):
    """A sandbox, and the addresses of a service on its models."""

    sandbox: blocks.Sandbox
    http: str
    grpc: str


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ready]:
    sandbox = blocks.Sandbox(tmp_path_factory.mktemp("blocks"), blocks.named_models(PAGES))
    service = Served(sandbox.folder / "models", grpc=True, default_model=Settings().default_model)
    try:
        yield Ready(sandbox, service.url.removeprefix("http://"), service.target)
    finally:
        service.client.close()
        service.server.should_exit = True
        service.thread.join(60)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run_as_they_are_written(page: Page, ready: Ready) -> None:
    before = blocks.written(ROOT)
    assert ready.sandbox.run(page, ready.http, ready.grpc) == len(list(blocks.steps(page)))
    after = blocks.written(ROOT)
    assert {
        name for name in {*before, *after} if before.get(name) != after.get(name)
    } == set()  # the repository stays as it was


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_blocks_are_left_out_for_known_reasons_only(page: Page) -> None:
    skipped = [block.skipped for block in page.blocks(*blocks.RUN) if block.skipped]
    assert [reason for reason in skipped if not any(word in reason.lower() for word in blocks.REASONS)] == []


def test_readme_is_short() -> None:
    assert len(README.text.splitlines()) <= README_LINES


def test_readme_has_no_code_that_is_not_run() -> None:
    """Code is fenced: Markdown also takes indented lines for code, which the runner does not see."""
    assert re.findall(r"(?:^|\n)\n((?: {4}|\t)(?![-*+]|\d+\.).*)", README.prose) == []


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(tmp_path / "page.md")


@pytest.fixture
def sandbox(tmp_path: Path) -> blocks.Sandbox:
    return blocks.Sandbox(tmp_path, ())


FENCE = "```"


def fenced(language: str, text: str) -> str:
    """Return a page with one block."""
    return f"{FENCE}{language}\n{text}\n{FENCE}\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (fenced("bash", "cat examples/payments.csv | grep -c normal\nfalse | cat"), "exit status 1"),
        (fenced("python", "import manifold\nmanifold.lode('x')"), "AttributeError"),
        (fenced("bash", "make nothing"), "no such target"),
        (fenced("bash", "pip install -e '.[cpu,trian]'"), "no extra trian"),
        (fenced("bash", "pip install ./clients"), "no such project"),
        (fenced("bash", "docker compose --profile many up -d"), "no such profile"),
        (fenced("bash", "echo 1.5 of 2") + "\nIt prints:\n\n" + fenced("text", "3.25 from 4"), "the page shows '3.25 from 4'"),
    ],
)  # fmt: skip
def test_a_block_that_does_not_work_is_found(text: str, problem: str, page: Page, sandbox: blocks.Sandbox) -> None:
    page.path.write_text(text)
    with pytest.raises(blocks.Failed, match=problem):
        sandbox.run(page)


def test_blocks_share_a_shell_and_are_skipped_with_a_reason(page: Page, sandbox: blocks.Sandbox) -> None:
    page.path.write_text(
        fenced("bash", "make serve\ndocker compose up -d\npip install -e '.[cpu,train]' ./client\nexport SIZE=3\nmkdir my && cd my")
        + fenced("bash", 'echo "$SIZE of \\\n 4"; basename $PWD; manifold --help | grep \\\n remake')
        + "\n"
        + fenced("text", "17 of 4\nmy\n…remake…")
        + "\n<!-- not run: needs docker -->\n"
        + fenced("bash", "false")
    )  # fmt: skip
    assert sandbox.run(page) == 2


def test_trainings_of_an_earlier_page_are_not_repeated(page: Page, sandbox: blocks.Sandbox) -> None:
    page.path.write_text(fenced("bash", "manifold train nothing\nls examples"))
    sandbox.done.add("manifold train nothing --preset smoke")
    assert sandbox.run(page) == 1


def test_addresses_and_presets_are_replaced() -> None:
    code = "curl http://127.0.0.1:8000/models\nmanifold fit a.csv --name my-a\n"
    code += "manifold fit a.csv --name my-a && ls\nmanifold fit a.csv --name my-a --preset cpu\n"
    assert blocks.prepared(code, "bash", "127.0.0.1:1234", "").splitlines() == [
        "curl http://127.0.0.1:1234/models",
        "manifold fit a.csv --name my-a --preset smoke",
        "manifold fit --preset smoke a.csv --name my-a && ls",
        "manifold fit a.csv --name my-a --preset cpu",
    ]


def test_what_is_written_into_the_repository_is_found(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("runs/\n*.egg-info/\n/models/my-*/\n")
    for name in ("docs/a.md", "docs/b.md", "docs/c.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    before = blocks.written(tmp_path)
    for name in ("docs/b.md", "models/my-a/1/x", "new.png", ".cache/x", "docs/__pycache__/x", "runs/x", "m.egg-info/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / "docs/c.md").unlink()
    after = blocks.written(tmp_path)
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    assert changed == {"docs/b.md", "docs/c.md", "models/my-a/1/x", "new.png"}
