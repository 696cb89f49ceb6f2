"""The client for asyncio. Its methods are those of `Client`, to be awaited."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, TypeVar

import httpx

from manifold_client import exchanges
from manifold_client.exchanges import Exchange
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
from manifold_client.signatures import checked
from manifold_client.transport import LOST, RETRIED, STREAM, Retry, check_open, check_options, headers, read, streamed
from manifold_client.types import (
    AnyImage,
    ClassChoice,
    Conditions,
    Costs,
    Encoding,
    End,
    Fit,
    Images,
    Inputs,
    Method,
    Numbers,
    Rows,
)
from manifold_client.urls import checked_url, needs_no_retry, public, unreachable

R = TypeVar("R")


class AsyncClient:
    """A client for asyncio, with the methods of Client."""

    @checked
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
        """Take the arguments of Client."""
        check_options(timeout, verify, retry, transport, httpx.AsyncBaseTransport)
        self._http = httpx.AsyncClient(
            base_url=checked_url(url), timeout=timeout, transport=transport, verify=verify, headers=headers(key)
        )
        self._retry, self._timeout = retry or Retry(), timeout

    def __repr__(self) -> str:
        return f"<AsyncClient: {public(self._http.base_url).rstrip('/')}>"

    async def _send(self, method: str, path: str, body: Any = None) -> Any:
        check_open(self._http)
        for attempt in range(self._retry.attempts):
            last = attempt == self._retry.attempts - 1
            response = None
            try:
                response = await self._http.request(method, path, json=body)
                if last or response.status_code not in RETRIED:
                    return read(response)
            except LOST as error:
                if last or needs_no_retry(error):
                    raise unreachable(self._http.base_url, error) from error
            except httpx.TransportError as error:
                raise unreachable(self._http.base_url, error, self._timeout) from error
            await asyncio.sleep(self._retry.wait(attempt, response))
        raise AssertionError("unreachable")

    async def _do(self, exchange: Exchange[R]) -> R:
        return exchange.parse(await self._send("POST", exchange.path, exchange.body))

    async def _stream(self, exchange: Exchange[Samples]) -> AsyncIterator[Sample]:
        check_open(self._http)
        for attempt in range(self._retry.attempts):
            last = attempt == self._retry.attempts - 1
            response = None
            try:
                async with self._http.stream("POST", exchange.path, json=exchange.body, headers=STREAM) as response:
                    if response.is_success:
                        async for line in response.aiter_lines():
                            if (item := streamed(line, response)) is not None:
                                yield item
                        return
                    await response.aread()
                    if response.status_code not in RETRIED or last:
                        read(response)
            except LOST as error:
                if last or needs_no_retry(error) or (response is not None and response.is_success):
                    raise unreachable(self._http.base_url, error) from error
            except httpx.TransportError as error:
                raise unreachable(self._http.base_url, error, self._timeout) from error
            await asyncio.sleep(self._retry.wait(attempt, response))

    @checked
    async def sample(
        self, n: int | None = None, *, seed: int | None = None, first: int | None = None, latents: Numbers | None = None,
        named_latents: Mapping[str, Numbers] | None = None, codes: Numbers | None = None, class_: ClassChoice | None = None,
        condition: Numbers | None = None, conditions: Conditions | None = None, inputs: Inputs | None = None,
        prior: str | None = None, temperature: float | None = None, steps: int | None = None,
        guidance: float | Numbers | None = None, return_latents: bool | None = None,
        encoding: Encoding | None = None, model: str | None = None, version: int | None = None,
    ) -> Samples:  # fmt: skip
        """Await the result of Client.sample, which describes the arguments."""
        return await self._do(exchanges.sample(locals()))

    @checked
    def sample_stream(
        self, n: int, *, seed: int | None = None, first: int | None = None, latents: Numbers | None = None,
        named_latents: Mapping[str, Numbers] | None = None, codes: Numbers | None = None, class_: ClassChoice | None = None,
        condition: Numbers | None = None, conditions: Conditions | None = None, inputs: Inputs | None = None,
        prior: str | None = None, temperature: float | None = None, steps: int | None = None,
        guidance: float | Numbers | None = None, return_latents: bool | None = None,
        encoding: Encoding | None = None, model: str | None = None, version: int | None = None,
    ) -> AsyncIterator[Sample]:  # fmt: skip
        """Yield the items of Client.sample_stream, which describes the arguments."""
        return self._stream(exchanges.sample(locals()))

    @checked
    async def encode(
        self, images: Images | None = None, *, rows: Rows | None = None, seed: int | None = None, first: int | None = None,
        class_: ClassChoice | None = None, condition: Numbers | None = None, conditions: Conditions | None = None,
        inputs: Inputs | None = None, fit: Fit | None = None, model: str | None = None, version: int | None = None,
    ) -> Encoded:  # fmt: skip
        """Await the result of Client.encode, which describes the arguments."""
        return await self._do(exchanges.encode(locals()))

    @checked
    async def reconstruct(
        self, images: Images | None = None, *, rows: Rows | None = None, seed: int | None = None, first: int | None = None,
        class_: ClassChoice | None = None, condition: Numbers | None = None, conditions: Conditions | None = None,
        target_class: ClassChoice | None = None, target_condition: Numbers | None = None,
        target_conditions: Conditions | None = None, inputs: Inputs | None = None, fit: Fit | None = None,
        encoding: Encoding | None = None, model: str | None = None, version: int | None = None,
    ) -> Reconstruction:  # fmt: skip
        """Await the result of Client.reconstruct, which describes the arguments."""
        return await self._do(exchanges.reconstruct(locals()))

    @checked
    async def interpolate(
        self, start: End | AnyImage, stop: End | AnyImage, *, steps: int | None = None, method: Method | None = None, seed: int | None = None,
        inputs: Inputs | None = None, fit: Fit | None = None, encoding: Encoding | None = None, model: str | None = None,
        version: int | None = None,
    ) -> Interpolation:  # fmt: skip
        """Await the result of Client.interpolate, which describes the arguments."""
        return await self._do(exchanges.interpolate(locals()))

    @checked
    async def anomaly_score(
        self, images: Images | None = None, *, rows: Rows | None = None, false_positive_rate: float | None = None,
        budget: int | None = None, costs: Costs | None = None, block_rate: float | None = None,
        false_discovery_rate: float | None = None, explain: bool | None = None,
        class_: ClassChoice | None = None, condition: Numbers | None = None, conditions: Conditions | None = None,
        inputs: Inputs | None = None, fit: Fit | None = None, model: str | None = None, version: int | None = None,
    ) -> Scores:  # fmt: skip
        """Await the result of Client.anomaly_score, which describes the arguments."""
        return await self._do(exchanges.anomaly_score(locals()))

    @checked
    async def classify(
        self, images: Images | None = None, *, rows: Rows | None = None, inputs: Inputs | None = None, fit: Fit | None = None,
        model: str | None = None, version: int | None = None,
    ) -> Classes:  # fmt: skip
        """Await the result of Client.classify, which describes the arguments."""
        return await self._do(exchanges.classify(locals()))

    @checked
    async def impute(
        self, rows: Rows | Images | None = None, *, images: Images | None = None, masks: Images | None = None, seed: int | None = None,
        first: int | None = None, class_: ClassChoice | None = None, condition: Numbers | None = None,
        conditions: Conditions | None = None, candidates: int | None = None, temperature: float | None = None,
        steps: int | None = None, guidance: float | Numbers | None = None,
        inputs: Inputs | None = None, fit: Fit | None = None, encoding: Encoding | None = None, model: str | None = None,
        version: int | None = None,
    ) -> Imputed:  # fmt: skip
        """Await the result of Client.impute, which describes the arguments."""
        return await self._do(exchanges.impute(locals()))

    async def call(self, endpoint: str, **fields: Any) -> dict[str, Any]:
        """Call any endpoint, even one for which this client has no method. Return its JSON.

        Fields are those of the wire; images may also be paths (pathlib.Path), bytes of files, arrays or PIL images.
        """
        return await self._do(exchanges.call(endpoint, fields))

    async def models(self) -> list[dict[str, Any]]:
        """Return the models and their states."""
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
