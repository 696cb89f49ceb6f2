"""The view of anomalies: that it reads files as the service does, and what it says about files, columns and decisions."""

from __future__ import annotations

import csv
import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from manifold.runtime.tables import dialect, values
from manifold.runtime.tables.values import Notation
from manifold.service.http.pages import assets
from tests.conftest import ROW
from tests.page.browser import NARROW, needs_browser, opened_page, wait_for_address
from tests.page.test_views import rows_file
from tests.served import Served

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
MODEL = "transactions-vae"
HEADER = ",".join(ROW)
LINE = ",".join(map(str, ROW.values()))


def in_node(module: str, code: str, given: Any) -> Any:
    """Return what a JavaScript expression makes of `given`, with the exports of a module of the page as `m`."""
    path = (assets.FOLDER / module).resolve().as_uri()
    script = f"""globalThis.sessionStorage = {{ getItem: name => null }};
        const m = await import({json.dumps(path)}); let text = ""; for await (const part of process.stdin) text += part;
        const given = JSON.parse(text); process.stdout.write(JSON.stringify({code}));"""
    done = subprocess.run(
        ["node", "--input-type=module", "-e", script], input=json.dumps(given), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- how files are read -------------------------------------------------------------------------------------------------------


def a_number(chance: random.Random, point: str) -> str:
    """Return the text of a number, with or without groups, fraction and exponent."""
    group = chance.choice(["", "", ",."[point == ","], " ", "'", "\u00a0", "\u202f"])
    whole = chance.choice([0, chance.randrange(10), chance.randrange(1000), chance.randrange(10**7)])
    digits = f"{whole:,}".replace(",", group) if group else str(whole)
    decimals = chance.choice([0, 0, 1, 2, 3, 3, 4, 6])
    fraction = (
        point + "".join(chance.choices("0123456789", k=decimals)) if decimals else chance.choice(["", "", "", point])
    )
    exponent = chance.choice(["", "", "", "e3", "E-2", "e+10"])
    return chance.choice(["", "", "", "-", "+", "\u2212"]) + digits + fraction + exponent


def a_file(seed: int) -> str:
    """Return a CSV file of texts, numbers, blanks and quotes, with one of the delimiters and one of the decimal separators."""
    chance = random.Random(seed)
    delimiter, point, end = chance.choice(";\t|,,"), chance.choice(".,"), chance.choice(["\n", "\r\n", "\r"])
    width, rows = chance.randint(1, 6), chance.choice([0, 1, 3, 40, 700])
    kinds = chance.choices(["number", "whole", "group", "text", "empty", "mixed"], k=width)

    def cell(kind: str) -> str:
        kind = chance.choice(["number", "text", "empty", "whole"]) if kind == "mixed" else kind
        made = {
            "number": lambda: a_number(chance, point), "whole": lambda: str(chance.randrange(10**5)), "empty": lambda: chance.choice(["", " "]),
            "group": lambda: f"{chance.randrange(1, 999)}{',.'[point == ',']}{chance.randrange(1000):03}",
            "text": lambda: chance.choice(["x", "a b", 'say "so"', f"p{delimiter}q", "1/2", "\u00a0nb\u00a0", "\u200b", "two\nlines"]),
        }[kind]()  # fmt: skip
        quoted = any(sign in made for sign in f'{delimiter}"\n') or chance.random() < 0.1
        blank = chance.choice(["", "", "", " "])
        return '"' + made.replace('"', '""') + '"' if quoted else blank + made + blank

    lines = [delimiter.join(f"column {place}" for place in range(width))]
    for _ in range(rows):
        cells = [cell(kind) for kind in kinds]
        lines.append(delimiter.join(cells if chance.random() > 0.02 else cells[: max(1, width - 1)]))
        if chance.random() < 0.02:
            lines.append("")
    stated = f"sep={delimiter}\r\n" if chance.random() < 0.1 else ""
    return stated + end.join(lines) + chance.choice(["", end])


@needs_node
def test_files_are_read_as_the_service_reads_them() -> None:
    """The delimiter, the header and the decimal separator are the same, also of files longer than the sample from which they are found."""
    texts = [a_file(seed) for seed in range(400)]
    long = "a;b;c\n" + "1.234;5;x\n" * 40_000  # 400 kB
    texts += [
        long,
        long + "0,5;1;y\n",
        "a;b\n" + "7;8\n" * 499 + "0,5;1\n",
        "a;b\n" + "7;8\n" * 500 + "0,5;1\n",
        "a;b;c\n1,5;2,5;1.5\n1;2;2.5,3.5\n",
    ]
    wanted = ["column 0", "column 2", "a"]
    code = "given.texts.map(text => { const { delimiter, header, decimal } = m.readCsv(text, given.wanted); return [delimiter, header, decimal]; })"
    found = in_node("lib/csv.js", code, {"texts": texts, "wanted": wanted})
    seen = set()
    for text, (delimiter, header, decimal) in zip(texts, found, strict=True):
        form = dialect.find(text, wanted)
        assert (delimiter, header, decimal) == (form.delimiter, list(form.header), form.decimal), text[:300]
        seen.add(decimal)
    assert seen == {".", ",", None}


@needs_node
@pytest.mark.parametrize("point", [".", ","])
def test_numbers_are_those_of_the_service(point: values.Decimals) -> None:
    chance = random.Random(point)
    texts = [a_number(chance, chance.choice(".,")) for _ in range(3000)]
    texts += ["", " 5 ", "\u200b7\ufeff", "1.2.3",
              "1,234,56", "12,34", "0,123", "0.123", "01,234", "1 234'567", "x", "1e400", "-", "1e", ".", ",5", "5,", "inf",
              "30.779", "9007199254740993", "12.345.678.901.234.567", "0x10", "1_000", "--5"]  # fmt: skip
    notation = Notation.of(decimal=point)
    found = in_node(
        "lib/csv.js", "given.texts.map(text => m.numberOf(text, given.point))", {"texts": texts, "point": point}
    )
    for text, made in zip(texts, found, strict=True):
        number = values.number(text, notation)
        expected = text if number is None or not np.isfinite(number) else number
        assert made == expected, text


@needs_node
def test_records_of_a_german_file_are_numbers() -> None:
    """Pasted records in other views are read in the notation of their text."""
    columns = [{"name": "a"}, {"name": "b", "categories": ["1", "x"]}]
    found = in_node(
        "lib/records.js",
        "m.readRecords(given.text, given.columns)",
        {"text": "a;b\n30.779;x\n0,5;1\n;x\n?;x\n", "columns": columns},
    )
    assert found == [{"a": 30779, "b": "x"}, {"a": 0.5, "b": "1"}, {"a": None, "b": "x"}, {"a": "?", "b": "x"}]


@needs_node
def test_reasons_and_errors_in_words() -> None:
    reasons = [
        {"column": "a", "value": 0, "expected": 0, "direction": "low"}, {"column": "a", "value": 53.26, "expected": 53.2514, "direction": "high"},
        {"column": "a", "value": 812.0, "expected": 53.2514, "direction": "high"},
        {"column": "a", "value": 0.000123456, "expected": 0.000123411, "direction": "high"},
        {"column": "a", "value": None, "expected": 3.0, "direction": None}, {"column": "a", "value": "x", "expected": "y", "direction": None},
        {"column": "a", "value": "0", "expected": 0, "direction": "low"}, {"column": "a", "value": 5, "expected": None, "direction": None},
    ]  # fmt: skip
    assert in_node("views/anomaly-words.js", "given.map(m.reasonText)", reasons) == [
        "a = 0, unusual although it is the expected value", "a = 53.26, expected 53.251, high", "a = 812, expected 53.25, high",
        "a = 0.00012346, expected 0.00012341, high", "a has no value, expected 3", "a = x, expected y",
        "a = 0, unusual although it is the expected value", "a = 5",
    ]  # fmt: skip
    errors = [
        {"status": 400, "field": "file", "message": "file: lacks the column 'b'", "valid": ["a", "b"]},
        {"status": 400, "field": "file", "message": "file: two columns have the name 'a'", "valid": None},
        {"status": 422, "field": "class", "message": "class: unknown; use x or y", "valid": ["x", "y"]},
        {"status": 422, "field": "class", "message": "class: unknown", "valid": ["x", "y"]},
    ]
    code = (
        "given.map(each => { const { message, valid } = m.worded(each, 'rows.csv'); return [message, valid ?? null]; })"
    )
    assert in_node("views/anomaly-words.js", code, errors) == [
        ["rows.csv lacks the column 'b'.", None], ["rows.csv: two columns have the name 'a'.", None], ["class: unknown; use x or y.", None],
        ["class: unknown.", ["x", "y"]],
    ]  # fmt: skip


# --- in a browser -------------------------------------------------------------------------------------------------------------


def german_file(path: Path) -> Path:
    """Write a file with semicolons and decimal commas, of which most rows do not show what their points mean. Some rows are far from all others."""
    chance = np.random.default_rng(1)
    lines = [";".join(ROW)]
    for place in range(300):
        row: dict[str, Any] = {
            name: value * chance.uniform(0.8, 1.2) if isinstance(value, int | float) else value
            for name, value in ROW.items()
        }
        row |= {"night": "0", "weekday": str(place % 7)}
        if place % 10 == 3:
            row["amount"] = 30_779.0 + place
        if place % 10 == 6:
            row |= {"card_7d_mean": 1234.5, "amount_over_usual": 15.0}
        # groups of three digits and a fraction in the first rows only
        texts = [
            value if isinstance(value, str) else f"{value:,.2f}" if place < 2 else f"{round(value):,}"
            for value in row.values()
        ]
        lines.append(";".join(text.translate(str.maketrans(",.", ".,")) for text in texts))
    path.write_text("\n".join(lines) + "\n")
    return path


@needs_browser
def test_the_reasons_of_a_german_file_are_those_of_the_service(service: Served, browser: Any, tmp_path: Path) -> None:
    """The page explains rows in parts, of which most do not show the decimal separator. The service explains the whole file."""
    path = german_file(tmp_path / "german.csv")
    with opened_page(browser, f"{service.url}?model={MODEL}&view=anomaly&rate=0.01") as page:
        choose(page, path)
        page.locator(".top-one", has_text="because").wait_for()
        page.get_by_text("The numbers of this file have a decimal comma").wait_for()
        with page.expect_download() as download:
            page.get_by_role("button", name="Download scores as CSV").click()
        saved = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
    sent = httpx.post(
        f"{service.url}/anomaly-score", params={"model": MODEL, "false_positive_rate": 0.01, "explain": "true"}, content=path.read_bytes(),
        headers={"content-type": "text/csv"},
    )  # fmt: skip
    *lines, last = [json.loads(line) for line in sent.text.splitlines()]
    assert last["decimal"] == ","
    explained = [
        (row, line["explanation"]["columns"][0])
        for row, line in zip(saved, lines, strict=True)
        if line.get("explanation")
    ]
    assert len(explained) > 30
    assert any(row["amount"].startswith("30.") for row, _ in explained)
    for row, main in explained:
        assert row["reason"] == main["column"]
        assert (
            row["reason_value"] == f"{main['value']:.15g}" if isinstance(main["value"], float) else str(main["value"])
        )
        assert float(row["reason_share"]) == pytest.approx(main["share"], abs=2e-4)


def choose(page: Any, path: Path) -> None:
    page.locator(".anomaly input[type=file]").first.set_input_files(path)


def small_file(folder: Path, *lines: str, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


@needs_browser
def test_a_file_survives_that_the_model_loads(service: Served, browser: Any, tmp_path: Path) -> None:
    """The service stops and starts again: the view keeps its file while the model loads."""
    path = small_file(tmp_path, *[LINE] * 5)
    with opened_page(browser, f"{service.url}?model={MODEL}&view=anomaly") as page:
        state: dict[str, Any] = {"stage": "stopped", "lists": 0}

        def score(route: Any) -> None:
            if state["stage"] == "stopped":
                route.abort()
            elif state["stage"] == "loading":
                route.fulfill(
                    status=503,
                    json={"error": {"type": "unavailable", "message": "the model is loading", "status": 503}},
                )
            else:
                route.continue_()

        def models(route: Any) -> None:
            if state["stage"] != "loading":
                route.continue_()
                return
            listed = route.fetch().json()
            for model in listed["models"]:
                model["state"] = "loading"
            state["lists"] += 1
            if state["lists"] == 2:
                state["stage"] = "ready"
            route.fulfill(json=listed)

        page.route("**/anomaly-score?*", score)
        page.route("**/models", models)
        choose(page, path)
        page.get_by_text("The service does not answer.").wait_for()
        state["stage"] = "loading"
        page.get_by_role("button", name="Try again").click()
        page.get_by_text("This model is loading.").wait_for()
        page.get_by_text("This model is loading.").wait_for(state="detached")
        page.get_by_role("button", name="Try again").click()
        page.get_by_role("heading", name="5 rows of rows.csv").wait_for()
        wait_for_address(page, file="rows.csv")


@needs_browser
def test_a_file_is_kept_between_views_but_not_when_the_page_is_loaded_again(
    service: Served, browser: Any, tmp_path: Path
) -> None:
    with opened_page(browser, f"{service.url}?model={MODEL}&view=anomaly") as page:
        choose(page, small_file(tmp_path, *[LINE] * 5))
        page.get_by_role("button", name="Open row 3").click()
        page.locator("dialog").wait_for()
        page.keyboard.press("Escape")
        page.get_by_role("link", name="Facts").click()
        page.locator(".anomaly").wait_for(state="detached")
        page.get_by_role("link", name="Anomalies").click()
        page.get_by_role("heading", name="5 rows of rows.csv").wait_for()
        wait_for_address(page, file="rows.csv")
        page.reload()
        page.get_by_text("Files are not kept: choose rows.csv again.").wait_for()
        page.goto(f"{page.url}&row=3")
        page.get_by_text("This link shows row 3 of rows.csv. Files are not kept: choose rows.csv again.").wait_for()
        choose(page, small_file(tmp_path, LINE, name="other.csv"))
        page.get_by_role("heading", name="1 row of other.csv").wait_for()
        wait_for_address(page, file="other.csv", row=None)


@needs_browser
def test_examples_are_in_the_address(service: Served, browser: Any) -> None:
    with opened_page(browser, f"{service.url}?model=mnist-flow&view=anomaly") as page:
        page.get_by_role("button", name="Try with examples").click()
        page.get_by_text("Two examples were changed").wait_for()
        first = page.locator(".scores tbody tr").first.inner_text()
        wait_for_address(page, examples="1", file=None)
        page.reload()
        page.get_by_text("See whether the model finds them.").wait_for()
        assert page.locator(".scores tbody tr").first.inner_text() == first


FAILURES: dict[str, tuple[str, bytes, str]] = {
    "JSON without a known column": ("w.json", b'{"a": 1}', "w.json has none of the columns of the model; it has “a”."),
    "CSV without a known column": ("w.csv", b"a\n1\n", "w.csv lacks the columns 'amount', "),
    "JSON of which no record can be scored": (
        "w.json", b'[{"amount": "much"}, {"amount": "more"}]', "None of the 2 rows of w.json could be scored. Row 1: amount: 'much' is not a number",
    ),
    "CSV of which no row can be scored": (
        "w.csv", f"{HEADER}\n{'?,' * 15}?\n".encode(), "The only row of w.csv could not be scored. Row 1: every value is missing.",
    ),
    "random bytes as CSV": ("w.csv", bytes(range(256)) * 8, "w.csv is a binary file: "),
    "random bytes as Parquet": ("w.parquet", bytes(range(256)) * 8, "w.parquet is not a Parquet file, although its name ends in .parquet."),
    "a letter as separator": ("w.csv", b"sep=x\naxb\n1x2\n", "w.csv: its first line states 'x' as the separator of cells"),
    "nothing": ("w.csv", b"", "w.csv is empty."),
}  # fmt: skip


@needs_browser
def test_files_that_cannot_be_scored(service: Served, browser: Any, tmp_path: Path) -> None:
    """Every one of them is an error that names the file and says what to do, without names of the API."""
    with opened_page(browser, f"{service.url}?model={MODEL}&view=anomaly") as page:
        for name, content, says in FAILURES.values():
            path = tmp_path / name
            path.write_bytes(content)
            choose(page, path)
            failure = page.locator(".failure", has_text=says)
            failure.wait_for()
            text = failure.inner_text()
            assert "Valid values" not in text and not text.startswith("file:") and "\ufffd" not in text
            assert len([line for line in text.splitlines() if line]) == 2  # the problem, and the next step
            assert page.get_by_role("heading", name=" of w.").count() == 0


@needs_browser
def test_rows_that_cannot_be_scored_are_part_of_the_verdict(service: Served, browser: Any, tmp_path: Path) -> None:
    with opened_page(browser, f"{service.url}?model={MODEL}&view=anomaly") as page:
        choose(page, small_file(tmp_path, LINE, LINE, f"x{LINE}", LINE, "1,2", LINE))
        page.locator(".counts", has_text="2 of 6 rows could not be scored").wait_for()
        assert "of 4 rows flagged" in page.locator(".counts").inner_text()
        page.get_by_text("Row 5: has 2 cells, but the header has 16").wait_for()  # the list is open


@needs_browser
def test_the_columns_are_listed_and_a_template_can_be_scored(service: Served, browser: Any, tmp_path: Path) -> None:
    with opened_page(browser, f"{service.url}?model={MODEL}&view=anomaly", viewport=NARROW) as page:
        page.get_by_text("The 16 columns that a file needs").click()
        rows = page.locator(".needed tbody tr")
        assert rows.count() == 16
        assert (
            "number; in training 0 to 219.56" in rows.nth(0).inner_text()
            and "one of 7: 0, 1, 2" in rows.nth(2).inner_text()
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
        with page.expect_download() as download:
            page.get_by_role("button", name="Download a template CSV").click()
        assert download.value.suggested_filename == f"{MODEL}-template.csv"
        path = tmp_path / "template.csv"
        path.write_bytes(Path(download.value.path()).read_bytes())
        assert path.read_text().splitlines()[0] == HEADER
        choose(page, path)
        page.get_by_role("heading", name="3 rows of template.csv").wait_for()
        page.get_by_text("What do these columns mean?").click()
        page.get_by_text("0 to 999, a fixed function of the p-value").wait_for()
        page.get_by_text("It is not the probability that the row is normal.").wait_for()


@needs_browser
def test_warnings_are_shown_in_full(service: Served, browser: Any, tmp_path: Path) -> None:
    """The table cuts a long warning; the dialog of the row has all of it."""
    odd = ",".join(map(str, {**ROW, "weekday": "a day of the week that does not exist", "amount": 99_999}.values()))
    with opened_page(browser, f"{service.url}?model={MODEL}&view=anomaly") as page:
        choose(page, small_file(tmp_path, LINE, odd))
        page.locator(".scores td", has_text="…").wait_for()
        page.get_by_role("button", name="Open row 2").click()
        page.locator(
            "dialog", has_text="weekday 'a day of the week that does not exist' did not occur in training"
        ).wait_for()
        assert "…" not in " ".join(page.locator("dialog .note").all_inner_texts())


@needs_browser
def test_json_texts_are_scored_unchanged(service: Served, browser: Any, tmp_path: Path) -> None:
    """A text that a spreadsheet would take for a formula is no formula here: it stays the value that the file has."""
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([ROW, {**ROW, "weekday": "=1"}]))
    with opened_page(browser, f"{service.url}?model={MODEL}&view=anomaly") as page:
        choose(page, path)
        page.locator(".scores td", has_text="weekday '=1'").wait_for()


@needs_browser
def test_decisions_by_a_false_discovery_rate(service: Served, browser: Any, tmp_path: Path) -> None:
    """The page decides on all rows of a file as the service does."""
    path = rows_file(tmp_path)
    with opened_page(browser, f"{service.url}?model={MODEL}&view=anomaly&discovery=0.2") as page:
        choose(page, path)
        page.get_by_text("are expected to be normal").wait_for()
        with page.expect_download() as download:
            page.get_by_role("button", name="Download scores as CSV").click()
        saved = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
        page.get_by_role("button", name="Number to flag").click()
        page.wait_for_function("() => !new URLSearchParams(location.search).has('discovery')")
    sent = httpx.post(
        f"{service.url}/anomaly-score", params={"model": MODEL, "false_discovery_rate": 0.2}, content=path.read_bytes(),
        headers={"content-type": "text/csv"},
    )  # fmt: skip
    *lines, _ = [json.loads(line) for line in sent.text.splitlines()]
    assert [row["is_anomaly"].lower() for row in saved] == [str(line["is_anomaly"]).lower() for line in lines]
    assert [row["band"] for row in saved] == [line["band"] for line in lines]
    assert lines[321]["is_anomaly"] and sum(line["is_anomaly"] for line in lines) < 40
