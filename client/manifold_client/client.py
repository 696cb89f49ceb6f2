"""The client that waits for each answer."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping
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


class Client:
    """A client that waits for each answer. Use it in a `with` block, or call `close`."""

    @checked
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
        """Check the address and open no connection yet.

        `timeout` is in seconds. `key` is an API key, by default the environment variable MANIFOLD_KEY. `verify` is an SSL context for a
        certificate that is not publicly trusted. `retry` says how often and when a request is repeated.
        """
        check_options(timeout, verify, retry, transport, httpx.BaseTransport)
        self._http = httpx.Client(
            base_url=checked_url(url), timeout=timeout, transport=transport, verify=verify, headers=headers(key)
        )
        self._retry, self._timeout = retry or Retry(), timeout

    def __repr__(self) -> str:
        return f"<Client: {public(self._http.base_url).rstrip('/')}>"

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        check_open(self._http)
        for attempt in range(self._retry.attempts):
            last = attempt == self._retry.attempts - 1
            response = None
            try:
                response = self._http.request(method, path, json=body)
                if last or response.status_code not in RETRIED:
                    return read(response)
            except LOST as error:
                if last or needs_no_retry(error):
                    raise unreachable(self._http.base_url, error) from error
            except httpx.TransportError as error:
                raise unreachable(self._http.base_url, error, self._timeout) from error
            time.sleep(self._retry.wait(attempt, response))
        raise AssertionError("unreachable")

    def _do(self, exchange: Exchange[R]) -> R:
        return exchange.parse(self._send("POST", exchange.path, exchange.body))

    def _stream(self, exchange: Exchange[Samples]) -> Iterator[Sample]:
        check_open(self._http)
        for attempt in range(self._retry.attempts):
            last = attempt == self._retry.attempts - 1
            response = None
            try:
                with self._http.stream("POST", exchange.path, json=exchange.body, headers=STREAM) as response:
                    if response.is_success:
                        for line in response.iter_lines():
                            if (item := streamed(line, response)) is not None:
                                yield item
                        return
                    response.read()
                    if response.status_code not in RETRIED or last:
                        read(response)
            except LOST as error:
                if last or needs_no_retry(error) or (response is not None and response.is_success):
                    raise unreachable(self._http.base_url, error) from error
            except httpx.TransportError as error:
                raise unreachable(self._http.base_url, error, self._timeout) from error
            time.sleep(self._retry.wait(attempt, response))

    @checked
    def sample(
        self, n: int | None = None, *, seed: int | None = None, first: int | None = None, latents: Numbers | None = None,
        named_latents: Mapping[str, Numbers] | None = None, codes: Numbers | None = None, class_: ClassChoice | None = None,
        condition: Numbers | None = None, conditions: Conditions | None = None, inputs: Inputs | None = None,
        prior: str | None = None, temperature: float | None = None, steps: int | None = None,
        guidance: float | Numbers | None = None, return_latents: bool | None = None,
        encoding: Encoding | None = None, model: str | None = None, version: int | None = None,
    ) -> Samples:  # fmt: skip
        """Make new items.

        n: the number of items; 1 by default, or the number of `latents` or `codes`.
        seed: an item depends only on the seed and its index; by default the service draws a seed, which the result states.
        first: the index of the first item, 0 by default.
        latents: latents to decode, (n, L). named_latents: the same by name, for a model with several latents.
        codes: codes to decode, (n, h, w), for a model with a codebook.
        class_: classes by name or index, one for all items or a list, or weights by name.
        condition: real values, (n, C). conditions: classes, values, texts, images or rows by name.
        inputs: numbers by name, such as guidance, one for all items or one for each.
        prior: the name of the prior from which latents are drawn.
        temperature: the factor of the spread of latents, from 0.01 to 100; 1 by default.
        steps: the number of steps of the sampler, one of those that the model offers.
        guidance: the strength of the class, one number or one for each item; 1 is the model as it was trained.
        return_latents: whether the result holds the latents.
        encoding: png, or array for numbers instead of images.
        model: the name of the model, by default that of the service. version: by default the latest one.
        """
        return self._do(exchanges.sample(locals()))

    @checked
    def sample_stream(
        self, n: int, *, seed: int | None = None, first: int | None = None, latents: Numbers | None = None,
        named_latents: Mapping[str, Numbers] | None = None, codes: Numbers | None = None, class_: ClassChoice | None = None,
        condition: Numbers | None = None, conditions: Conditions | None = None, inputs: Inputs | None = None,
        prior: str | None = None, temperature: float | None = None, steps: int | None = None,
        guidance: float | Numbers | None = None, return_latents: bool | None = None,
        encoding: Encoding | None = None, model: str | None = None, version: int | None = None,
    ) -> Iterator[Sample]:  # fmt: skip
        """Yield new items as they are generated. There may be more of them than one answer can contain. The arguments are those of `sample`.

        The request is not repeated after the first item has arrived.
        """
        return self._stream(exchanges.sample(locals()))

    @checked
    def encode(
        self, images: Images | None = None, *, rows: Rows | None = None, seed: int | None = None, first: int | None = None,
        class_: ClassChoice | None = None, condition: Numbers | None = None, conditions: Conditions | None = None,
        inputs: Inputs | None = None, fit: Fit | None = None, model: str | None = None, version: int | None = None,
    ) -> Encoded:  # fmt: skip
        """Return the posteriors of items, or their codes. With a `seed`, `latents` are draws from the posteriors.

        images: one image, a list of images, or an array. rows: one row, a list of rows, or a data frame. Give one of the two.
        fit: contain (images are resized and padded) or strict (other sizes are refused). `sample` describes the other arguments.
        """
        return self._do(exchanges.encode(locals()))

    @checked
    def reconstruct(
        self, images: Images | None = None, *, rows: Rows | None = None, seed: int | None = None, first: int | None = None,
        class_: ClassChoice | None = None, condition: Numbers | None = None, conditions: Conditions | None = None,
        target_class: ClassChoice | None = None, target_condition: Numbers | None = None,
        target_conditions: Conditions | None = None, inputs: Inputs | None = None, fit: Fit | None = None,
        encoding: Encoding | None = None, model: str | None = None, version: int | None = None,
    ) -> Reconstruction:  # fmt: skip
        """Encode and decode items. If `target_class` or `target_conditions` is given, they are decoded with it and not with their own condition."""
        return self._do(exchanges.reconstruct(locals()))

    @checked
    def interpolate(
        self, start: End | AnyImage, stop: End | AnyImage, *, steps: int | None = None, method: Method | None = None, seed: int | None = None,
        inputs: Inputs | None = None, fit: Fit | None = None, encoding: Encoding | None = None, model: str | None = None,
        version: int | None = None,
    ) -> Interpolation:  # fmt: skip
        """Decode a path of `steps` latents (8 by default) between two ends.

        Each end is an image, or a mapping with one of image, row, latent, named_latent and seed; class, condition or conditions may be
        added.
        """
        return self._do(exchanges.interpolate(locals()))

    @checked
    def anomaly_score(
        self, images: Images | None = None, *, rows: Rows | None = None, false_positive_rate: float | None = None,
        budget: int | None = None, costs: Costs | None = None, block_rate: float | None = None,
        false_discovery_rate: float | None = None, explain: bool | None = None,
        class_: ClassChoice | None = None, condition: Numbers | None = None, conditions: Conditions | None = None,
        inputs: Inputs | None = None, fit: Fit | None = None, model: str | None = None, version: int | None = None,
    ) -> Scores:  # fmt: skip
        """Score how anomalous items are, and decide which ones to flag.

        One of `false_positive_rate` (0.01 by default), `budget` (the n most anomalous items of the request), `costs` and
        `false_discovery_rate` (the expected share of normal items among the flagged ones) sets the threshold.
        block_rate: the false positive rate of the band `block`, by default a tenth of that for review.
        explain: whether the result says which columns or pixels are anomalous. `encode` describes the other arguments.
        """
        return self._do(exchanges.anomaly_score(locals()))

    @checked
    def classify(
        self, images: Images | None = None, *, rows: Rows | None = None, inputs: Inputs | None = None, fit: Fit | None = None,
        model: str | None = None, version: int | None = None,
    ) -> Classes:  # fmt: skip
        """Return the probability of each class for items."""
        return self._do(exchanges.classify(locals()))

    @checked
    def impute(
        self, rows: Rows | Images | None = None, *, images: Images | None = None, masks: Images | None = None, seed: int | None = None,
        first: int | None = None, class_: ClassChoice | None = None, condition: Numbers | None = None,
        conditions: Conditions | None = None, candidates: int | None = None, temperature: float | None = None,
        steps: int | None = None, guidance: float | Numbers | None = None,
        inputs: Inputs | None = None, fit: Fit | None = None, encoding: Encoding | None = None, model: str | None = None,
        version: int | None = None,
    ) -> Imputed:  # fmt: skip
        """Fill in the missing values of rows (None, NaN, or absent), or the unknown pixels of images.

        A mask is white, or true, where its image is known: one for all images, or one for each. With masks, the first argument may be images.
        candidates: how many images are drawn for each one, from 1 to 64. `sample` and `encode` describe the other arguments.
        """
        return self._do(exchanges.impute(locals()))

    def call(self, endpoint: str, **fields: Any) -> dict[str, Any]:
        """Call any endpoint, even one for which this client has no method. Return its JSON.

        Fields are those of the wire; images may also be paths (pathlib.Path), bytes of files, arrays or PIL images.
        """
        return self._do(exchanges.call(endpoint, fields))

    def models(self) -> list[dict[str, Any]]:
        """Return the models and their states."""
        return list((self._send("GET", "/models"))["models"])

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
