"""The Python client: typed results from the real service, and retries."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from manifold_client import AsyncClient, Busy, Client, Condition, End, NotReady, RequestRefused, Retry
from tests import forms
from tests.conftest import ROW

QUICK = Retry(attempts=3, base=0.001, longest=0.01)


@pytest.fixture
def through(client: TestClient) -> httpx.MockTransport:
    """Return a transport from httpx to the service in this process."""
    return transport_to(client)


@pytest.fixture(scope="module")
def long_forms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Yield a client of models with several outputs, latents and conditions, and with numbers."""
    root = tmp_path_factory.mktemp("forms")
    forms.all_forms(root)
    with forms.client(root) as service, Client(transport=transport_to(service)) as client:
        yield client


def transport_to(client: TestClient) -> httpx.MockTransport:
    """Return a transport from httpx to a service in this process."""

    def handle(request: httpx.Request) -> httpx.Response:
        response = client.request(
            request.method, request.url.path, content=request.read(), headers=dict(request.headers)
        )
        return httpx.Response(
            response.status_code, content=response.content, headers={"content-type": response.headers["content-type"]}
        )

    return httpx.MockTransport(handle)


def test_every_method(through: httpx.MockTransport, tmp_path: Path) -> None:
    with Client(transport=through) as client:
        samples = client.sample(5, seed=7, return_latents=True)
        assert len(samples) == 5
        assert samples.arrays().shape == (5, 28, 28)
        assert samples.latents is not None
        assert samples.latents.shape == (5, 20)
        assert samples.grid().size == (88, 58)
        again = client.sample(latents=samples.latents)
        assert np.array_equal(again.arrays(), samples.arrays())
        path = tmp_path / "digit.png"
        samples.images[0].save(path)
        buffer = io.BytesIO()
        samples.images[0].save(buffer, "PNG")
        forms: list[Any] = [
            samples.images[0],
            samples.arrays()[0],
            samples.arrays()[0] / 255,
            path,
            str(path),
            buffer.getvalue(),
        ]
        encoded = client.encode(forms)
        assert encoded.mean is not None
        assert np.array_equal(encoded.mean, encoded.mean[:1].repeat(6, axis=0))
        called = client.call("encode", images=[base64.b64encode(path.read_bytes()).decode(), *forms[:4], forms[5]])
        assert np.array_equal(np.array(called["mean"], np.float32), encoded.mean)
        back = client.reconstruct([samples.images[0]])
        assert back.errors.shape == (1,)
        assert back.images[0].size == (28, 28)
        path_between = client.interpolate({"image": samples.images[0]}, {"latent": samples.latents[1]}, steps=3)
        assert path_between.latents is not None
        assert path_between.latents.shape == (3, 20)
        image = np.zeros((8, 8), np.uint8)
        classes = client.classify([image], model="digits-classifier")
        assert classes.names == list("0123456789")
        assert classes.probabilities.shape == (1, 10)
        assert classes.classes[0] == classes.names[int(classes.probabilities[0].argmax())]
        assert classes.classification["by"] == "logits"
        scores = client.anomaly_score(rows=[ROW], model="transactions-vae", explain=True)
        assert scores.items[0].state == "ok"
        assert scores.items[0].explanation is not None
        assert client.sample(2, model="transactions-vae", seed=1).rows[0].keys() == ROW.keys()
        codes = client.sample(2, model="digits-pixelcnn", class_="3", return_latents=True)
        assert codes.codes is not None
        assert codes.codes.shape == (2, 8, 8)
        assert codes.classes == ["3", "3"]
        assert {model["name"] for model in client.models()} >= {"mnist-vae"}


def test_one_item_stands_for_a_list_of_one(through: httpx.MockTransport, tmp_path: Path) -> None:
    image = Image.new("L", (28, 28), 99)
    path = tmp_path / "digit.png"
    image.save(path)
    with Client(transport=through) as client:
        several = client.encode([image]).mean
        for one in (image, path, str(path), path.read_bytes(), np.asarray(image), np.asarray(image) / np.float32(255)):
            assert np.array_equal(client.encode(one).mean, several)  # type: ignore[arg-type]
        batch = client.encode(np.stack([np.asarray(image)] * 2)).mean
        assert batch is not None and batch.shape == (2, 20)
        colour = client.encode(np.zeros((28, 28, 3), np.uint8)).mean
        assert colour is not None and colour.shape == (1, 20)
        assert np.array_equal(client.call("encode", images=path)["mean"], client.call("encode", images=[path])["mean"])
        one_row = client.anomaly_score(rows=ROW, model="transactions-vae")
        assert len(one_row) == 1
        assert one_row.items == client.anomaly_score(rows=[ROW], model="transactions-vae").items
        known = np.zeros((8, 8), bool)
        digit = client.sample(1, model="digits-pixelcnn", seed=2, class_="3").images[0]
        whole = client.impute(images=digit, masks=known, model="digits-pixelcnn", seed=5, candidates=1)
        assert len(whole) == 1


