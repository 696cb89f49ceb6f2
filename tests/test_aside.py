"""One rule for work off the event loop, for all transports, and thread pools that do not block each other."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import grpc
import numpy as np
import pytest

from manifold.runtime import codecs, imaging
from manifold.runtime.errors import Malformed, TooLarge
from manifold.runtime.kinds.image import ImageSpec
from manifold.runtime.kinds.table import TableSpec
from manifold.runtime.scores import scored_rows
from manifold.service import aside as module
from manifold.service import security
from manifold.service.aside import LARGE, aside, later
from manifold.service.core import encoding
from manifold.service.core.reading import Reader, Uploads
from manifold.service.core.use_cases import anomaly_score, encode
from manifold.service.http import bodies
from manifold.service.models import page_files
from manifold.service.rpc import messages
from manifold.service.settings import Settings
from manifold.service.stubs import manifold_pb2 as pb
from manifold.service.stubs import manifold_pb2_grpc as stubs
from manifold.service.telemetry import metrics
from tests import foreign
from tests.conftest import ROW, SHIPPED
from tests.served import Served, served, until


def test_small_work_stays_and_large_work_leaves() -> None:
    async def scene() -> list[str]:
        def name() -> str:
            return threading.current_thread().name

        return [
            await aside(name, LARGE - 1), await aside(name, LARGE), await aside(name),
            await aside(name, pool="disk"), await aside(name, pool="models"),
        ]  # fmt: skip

    here, *others = asyncio.run(scene())
    assert here == threading.current_thread().name
    assert [name.rpartition("_")[0] for name in others] == [
        f"manifold-{kind}" for kind in ("requests", "requests", "disk", "models")
    ]
    with pytest.raises(ZeroDivisionError):
        asyncio.run(aside(lambda: 1 / 0))


def test_a_folder_that_does_not_answer_and_models_that_load_keep_no_request_out() -> None:
    go = threading.Event()

    async def scene() -> str:
        for pool in ("disk", "models"):
            for _ in range(module.THREADS[pool] + 1):
                later(go.wait, pool)
        return await asyncio.wait_for(aside(lambda: threading.current_thread().name), 10)

    try:
        assert asyncio.run(scene()).startswith("manifold-requests")
    finally:
        go.set()


# --- on every transport ---


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("aside")
    foreign.write(root)
    (root / "foreign/1/preview.png").write_bytes(b"\x89PNG")
    for name in ("transactions-vae", "mnist-cvae"):
        (root / name).symlink_to(SHIPPED / name)
    with served(root, grpc=True) as service:
        yield service


class Seen:
    """The threads that called a function."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.names: list[str] = []
        original = getattr(owner, name)

        def noted(*given: Any, **options: Any) -> Any:
            self.names.append(threading.current_thread().name)
            return original(*given, **options)

        monkeypatch.setattr(owner, name, noted)


LATENTS = [[0.5] * foreign.LATENT] * 1000
IMAGE = imaging.to_png(np.zeros((3, 8, 10), np.uint8))
ROWS = [ROW] * 500
HUGE = json.dumps({"latents": LATENTS * 20}).encode()
FORM = b"".join(
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + IMAGE * 1000 + b"\r\n" for _ in range(3)
) + b"--b--\r\n"  # fmt: skip
NPY = codecs.to_npy(np.full((1000, foreign.LATENT * 20), 0.5, np.float32))


def rows(**more: Any) -> bytes:
    return json.dumps({"model": "transactions-vae", "rows": ROWS, **more}).encode()


OVER_HTTP: dict[str, tuple[Any, str, str, bytes, str]] = {
    "parsing JSON": (bodies, "json_object", "/sample", HUGE, "application/json"),
    "checking JSON": (bodies, "validate", "/sample", HUGE, "application/json"),
    "parsing a form": (bodies, "_multipart", "/encode", FORM, "multipart/form-data; boundary=b"),
    "parsing npy": (codecs, "from_npy", "/sample", NPY, "application/x-npy"),
    "latents as lists": (codecs, "floats", "/sample", HUGE, "application/json"),
    "conditions as lists": (
        np, "atleast_2d", "/sample", json.dumps({"model": "mnist-cvae", "condition": [[0.1] * 10] * 2000}).encode(), "application/json",
    ),
    "judging scores": (anomaly_score, "judged", "/anomaly-score", rows(), "application/json"),
    "writing rows": (encoding, "dumps", "/sample", b'{"model": "transactions-vae", "n": 500}', "application/json"),
    "filling rows in": (TableSpec, "fill", "/impute", rows(seed=1), "application/json"),
}  # fmt: skip


@pytest.mark.parametrize("case", OVER_HTTP.values(), ids=OVER_HTTP)
def test_large_bodies_and_answers_leave_the_event_loop(
    service: Served, monkeypatch: pytest.MonkeyPatch, case: tuple[Any, str, str, bytes, str]
) -> None:
    owner, name, path, body, kind = case
    seen = Seen(monkeypatch, owner, name)
    service.client.post(path, content=body, headers={"Content-Type": kind})
    assert seen.names and all(thread.startswith("manifold-requests") for thread in seen.names)


