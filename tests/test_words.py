"""The check of the project's prose: it finds each kind of problem, and accepts plain text."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest

from tests import words

PLAIN = '''
"""A module about things. The code is `go on`."""
# from here on, names are short: `what`


class Thing:
    """A thing. What is it? The answer is in the code: `nobody`."""

    @property
    def shape(self) -> str:
        """The shape (n,)."""
        raise ValueError("shape: 'x' is no shape; uncaught errors occur for every such value")


def weigh(thing: Thing, help: str = "what") -> float:
    """Return the weight.

    In a list of things, every one is weighed.
    """
    return float(option(thing, help="The weight in kg.", title="of a thing"))


def test_weigh() -> None:
    """All things have a weight."""
'''


def found(folder: Path, text: str, name: str = "text.py") -> list[str]:
    """Write a file and return its problems, each as its line and what is wrong, without the advice."""
    path = folder / name
    path.write_text(dedent(text), encoding="utf-8")
    said = [problem.removeprefix(f"{path}:").split(": ") for problem in words.problems(path)]
    return [f"{line}: {problem}" for line, problem, *_ in said]


def test_plain_text_has_no_problem(tmp_path: Path) -> None:
    assert found(tmp_path, PLAIN) == []


@pytest.mark.parametrize("first", sorted({*words.UNNAMED} - {*words.FRAGMENTS}))
def test_first_words_of_modules_and_classes(tmp_path: Path, first: str) -> None:
    text = f'''
    """{first.title()} things."""
    class Thing:
        """{first} a thing."""
    '''
    assert found(tmp_path, text) == [f"{line}: the docstring starts with {first!r}" for line in (2, 4)]


@pytest.mark.parametrize("first", words.FRAGMENTS)
def test_first_words_of_docstrings_and_help(tmp_path: Path, first: str) -> None:
    text = f'''
    """{first.title()} things."""
    class Thing:
        """{first} a thing."""
    def test_a_thing() -> None:
        """{first}
        the test."""
    option(help="{first.title()} a thing.", description="{first} it", summary="{first}", title="{first}")
    '''
    assert found(tmp_path, text) == [
        *(f"{line}: the docstring starts with {first!r}" for line in (2, 4, 6)),
        *(f"8: {name} starts with {first!r}" for name in ("description", "help", "summary")),
    ]


@pytest.mark.parametrize("first", words.NO_VERBS)
def test_docstrings_of_functions_start_with_a_verb(tmp_path: Path, first: str) -> None:
    text = f'''
    class Thing:
        """{first.title()} thing."""
        def weigh(self) -> float:
            """{first.title()} weight of a thing."""
        @functools.cached_property
        def weight(self) -> float:
            """{first.title()} weight."""
    async def test_weight() -> None:
        """{first.title()} weight is right."""
    '''
    lines = [3, 5] if first in words.UNNAMED else [5]
    assert found(tmp_path, text) == [f"{line}: the docstring starts with {first!r}" for line in lines]


@pytest.mark.parametrize("first", words.SENTENCES)
def test_first_words_of_comments_cells_and_sentences(tmp_path: Path, first: str) -> None:
    text = f'''
    #!/usr/bin/python
    x = 1  # {first} things
    def weigh() -> float:
        """Return the weight. {first.title()} things weigh little.

        The unit is kg.
        {first.title()} things weigh more, it is t.
        """
    '''
    sentence = f"a sentence starts with {first!r}"
    assert found(tmp_path, text) == [f"3: the comment starts with {first!r}", f"5: {sentence}", f"8: {sentence}"]
    assert found(tmp_path, f"a: 1 # {first}\n  # {first} it\n", "a.yml") == [f"2: the comment starts with {first!r}"]
    assert found(tmp_path, f"// {first} it\nmessage A {{}}", "a.proto") == [f"1: the comment starts with {first!r}"]
    page = f"""
    # {first.title()} headings mean

    {first.title()} is it? A question. {first.title()} things weigh is
    stated here.
    - {first.title()} points list.

    | {first} | weight of `{first}` |
    |---|---|
    | thing | {first} a thing |

    ```
    {first.title()} code says.
    ```
    """
    cell = f"a table cell starts with {first!r}"
    assert found(tmp_path, page, "page.md") == [f"4: {sentence}", f"6: {sentence}", f"8: {cell}", f"10: {cell}"]


def test_chains_of_semicolons_on_pages(tmp_path: Path) -> None:
    assert found(tmp_path, "One; two; three. Four; five; six.\n\n`a; b; c; d`\n\n| a; b; c; d |\n", "page.md") == []
    assert found(tmp_path, "Yes. One; two;\nthree; four.", "page.md") == ["1: a sentence has 3 semicolons"]


@pytest.mark.parametrize(
    ("phrase", "plain"),
    [
        ("a seed that was asked for", "requested"), ("Aught else", "anything"), ("a port cannot be had", "available"), ("it is had by", "computed"),
        ("served beyond loopback", "other addresses"), ("waits for ever", "without end"), ("a run goes on", "continue"), ("to go on with", "continue"),
        ("it goes to sleep", "unloaded"), ("all if left out", "by default"), ("all where it is left out", "by default"), ("bodies in work", "progress"),
        ("what is to be served", "must be"), ("judged rows", "evaluated"), ("mend it", "fix"), ("Nobody waits", "no client"),
        ("None where there is none", "None if"), ("rows of one's own", "your own"), ("It raises DataError where it ends", "Raise"),
        ("somebody else", "another"), ("thereof ten", "of it"), ("whoever asks", "a client"),
    ],
)  # fmt: skip
def test_words_that_readers_decode(tmp_path: Path, phrase: str, plain: str) -> None:
    broken = "\n        ".join(phrase.rsplit(" ", 1))
    text = f'''
    """A module: {phrase}."""
    x = 1  # it: {phrase}
    def weigh() -> float:
        """Return the weight.

        It says: {broken}
        """
        option(help="Thing: {phrase}.")
        log.warning("a thing: {phrase}", thing)
        raise ValueError(f"{{thing}}: {phrase}; {{other}}")
    y = {{"{phrase}": "{phrase}"}}
    '''
    lines = [problem.partition(":")[0] for problem in found(tmp_path, text)]
    assert lines == ["2", "3", "7", "10", "11", "12"]
    assert all(plain in problem.partition(": write ")[2] for problem in words.problems(tmp_path / "text.py"))
    page = f"A page: {phrase}.\n\n| cell: {phrase} |\n\n# Head: {phrase}\n\n`{phrase}`\n"
    assert [problem[0] for problem in found(tmp_path, page, "page.md")] == ["1", "3", "5"]


def test_functions_return_parts_of_errors(tmp_path: Path) -> None:
    text = """
    def said(name: str) -> str:
        return f"{name}: nobody reads it" if name else "nobody"
    """
    assert found(tmp_path, text) == ["3: 'nobody'"]


def test_comments_of_files_without_a_suffix(tmp_path: Path) -> None:
    text = "# Of targets\ntest: all  ## what is tested\nx = nobody\n# It is for whoever reads\n"
    for name in words.NAMES:
        assert found(tmp_path, text, name) == [
            "1: the comment starts with 'of'", "2: the comment starts with 'what'", "4: 'whoever'",
        ]  # fmt: skip


def test_words_are_whole_words(tmp_path: Path) -> None:
    assert (
        found(tmp_path, "Uncaught errors for every row are recommended, amended and prejudged; a network.", "a.md")
        == []
    )


def test_only_markdown_cells_of_a_notebook_are_read(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# What it does\n", "Whoever reads this."]},
        {"cell_type": "code", "source": ["# whoever"], "outputs": [{"text": "whoever"}]},
        {"cell_type": "markdown", "source": ["What is read is shown."]},
    ]
    assert found(tmp_path, json.dumps({"cells": cells}), "a.ipynb") == [
        "2: 'Whoever'",
        "4: a sentence starts with 'what'",
    ]


def test_generated_files_are_skipped() -> None:
    names = {path.relative_to(words.ROOT).as_posix() for path in words.files()}
    assert {
        "README.md",
        "runtime/engine.py",
        "tests/conftest.py",
        "proto/manifold.proto",
        "Makefile",
        "Dockerfile",
        "manifold/__init__.py",
    } <= names
    assert not {name for name in names if name.startswith(words.GENERATED)}


def test_the_command_prints_problems_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(words, "ROOT", tmp_path)
    assert (words.main(), capsys.readouterr().out) == (0, "")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/page.md").write_text("Of pages.\n")
    assert (words.main(), capsys.readouterr().out) == (
        1,
        "docs/page.md:1: a sentence starts with 'of': name the subject\n",
    )