def test_streams(through: httpx.MockTransport) -> None:
    with Client(transport=through, retry=QUICK) as client:
        whole = client.sample(20, seed=3)
        streamed = list(client.sample_stream(20, seed=3))
        assert [each.item for each in streamed] == list(range(20))
        for each, image in zip(streamed, whole.images, strict=True):
            assert each.image is not None
            assert np.array_equal(np.asarray(each.image), np.asarray(image))
        assert [each.row for each in client.sample_stream(2, seed=1, model="transactions-vae")] == client.sample(
            2, seed=1, model="transactions-vae"
        ).rows
        with pytest.raises(RequestRefused) as caught:
            list(client.sample_stream(3, model="nobody"))
        assert caught.value.status == 404

    async def scene() -> list[int]:
        async with AsyncClient(transport=through) as client:
            return [each.item async for each in client.sample_stream(5, seed=3)]

    assert asyncio.run(scene()) == [0, 1, 2, 3, 4]


def test_a_stream_that_is_refused_is_asked_for_again_and_one_that_breaks_says_so() -> None:
    answers = iter([
        httpx.Response(429, json={"error": {"message": "busy", "type": "busy"}}),
        httpx.Response(200, text='{"item": 0}\n{"error": {"message": "broke", "type": "invalid_value", "field": null}}\n'),
    ])  # fmt: skip
    with Client(transport=httpx.MockTransport(lambda _: next(answers)), retry=QUICK) as client:
        stream = client.sample_stream(2)
        assert next(stream).item == 0
        with pytest.raises(RequestRefused, match="broke"):
            next(stream)


def test_the_async_client_gives_the_same(through: httpx.MockTransport) -> None:
    async def scene() -> list[Any]:
        async with AsyncClient(transport=through) as client:
            image = Image.new("L", (28, 28))
            return [
                await client.sample(2, seed=7),
                await client.encode([image]),
                await client.reconstruct([image]),
                await client.interpolate({"seed": 1}, {"seed": 2}),
                await client.anomaly_score([image]),
                await client.models(),
                await client.call("encode", images=[image]),
            ]

    results = asyncio.run(scene())
    with Client(transport=through) as client:
        assert np.array_equal(results[0].arrays(), client.sample(2, seed=7).arrays())
    assert all(results)


def test_refusals_are_exceptions_with_the_reason(through: httpx.MockTransport) -> None:
    with Client(transport=through) as client:
        with pytest.raises(RequestRefused, match="use one of normal, gaussian, mixture") as caught:
            client.sample(prior="x")
        assert (caught.value.status, caught.value.field) == (422, "prior")
        assert caught.value.request_id


def failing(*statuses: int) -> tuple[httpx.MockTransport, list[int]]:
    """Return a transport that answers with these statuses in turn."""
    left = list(statuses)

    def handle(request: httpx.Request) -> httpx.Response:
        status = left.pop(0)
        if status == 0:
            raise httpx.ConnectError("refused")
        if status == 1:
            raise httpx.ReadTimeout("slow")
        if status == 2:
            raise httpx.RemoteProtocolError("the server has gone away")
        if status == 200:
            return httpx.Response(200, json={"models": []})
        return httpx.Response(
            status,
            json={"error": {"type": "busy", "message": "later", "request_id": "r"}},
            headers={"retry-after": "0"},
        )

    return httpx.MockTransport(handle), left


def test_busy_and_not_ready_are_tried_again() -> None:
    for statuses in ((429, 503, 200), (0, 0, 200), (2, 502, 200)):
        transport, left = failing(*statuses)
        assert Client(transport=transport, retry=QUICK).models() == []
        assert left == []
        transport, left = failing(*statuses)
        assert asyncio.run(AsyncClient(transport=transport, retry=QUICK).models()) == []