def test_small_requests_stay_on_it(service: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [Seen(monkeypatch, *each) for each in ((bodies, "validate"), (codecs, "floats"), (encoding, "to_fields"))]
    for _ in range(3):
        answer = service.client.post("/sample", json={"latents": LATENTS[:4]})
        assert answer.status_code == 200
    assert {name for each in seen for name in each.names} == {service.thread.name}


def test_files_are_spooled_off_the_event_loop(service: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch, tempfile.SpooledTemporaryFile, "write")
    closed = Seen(monkeypatch, tempfile.SpooledTemporaryFile, "close")
    scored = Seen(monkeypatch, scored_rows, "lines")
    line = ",".join(str(value) for value in ROW.values())
    content = (",".join(ROW) + "\n" + f"{line}\n" * 4000).encode()
    answer = service.client.post(
        "/anomaly-score?model=transactions-vae", content=content, headers={"Content-Type": "text/csv"}
    )
    assert answer.text.count("\n") == 4001
    assert any(name.startswith("manifold-disk") for name in seen.names)
    assert all(name.startswith("manifold-requests") for name in scored.names) and scored.names
    until(lambda: any(name.startswith("manifold-disk") for name in closed.names))


def test_messages_are_parsed_walked_and_written_off_the_event_loop(
    service: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked, filled = Seen(monkeypatch, messages, "request"), Seen(monkeypatch, messages, "fill")
    request = pb.SampleRequest(model="transactions-vae")
    score = pb.ScoreRequest(model="transactions-vae")
    for _ in range(500):
        columns = score.rows.add().columns
        for name, value in ROW.items():
            if isinstance(value, str):
                columns[name].text = value
            else:
                columns[name].number = float(value)  # type: ignore[arg-type]
    with grpc.insecure_channel(service.target) as channel:
        stub = stubs.ManifoldStub(channel)
        assert len(stub.AnomalyScore(score).items) == 500
        assert all(name.startswith("manifold-requests") for name in walked.names + filled.names) and walked.names
        request.n = 500
        assert len(stub.Sample(request).rows) == 500
        parts = list(stub.SampleStream(pb.SampleRequest(n=3, encoding="array")))
        assert sum(part.data.shape[0] for part in parts) == 3
        garbage = channel.unary_unary("/manifold.v1.Manifold/Sample")
        with pytest.raises(grpc.RpcError, match="is not a SampleRequest"):
            garbage(b"\xff" * LARGE)


def test_pages_of_metrics_and_files_are_read_off_the_event_loop(
    service: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [Seen(monkeypatch, metrics, name) for name in ("generate_latest",)]
    seen += [Seen(monkeypatch, shutil, "disk_usage"), Seen(monkeypatch, metrics.ScoreMetrics, "collect")]
    read = Seen(monkeypatch, page_files, "read")
    assert "manifold_ready 1.0" in service.client.get("/metrics").text
    with grpc.insecure_channel(service.target) as channel:
        assert stubs.ManifoldStub(channel).GetPreview(pb.GetModelRequest(model="foreign")).png == b"\x89PNG"
    described = Seen(monkeypatch, service.app.app, "openapi")
    assert service.client.get("/openapi.json").json()["info"]["title"] == "Manifold"
    for each in (*seen, read, described):
        assert each.names and all(name.startswith("manifold-") for name in each.names)


def test_keys_are_read_again_off_the_event_loop(service: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch, security, "read")
    assert service.client.post("/admin/reload").status_code == 200
    assert seen.names and all(name.startswith("manifold-disk") for name in seen.names)


def test_pages_that_are_asked_for_at_once_are_whole(service: Served) -> None:
    found: list[Future[str]] = []
    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(lambda: service.client.get("/metrics").text) for _ in range(40)]
        for _ in range(20):
            service.client.post("/sample", json={"n": 2})
    expected = [line for line in found[0].result().splitlines() if line.startswith("manifold_model_ready")]
    assert len(expected) == 3
    for each in found:
        assert all(line in each.result() for line in expected)


GROUP = ImageSpec.wire.group or 0


class Pictured:
    """The fields of a manifest that the image reader uses."""

    name = "pictured"
    spec = ImageSpec(kind="image", height=8, width=8, channels=1)


def test_many_images_are_read_in_groups_as_one_by_one() -> None:
    generator = np.random.default_rng(0)
    pictures = tuple(imaging.to_png(generator.integers(0, 256, (1, 8, 8), np.uint8)) for _ in range(2 * GROUP + 3))
    reader, manifest = Reader(Settings(), cast(Any, None)), cast(Any, Pictured())

    async def read(some: tuple[bytes, ...]) -> Any:
        return await reader.items(manifest, encode.EncodeRequest(), Uploads(files=some))

    async def scene() -> None:
        items = await read(pictures)
        assert np.array_equal(items.data, np.concatenate([(await read((each,))).data for each in pictures]))
        assert (len(items.fitted), len(items.warnings)) == (len(pictures), len(pictures))
        with pytest.raises(Malformed, match=rf"images\[{GROUP + 1}\]: is not an image"):
            await read((*pictures[: GROUP + 1], b"x", *pictures))
        with pytest.raises(TooLarge, match="images: 1025 is over the limit of 1024"):
            await read(pictures[:1] * 1025)

    asyncio.run(scene())


def test_a_client_that_leaves_ends_the_reading_of_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, go, real = threading.Semaphore(0), threading.Event(), imaging.read_image
    count = 0

    def held(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        seen.release()
        assert go.wait(60)
        return real(*arguments, **options)

    monkeypatch.setattr(imaging, "read_image", held)

    async def scene() -> None:
        uploads = Uploads(files=(imaging.to_png(np.zeros((1, 8, 8), np.uint8)),) * 10 * GROUP)
        reading = asyncio.create_task(
            Reader(Settings(), cast(Any, None)).items(cast(Any, Pictured()), encode.EncodeRequest(), uploads)
        )
        await asyncio.to_thread(seen.acquire)
        reading.cancel()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await reading
        # these run after the remaining work
        await asyncio.gather(*(aside(lambda: None) for _ in range(module.THREADS["requests"])))

    asyncio.run(scene())
    until(lambda: count == GROUP)
    assert count == GROUP
