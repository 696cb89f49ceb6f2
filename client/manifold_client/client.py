"""The two clients. What to send and how to read the answer is written once, in `Exchange`; the clients only wait or await."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

import httpx
import numpy as np
from PIL import Image

from manifold_client.errors import Busy, ManifoldClientError, NotReady, RequestRefused
from manifold_client.results import (
    Classes,
    Encoded,
    Imputed,
    Interpolation,
    Reconstruction,
    Sample,
    Samples,
    Scores,
)

R = TypeVar("R")
AnyImage = Image.Image | np.ndarray[Any, Any] | str | Path | bytes
Row = Mapping[str, Any] | Sequence[Any]
RETRIED = (429, 502, 503)  # 502 is a load balancer's, whose replica has gone away
# no answer came: asking again is safe, as no request changes anything there
LOST = (httpx.ConnectError, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
STREAM = {"accept": "application/x-ndjson"}
CONDITIONS = ("conditions", "target_conditions")  # fields with conditions by name


@dataclass(frozen=True)
class Exchange(Generic[R]):
    """One request and how to read its answer."""

    path: str
    body: dict[str, Any]
    parse: Callable[[Mapping[str, Any]], R]


def _exchange(path: str, parse: Callable[[Mapping[str, Any]], R], fields: Mapping[str, Any]) -> Exchange[R]:
    body = {key.rstrip("_"): value for key, value in fields.items() if value is not None}
    body |= {name: _conditions(body[name]) for name in CONDITIONS if name in body}
    return Exchange(path, _plain(body), parse)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: arrays, also those within mappings, become lists."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return {name: _plain(each) for name, each in value.items()} if isinstance(value, Mapping) else value


def _conditions(conditions: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return conditions by name. The images among them are made ready to send."""
    ready = {name: dict(condition) for name, condition in conditions.items()}
    for condition in ready.values():
        if condition.get("images") is not None:
            condition["images"] = [_image(image) for image in condition["images"]]
    return ready


def _image(image: AnyImage) -> str:
    """Base64 of an image's file; arrays are uint8, or floats in 0..1, (H, W) or (H, W, 3)."""
    if isinstance(image, (str, Path)):
        return base64.b64encode(Path(image).read_bytes()).decode()
    if isinstance(image, bytes):
        return base64.b64encode(image).decode()
    if isinstance(image, np.ndarray):
        pixels = image if image.dtype == np.uint8 else np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
        image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _mask(mask: AnyImage) -> AnyImage:
    """An array of truth values as a picture, white where it is true."""
    return np.where(mask, np.uint8(255), np.uint8(0)) if isinstance(mask, np.ndarray) and mask.dtype == bool else mask


def _items(images: Sequence[AnyImage] | None, rows: Sequence[Row] | None) -> dict[str, Any]:
    return {"images": None if images is None else [_image(image) for image in _listed(images, "images")], "rows": rows}


def _listed(images: Any, field: str) -> Sequence[AnyImage]:
    """Return images as they are. Raises TypeError for one image in place of several, whose characters or rows would be taken for images."""
    if isinstance(images, str | bytes | Path | Image.Image) or getattr(images, "ndim", 3) < 3:
        raise TypeError(f"{field}: a list of images is needed; for one, give a list with one")
    several: Sequence[AnyImage] = images
    return several


def _end(end: Mapping[str, Any]) -> dict[str, Any]:
    """An end of an interpolation; its image and the images among its conditions are made ready to send."""
    ready = dict(end)
    if "image" in ready:
        ready["image"] = _image(ready["image"])
    if ready.get("conditions") is not None:
        ready["conditions"] = _conditions(ready["conditions"])
    return ready


