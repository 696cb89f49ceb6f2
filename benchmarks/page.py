"""The page in Chromium: its size, the time to the first view, frames per second in latent space, accessibility, and five tasks of a new user.

    python benchmarks/page.py [--url http://127.0.0.1:8000] [--rounds 5] [--pictures docs/images]

Without --url, the script starts the service on the shipped models. It needs Chromium and the extra `dev`. Times are medians. A task is a number
of clicks, keys and files, driven as fast as the page allows: the seconds are the time that a user waits for the page and the service, and the clicks
are what a user does. --pictures renews the screenshots of the documentation. The output is one JSON line.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import httpx  # noqa: E402
import serving  # noqa: E402
from PIL import Image  # noqa: E402

from manifold.service.http.pages import assets  # noqa: E402
from tests.page import browser as browsers  # noqa: E402

STATIC = assets.FOLDER
VIEWS = {
    "front": "", "sample": "model=mnist-flow&seed=7", "rows": "model=transactions-vae&view=sample&seed=7",
    "latent": "model=mnist-vae-2d&view=latent", "sliders": "model=mnist-vae&view=latent",
    "interpolate": "model=mnist-cvae&view=interpolate&from=1:0:7&to=2:0:1", "edit": "model=mnist-cvae&view=edit",
    "anomaly": "model=transactions-vae&view=anomaly", "compare": "view=compare&models=mnist-flow,mnist-vqvae,mnist-cvae&seed=7",
    "facts": "model=mnist-vae&view=facts", "learn": "view=learn", "lesson": "view=learn&lesson=kl&step=2",
}  # fmt: skip
ROWS = 2000


@contextmanager
def service(url: str | None) -> Iterator[str]:
    """Give the address of the service; start one unless `url` names it."""
    if url is not None:
        yield url.rstrip("/")
        return
    port = serving.free_port()
    process = serving.started(
        [sys.executable, "-m", "manifold.service"], f"http://127.0.0.1:{port}/health/ready", MANIFOLD_PORT=str(port), MANIFOLD_GRPC_PORT="0",
        MANIFOLD_MODELS_DIR=str(ROOT / "models"),
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def sizes() -> dict[str, int]:
    """Return the bytes of all scripts and styles: as files, compressed, and compressed for the first view only."""
    files = [path for path in STATIC.rglob("*") if path.suffix in (".js", ".css")]
    packed = {path: len(gzip.compress(path.read_bytes())) for path in files}
    needed = {STATIC / name for name in assets.scripts(assets.read())} | set(STATIC.rglob("*.css"))
    first = sum(packed[path] for path in needed)
    return {
        "files": sum(path.stat().st_size for path in files),
        "compressed": sum(packed.values()),
        "first_view": first,
    }


def first_view(browser: Any, url: str, rounds: int) -> dict[str, float]:
    """Return the seconds from the start of a visit, with an empty cache, until all featured models can be clicked, and until their pictures are shown."""
    usable, shown = [], []
    for _ in range(rounds):
        with browsers.opened_page(browser, "about:blank") as page:
            began = time.perf_counter()
            page.goto(url, wait_until="commit")
            page.locator("section[aria-labelledby=featured] .card").nth(5).wait_for()
            usable.append(time.perf_counter() - began)
            page.wait_for_function(
                "[...document.querySelectorAll('section[aria-labelledby=featured] img')].every(one => one.complete && one.naturalWidth)"
            )
            shown.append(time.perf_counter() - began)
    return {"usable": statistics.median(usable), "pictures": statistics.median(shown)}


def accessibility(browser: Any, url: str) -> dict[str, list[str]]:
    """Return what axe finds to be serious or critical, by view, scheme and width. Views without findings are left out."""
    found = {}
    for name, query in VIEWS.items():
        for scheme in ("light", "dark"):
            for width, size in (("wide", browsers.WIDE), ("narrow", browsers.NARROW)):
                problems = browsers.serious(browser, f"{url}/?{query}", "main h1", color_scheme=scheme, viewport=size)
                if problems:
                    found[f"{name} {scheme} {width}"] = problems
    return found


def pictures(browser: Any, url: str, folder: Path) -> None:
    """Write screenshots of the views that the documentation shows, with 128 colours."""
    for name in ("front", "sample", "latent", "edit", "anomaly", "lesson"):
        for scheme in ("light", "dark") if name in ("front", "latent") else ("light",):
            size = {"width": 1280, "height": 860}
            with browsers.opened_page(browser, f"{url}/?{VIEWS[name]}", color_scheme=scheme, viewport=size) as page:
                page.locator("main h1").first.wait_for()
                if name == "anomaly":
                    page.get_by_role("button", name="Try with examples").click()
                    page.locator(".top-one").wait_for()
                page.wait_for_load_state("networkidle")
                page.wait_for_timeout(1500)
                content = page.screenshot()
            with Image.open(io.BytesIO(content)) as picture:
                few = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
                few.save(folder / f"page-{name}-{scheme}.png", optimize=True)


def frames(browser: Any, url: str, seconds: float = 4) -> dict[str, float]:
    """Return how many images per second the page decodes and draws while the pointer moves over the latent plane, and how often the pointer moved."""
    with browsers.opened_page(browser, f"{url}/?{VIEWS['latent']}") as page:
        page.locator(".latent-legend button").nth(9).wait_for()
        page.wait_for_load_state("networkidle")
        moved = page.evaluate(
            """seconds => new Promise(done => {
              const plane = document.querySelector(".latent-plane"), box = plane.getBoundingClientRect(), began = performance.now();
              let moved = 0;
              const move = now => {
                const turn = (now - began) / 300;
                const at = {clientX: box.x + box.width * (.5 + .4 * Math.cos(turn)), clientY: box.y + box.height * (.5 + .4 * Math.sin(turn))};
                plane.dispatchEvent(new PointerEvent("pointermove", {...at, bubbles: true, pointerId: 1, pointerType: "mouse"}));
                moved += 1;
                now - began < 1000 * seconds ? requestAnimationFrame(move) : done(1000 * moved / (now - began));
              };
              requestAnimationFrame(move);
            })""",
            seconds,
        )
        return {"images": float(page.locator(".rate").first.get_attribute("data-fps") or 0), "pointer": moved}


# --- tasks of a new user ------------------------------------------------------------------------------------------------------


class User:
    """A user of the page, who starts at its first view. Clicks, texts and files are counted."""

    def __init__(self, page: Any) -> None:
        self.page, self.actions = page, 0

    def click(self, role: str, name: str, *, exact: bool = False, within: str = "body") -> None:
        self.page.locator(within).get_by_role(role, name=name, exact=exact).first.click()
        self.actions += 1

    def write(self, label: str, text: str) -> None:
        field = self.page.get_by_label(label).first
        field.fill(text)
        field.press("Enter")
        self.actions += 1

    def give(self, place: str, file: Path) -> None:
        self.page.locator(f"{place} input[type=file]").first.set_input_files(file)
        self.actions += 1

    def see(self, selector: str, text: str | None = None) -> Any:
        found = self.page.locator(selector, has_text=text).first
        found.wait_for()
        return found


def rows_file(folder: Path, columns: list[dict[str, Any]], samples: list[dict[str, Any]]) -> tuple[Path, int]:
    """Write a CSV file of ROWS sampled rows, of which one is unusual in two columns. Return the file and the place of that row."""
    place = random.Random(0).randrange(ROWS)
    samples[place] |= {"amount": 9000, "amount_over_usual": 40}
    path = folder / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [column["name"] for column in columns])
        writer.writeheader()
        writer.writerows(samples)
    return path, place


def seven_to_one(user: User, folder: Path) -> None:
    """Turn a 7 into a 1."""
    user.click("link", "mnist-cvae", within="section[aria-labelledby=featured]")
    user.click("link", "Reconstruct and edit", within=".tabs")
    user.click("button", "Class 1", exact=True)  # the first example is a 7
    user.see("img[alt='As class 1']")


def most_anomalous(user: User, folder: Path) -> None:
    """Find the most anomalous of 2 000 rows and say why."""
    user.write("Name", "transactions")
    user.click("link", "transactions-vae", within="section[aria-labelledby=all]")
    user.give(".anomaly", folder / "rows.csv")
    assert "amount" in user.see(".top-one", "because").inner_text()


def restored(user: User, folder: Path) -> None:
    """Restore a picture from its PNG."""
    user.give(".start", folder / "picture.png")
    user.see(".sample-results .note", "every pixel is the same")


def compared(user: User, folder: Path) -> None:
    """Compare two models on one seed."""
    user.click("link", "Compare", within=".top")
    for name in ("mnist-flow", "mnist-vqvae"):
        box = user.page.get_by_role("checkbox", name=name, exact=True).first
        if not box.is_checked():
            box.check()
            user.actions += 1
    user.see(".matrix .line:nth-child(2) img")


def scored(user: User, folder: Path) -> None:
    """Score a CSV file at 2%."""
    user.write("Name", "transactions")
    user.click("link", "transactions-vae", within="section[aria-labelledby=all]")
    user.give(".anomaly", folder / "rows.csv")
    user.write("False alarm rate, %", "2")
    user.see(".scores tbody tr")
    with user.page.expect_download() as download:
        user.click("button", "Download scores as CSV")
    assert len(Path(download.value.path()).read_text().splitlines()) == ROWS + 1


TASKS: tuple[Callable[[User, Path], None], ...] = (seven_to_one, most_anomalous, restored, compared, scored)


def tasks(browser: Any, url: str, rounds: int) -> dict[str, dict[str, float]]:
    """Return the seconds and the actions of each task."""
    with tempfile.TemporaryDirectory() as name, httpx.Client(base_url=url, timeout=120) as client:
        folder = Path(name)
        columns = client.get("/models/transactions-vae").json()["data"]["columns"]
        samples = [
            row for part in range(4) for row in client.post("/sample", json={"model": "transactions-vae", "n": ROWS // 4, "seed": part}).json()["rows"]
        ]  # fmt: skip
        rows_file(folder, columns, samples)
        picture = client.post("/sample", json={"model": "mnist-flow", "seed": 5}, headers={"Accept": "image/png"})
        (folder / "picture.png").write_bytes(picture.content)
        found: dict[str, dict[str, float]] = {}
        for task in TASKS:
            spent = []
            for _ in range(rounds):
                with browsers.opened_page(browser, url) as page:
                    page.locator("section[aria-labelledby=featured] .card").nth(5).wait_for()
                    user, began = User(page), time.perf_counter()
                    task(user, folder)
                    spent.append(time.perf_counter() - began)
            found[(task.__doc__ or "").rstrip(".")] = {
                "actions": user.actions,
                "seconds": round(statistics.median(spent), 2),
            }
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", help="address of a running service; by default one is started")
    parser.add_argument("--rounds", type=int, default=5, help="number of repetitions of what is timed")
    parser.add_argument("--pictures", type=Path, help="folder for the screenshots of the documentation")
    options = parser.parse_args()
    with service(options.url) as url, browsers.opened_browser() as browser:
        found: dict[str, Any] = {
            "bytes": sizes(), "first_view_seconds": first_view(browser, url, options.rounds), "frames_per_second": frames(browser, url),
            "tasks": tasks(browser, url, options.rounds), "axe": accessibility(browser, url),
        }  # fmt: skip
        if options.pictures is not None:
            pictures(browser, url, options.pictures)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