@pytest.mark.parametrize(
    ("statuses", "error", "unused"),
    [
        ((429,) * 3, Busy, 0),
        ((503,) * 3, NotReady, 0),
        ((0,) * 3, NotReady, 0),
        ((1, 200), NotReady, 1),
        ((500, 200), RequestRefused, 1),
    ],
)
def test_retries_end_and_others_are_not_retried(statuses: tuple[int, ...], error: type[Exception], unused: int) -> None:
    transport, left = failing(*statuses)
    with pytest.raises(error):
        Client(transport=transport, retry=QUICK).models()
    assert len(left) == unused
    transport, left = failing(*statuses)
    with pytest.raises(error):
        asyncio.run(AsyncClient(transport=transport, retry=QUICK).models())
    assert len(left) == unused


def test_waits_grow_and_honour_retry_after() -> None:
    retry = Retry(base=0.2, longest=10)
    assert 0.1 <= retry.wait(0, None) <= 0.2
    assert 0.8 <= retry.wait(3, None) <= 1.6
    assert retry.wait(0, httpx.Response(429, headers={"retry-after": "3"})) == 3
    assert retry.wait(0, httpx.Response(429, headers={"retry-after": "60"})) == 60  # `longest` limits the back-off only
    assert retry.wait(0, httpx.Response(429, headers={"retry-after": "9" * 400})) == 3600
    assert retry.wait(2000, None) == 10


def test_rows_and_images_are_made_whole(through: httpx.MockTransport) -> None:
    with Client(transport=through) as client:
        rows = client.impute([{**ROW, "amount": None}], model="transactions-vae")
        assert rows.rows[0]["hour"] == ROW["hour"]
        assert rows.rows[0]["amount"] > 0
        assert rows.images == []
        digits = client.sample(3, model="digits-pixelcnn", seed=2)
        known = np.zeros((8, 8), bool)
        known[:4] = True
        whole = client.impute(images=digits.images, masks=[known], model="digits-pixelcnn", seed=5, candidates=2)
        assert np.array_equal(whole.arrays()[:, :4], digits.arrays()[:, :4])
        assert len(whole.classes) == 3
        assert whole.rows == []
        as_pictures = client.impute(
            images=digits.arrays(), masks=[Image.fromarray(known)] * 3, model="digits-pixelcnn", seed=5, candidates=2
        )
        assert np.array_equal(as_pictures.arrays(), whole.arrays())


# --- the long forms: several outputs, latents and conditions, and numbers by name ---


def test_several_outputs_are_items_by_role(long_forms: Client) -> None:
    made = long_forms.sample(2, seed=7, return_latents=True)
    assert list(made.items) == ["picture", "facts"]
    assert made.items["picture"].arrays().shape == (2, 2, 3)
    assert len(made.items["facts"]) == 2 and set(made.items["facts"].rows[0]) == {"price", "kind", "weight"}
    assert (len(made), made.images, made.rows) == (2, made.items["picture"].images, [])  # the first output
    assert {name: latents.shape for name, latents in made.named_latents.items()} == {
        "place": (2, 2),
        "texture": (2, 2, 2, 2),
    }
    assert made.latents is None and made.values == {}
    again = long_forms.sample(named_latents=made.named_latents)
    assert again.items["facts"].rows == made.items["facts"].rows
    back = long_forms.reconstruct(made.images)
    assert len(back.items["picture"].images) == len(back.items["facts"].rows) == len(back.errors) == 2
    plain = long_forms.sample(2, seed=7, model="shaped")
    assert plain.items == {} and len(plain.images) == 2


def test_posteriors_and_paths_by_name(long_forms: Client) -> None:
    images = long_forms.sample(2, seed=7).images
    encoded = long_forms.encode(images, seed=3)
    assert list(encoded.posteriors) == ["place", "texture"] and encoded.mean is None
    place, texture = encoded.posteriors["place"], encoded.posteriors["texture"]
    assert place.mean is not None and place.log_variance is not None and place.latents is not None
    assert place.mean.shape == place.log_variance.shape == place.latents.shape == (2, 2)
    assert texture.mean is not None and texture.mean.shape == (2, 2, 2, 2) and texture.log_variance is None
    end: End = {"named_latent": {"place": place.mean[0], "texture": texture.mean[0]}}
    path = long_forms.interpolate(end, {"image": images[1]}, steps=3)
    assert len(path.items["facts"].rows) == 3 and path.latents is None
    assert np.allclose(path.named_latents["texture"][0], texture.mean[0])
    alone = long_forms.encode(images, model="shaped")
    assert alone.mean is not None and alone.mean.shape == (2, 2, 3) and alone.posteriors == {}