class Exchanges:
    """The exchanges, one for each endpoint. Extra keyword arguments (model, version, class_, ...) are the wire's fields.

    Any of them may be an array, or a mapping with arrays, such as `named_latents` and `inputs`. `conditions` are mappings by name, such as
    {"caption": {"texts": ["a circle"]}, "look": {"images": [image]}}.
    """

    @staticmethod
    def sample(
        n: int | None = None, *, seed: int | None = None, latents: Any = None, **fields: Any
    ) -> Exchange[Samples]:
        return _exchange("/sample", Samples.parse, {"n": n, "seed": seed, "latents": latents, **fields})

    @staticmethod
    def encode(
        images: Sequence[AnyImage] | None = None, *, rows: Sequence[Row] | None = None, **fields: Any
    ) -> Exchange[Encoded]:
        return _exchange("/encode", Encoded.parse, {**_items(images, rows), **fields})

    @staticmethod
    def reconstruct(
        images: Sequence[AnyImage] | None = None, *, rows: Sequence[Row] | None = None, **fields: Any
    ) -> Exchange[Reconstruction]:
        return _exchange("/reconstruct", Reconstruction.parse, {**_items(images, rows), **fields})

    @staticmethod
    def interpolate(
        start: Mapping[str, Any], stop: Mapping[str, Any], *, steps: int = 8, **fields: Any
    ) -> Exchange[Interpolation]:
        return _exchange(
            "/interpolate", Interpolation.parse, {"from": _end(start), "to": _end(stop), "steps": steps, **fields}
        )

    @staticmethod
    def anomaly_score(
        images: Sequence[AnyImage] | None = None, *, rows: Sequence[Row] | None = None, **fields: Any
    ) -> Exchange[Scores]:
        return _exchange("/anomaly-score", Scores.parse, {**_items(images, rows), **fields})

    @staticmethod
    def classify(
        images: Sequence[AnyImage] | None = None, *, rows: Sequence[Row] | None = None, **fields: Any
    ) -> Exchange[Classes]:
        return _exchange("/classify", Classes.parse, {**_items(images, rows), **fields})

    @staticmethod
    def impute(
        rows: Sequence[Row] | None = None,
        *,
        images: Sequence[AnyImage] | None = None,
        masks: Sequence[AnyImage] | None = None,
        **fields: Any,
    ) -> Exchange[Imputed]:
        given = {
            **_items(images, rows),
            "masks": None if masks is None else [_image(_mask(mask)) for mask in _listed(masks, "masks")],
        }
        return _exchange("/impute", Imputed.parse, {**given, **fields})

    @staticmethod
    def call(endpoint: str, **fields: Any) -> Exchange[dict[str, Any]]:
        """Return the exchange of any endpoint, such as one that this client has no method for. The answer is its JSON."""
        pictures = {
            name: [each if isinstance(each, str) else _image(each) for each in _listed(fields[name], name)]
            for name in ("images", "masks")
            if fields.get(name) is not None
        }
        return _exchange(f"/{endpoint.strip('/')}", dict, {**fields, **pictures})


@dataclass(frozen=True)
class Retry:
    """Rule for retries: exponential back-off with jitter, or the service's Retry-After if that is longer."""

    attempts: int = 5
    base: float = 0.2  # seconds
    longest: float = 10.0

    def wait(self, attempt: int, response: httpx.Response | None) -> float:
        asked = response.headers.get("retry-after", "") if response is not None else ""
        backoff = random.uniform(0.5, 1.0) * self.base * 2.0**attempt
        return min(self.longest, max(backoff, float(asked) if asked.isdecimal() else 0.0))


def _read(response: httpx.Response) -> Any:
    """The answer's JSON. Raises what the service refused."""
    if response.is_success:
        return response.json()
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        error = {"message": f"HTTP {response.status_code}: {response.text[:200]}", "type": ""}
    kind: type[ManifoldClientError] = {429: Busy, 503: NotReady}.get(response.status_code, RequestRefused)
    raise kind(
        error["message"],
        status=response.status_code,
        type=error["type"],
        field=error.get("field"),
        valid=error.get("valid"),
        request_id=error.get("request_id", ""),
    )


def _streamed(line: str, response: httpx.Response) -> Sample | None:
    """An item of a stream, or None at its end. Raises what went wrong on the way."""
    content = json.loads(line)
    if "error" in content:
        error = content["error"]
        raise RequestRefused(
            error["message"],
            status=response.status_code,
            type=error["type"],
            field=error.get("field"),
            valid=None,
            request_id=error.get("request_id", ""),
        )
    return Sample.parse(content) if "item" in content else None


def _headers(key: str | None) -> dict[str, str]:
    key = key or os.environ.get("MANIFOLD_KEY")
    return {"authorization": f"Bearer {key}"} if key else {}


def _unreachable(url: object, error: httpx.TransportError) -> NotReady:
    return NotReady(f"{url} does not answer: {error}")


class Client:
    """Waits for each answer."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        timeout: float = 30.0,
        key: str | None = None,
        verify: ssl.SSLContext | bool = True,
        retry: Retry | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`key` is an API key, the environment's MANIFOLD_KEY where left out; `verify` an SSL context for a certificate of one's own."""
        self._http = httpx.Client(
            base_url=url, timeout=timeout, transport=transport, verify=verify, headers=_headers(key)
        )
        self._retry = retry or Retry()

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        for attempt in range(self._retry.attempts):
            last = attempt == self._retry.attempts - 1
            response = None
            try:
                response = self._http.request(method, path, json=body)
                if last or response.status_code not in RETRIED:
                    return _read(response)
            except LOST as error:
                if last:
                    raise _unreachable(self._http.base_url, error) from error
            except httpx.TransportError as error:
                raise _unreachable(self._http.base_url, error) from error
            time.sleep(self._retry.wait(attempt, response))
        raise AssertionError("unreachable")

    def _do(self, exchange: Exchange[R]) -> R:
        return exchange.parse(self._send("POST", exchange.path, exchange.body))

    def sample(self, n: int | None = None, **fields: Any) -> Samples:
        """Make new items:
        seed, first, latents or named_latents, codes, class_, condition or conditions, inputs, prior, temperature, return_latents, model, version.
        """
        return self._do(Exchanges.sample(n, **fields))

    def sample_stream(self, n: int, **fields: Any) -> Iterator[Sample]:
        """Yield new items as they are made, more of them than `sample` may ask for; fields as of `sample`. Not retried once it has begun."""
        exchange = Exchanges.sample(n, **fields)
        for attempt in range(self._retry.attempts):
            with self._http.stream("POST", exchange.path, json=exchange.body, headers=STREAM) as response:
                if response.is_success:
                    for line in response.iter_lines():
                        if (item := _streamed(line, response)) is not None:
                            yield item
                    return
                response.read()
                if response.status_code not in RETRIED or attempt == self._retry.attempts - 1:
                    _read(response)
            time.sleep(self._retry.wait(attempt, response))

    def encode(self, images: Sequence[AnyImage] | None = None, **fields: Any) -> Encoded:
        """Return the posteriors of items: images or rows; seed, class_, condition or conditions, inputs, fit, model, version."""
        return self._do(Exchanges.encode(images, **fields))

    def reconstruct(self, images: Sequence[AnyImage] | None = None, **fields: Any) -> Reconstruction:
        """Encode and decode items: images or rows; seed, class_, condition or conditions, target_conditions, inputs, fit, model, version."""
        return self._do(Exchanges.reconstruct(images, **fields))

    def interpolate(self, start: Mapping[str, Any], stop: Mapping[str, Any], **fields: Any) -> Interpolation:
        """Make a path; each end is one of {"image"}, {"row"}, {"latent"}, {"named_latent"}, {"seed"}, {"class"}, {"conditions"};
        steps, method, seed, inputs, model, version.
        """
        return self._do(Exchanges.interpolate(start, stop, **fields))

    def anomaly_score(self, images: Sequence[AnyImage] | None = None, **fields: Any) -> Scores:
        """Score how anomalous items are:
        images or rows; false_positive_rate, budget or costs, block_rate, explain, class_, condition or conditions, inputs, fit, model, version.
        """
        return self._do(Exchanges.anomaly_score(images, **fields))

    def classify(self, images: Sequence[AnyImage] | None = None, **fields: Any) -> Classes:
        """Classify items: images or rows; inputs, fit, model, version."""
        return self._do(Exchanges.classify(images, **fields))

    def impute(self, rows: Sequence[Row] | None = None, **fields: Any) -> Imputed:
        """Fill in rows with values missing (None, or left out), or `images` with `masks` (true, or white, where known; one, or one an image):
        seed, first, class_, condition or conditions, inputs, candidates, temperature, model, version.
        """
        return self._do(Exchanges.impute(rows, **fields))

    def call(self, endpoint: str, **fields: Any) -> dict[str, Any]:
        """Return the answer of any endpoint as its JSON. Fields are the wire's; images may also be paths (pathlib.Path), bytes of files, arrays or pictures."""
        return self._do(Exchanges.call(endpoint, **fields))

    def models(self) -> list[dict[str, Any]]:
        """List the models and their states."""
        return list(self._send("GET", "/models")["models"])

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """Awaits each answer; the same methods as Client."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        timeout: float = 30.0,
        key: str | None = None,
        verify: ssl.SSLContext | bool = True,
        retry: Retry | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Take the same arguments as Client."""
        self._http = httpx.AsyncClient(
            base_url=url, timeout=timeout, transport=transport, verify=verify, headers=_headers(key)
        )
        self._retry = retry or Retry()

    async def _send(self, method: str, path: str, body: Any = None) -> Any:
        for attempt in range(self._retry.attempts):
            last = attempt == self._retry.attempts - 1
            response = None
            try:
                response = await self._http.request(method, path, json=body)
                if last or response.status_code not in RETRIED:
                    return _read(response)
            except LOST as error:
                if last:
                    raise _unreachable(self._http.base_url, error) from error
            except httpx.TransportError as error:
                raise _unreachable(self._http.base_url, error) from error
            await asyncio.sleep(self._retry.wait(attempt, response))
        raise AssertionError("unreachable")

    async def _do(self, exchange: Exchange[R]) -> R:
        return exchange.parse(await self._send("POST", exchange.path, exchange.body))

    async def sample(self, n: int | None = None, **fields: Any) -> Samples:
        """Await what Client.sample returns."""
        return await self._do(Exchanges.sample(n, **fields))

    async def sample_stream(self, n: int, **fields: Any) -> AsyncIterator[Sample]:
        """Yield what Client.sample_stream yields."""
        exchange = Exchanges.sample(n, **fields)
        for attempt in range(self._retry.attempts):
            async with self._http.stream("POST", exchange.path, json=exchange.body, headers=STREAM) as response:
                if response.is_success:
                    async for line in response.aiter_lines():
                        if (item := _streamed(line, response)) is not None:
                            yield item
                    return
                await response.aread()
                if response.status_code not in RETRIED or attempt == self._retry.attempts - 1:
                    _read(response)
            await asyncio.sleep(self._retry.wait(attempt, response))

    async def encode(self, images: Sequence[AnyImage] | None = None, **fields: Any) -> Encoded:
        """Await what Client.encode returns."""
        return await self._do(Exchanges.encode(images, **fields))

    async def reconstruct(self, images: Sequence[AnyImage] | None = None, **fields: Any) -> Reconstruction:
        """Await what Client.reconstruct returns."""
        return await self._do(Exchanges.reconstruct(images, **fields))

    async def interpolate(self, start: Mapping[str, Any], stop: Mapping[str, Any], **fields: Any) -> Interpolation:
        """Await what Client.interpolate returns."""
        return await self._do(Exchanges.interpolate(start, stop, **fields))

    async def anomaly_score(self, images: Sequence[AnyImage] | None = None, **fields: Any) -> Scores:
        """Await what Client.anomaly_score returns."""
        return await self._do(Exchanges.anomaly_score(images, **fields))

    async def classify(self, images: Sequence[AnyImage] | None = None, **fields: Any) -> Classes:
        """Await what Client.classify returns."""
        return await self._do(Exchanges.classify(images, **fields))

    async def impute(self, rows: Sequence[Row] | None = None, **fields: Any) -> Imputed:
        """Await what Client.impute returns."""
        return await self._do(Exchanges.impute(rows, **fields))

    async def call(self, endpoint: str, **fields: Any) -> dict[str, Any]:
        """Return the answer of any endpoint as its JSON. Fields are the wire's; images may also be paths (pathlib.Path), bytes of files, arrays or pictures."""
        return await self._do(Exchanges.call(endpoint, **fields))

    async def models(self) -> list[dict[str, Any]]:
        """Await what Client.models returns."""
        return list((await self._send("GET", "/models"))["models"])

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