def test_streams_of_the_long_forms(long_forms: Client) -> None:
    whole = long_forms.sample(3, seed=7, return_latents=True)
    for place, line in enumerate(long_forms.sample_stream(3, seed=7, return_latents=True)):
        assert line.items["facts"].row == whole.items["facts"].rows[place]
        assert line.image is line.items["picture"].image is not None
        assert np.array_equal(np.asarray(line.image), whole.arrays()[place]) and line.values == {}
        assert np.array_equal(line.named_latents["place"], whole.named_latents["place"][place])
    whole = long_forms.sample(2, seed=1, model="captioned")
    lines = list(long_forms.sample_stream(2, seed=1, model="captioned"))
    assert [line.conditions["condition"]["texts"] for line in lines] == [
        [text] for text in whole.conditions["condition"]["texts"]
    ]
    assert all(line.items == {} and line.image is not None for line in lines)


def test_conditions_and_inputs_are_stated(long_forms: Client) -> None:
    look = Image.new("L", (3, 2), 200)
    stated: dict[str, Condition] = {
        "label": {"class": ["cat", "owl"]}, "pose": {"values": np.asarray([[0.25], [0.5]])}, "caption": {"texts": ["a", "b"]},
        "look": {"images": [look]},
    }  # fmt: skip
    made = long_forms.sample(2, seed=1, model="several", conditions=stated)
    encoded = long_forms.encode(made.images, model="several", conditions=stated)
    assert encoded.mean is not None and encoded.mean.shape == (2, 2)
    back = long_forms.reconstruct(
        made.images, model="several", conditions=stated, target_conditions={"look": {"images": [np.asarray(look)]}}
    )
    assert len(back.images) == 2
    ends: list[End] = [
        {
            "seed": seed,
            "conditions": {
                **stated,
                "label": {"class": "cat"},
                "pose": {"values": np.zeros(1)},
                "caption": {"texts": ["a"]},
            },
        }
        for seed in (1, 2)
    ]
    assert len(long_forms.interpolate(ends[0], ends[1], steps=3, model="several")) == 3
    drawn = long_forms.sample(2, seed=1, model="several", conditions={"look": stated["look"]})
    # the conditions that were drawn; a request may state them again
    assert set(drawn.conditions) == {"label", "pose", "caption"}
    again = long_forms.sample(2, seed=1, model="several", conditions={**drawn.conditions, "look": stated["look"]})
    assert np.array_equal(again.arrays(), drawn.arrays())
    guided = long_forms.sample(
        2, seed=1, model="numbered", class_="cat", inputs={"guidance": np.asarray([1, 2.5]), "steps": np.int64(4)}
    )
    assert len(guided) == 2
    with pytest.raises(RequestRefused, match="from 0 to 20"):
        long_forms.sample(2, model="numbered", inputs={"guidance": 21})


def test_images_as_numbers_are_values(long_forms: Client) -> None:
    made = long_forms.sample(2, seed=7, model="shaped", encoding="array")
    assert made.images == [] and len(made) == 2 and np.asarray(made.values["data"]).shape == (2, 1, 2, 3)
    line = next(long_forms.sample_stream(2, seed=7, model="shaped", encoding="array"))
    assert line.image is None and line.values == {"data": made.values["data"][0]}


def test_items_of_an_unknown_kind_stay_as_they_are() -> None:
    common = {"model": "m", "version": 1, "request_id": "r", "timing": {}, "seed": 1, "first": 0}
    series = [[[0.5, 1.0]], [[1.5, 2.0]]]
    answers = iter([
        httpx.Response(200, json={**common, "series": series, "latents": [[0], [1]]}),
        httpx.Response(200, json={**common, "items": {"wave": {"series": series}, "facts": {"rows": [{"a": 1}, {"a": 2}]}}}),
        httpx.Response(200, text='{"item": 0, "one_series": [[0.5, 1.0]], "latent": [0]}\n{"total": 1}\n'),
        httpx.Response(200, text='{"item": 0, "items": {"wave": {"one_series": [[0.5, 1.0]]}}}\n{"total": 1}\n'),
    ])  # fmt: skip
    with Client(transport=httpx.MockTransport(lambda _: next(answers)), retry=QUICK) as client:
        made = client.sample(2)
        assert (made.values, len(made), made.images, made.rows) == ({"series": series}, 2, [], [])
        several = client.sample(2)
        assert several.items["wave"].values == several.values == {"series": series} and len(several) == 2
        assert several.items["facts"].rows == [{"a": 1}, {"a": 2}]
        for _ in range(2):
            (line,) = client.sample_stream(1)
            assert line.values == {"one_series": series[0]} and (line.image, line.row) == (None, None)
        assert line.items["wave"].values == {"one_series": series[0]}
