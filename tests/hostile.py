"""Hostile input, drawn by hypothesis: broken and absurd JSON, images, arrays, tables and messages.

tests/test_hostile.py tries a few of each, tests/fuzz.py a hundred thousand.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import grpc
import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf.message import Message
from hypothesis import strategies as st
from PIL import Image

from manifold.service.rpc.servicer import NAME
from manifold.service.stubs import manifold_pb2 as pb

SEEDS = st.integers(0, 2**31)
MODELS = (
    "mnist-vae",
    "mnist-cvae",
    "mnist-vqvae",
    "digits-pixelcnn",
    "digits-classifier",
    "transactions-vae",
    "nslkdd-cvae",
    "foreign",
)
TAKE_IMAGES = {  # endpoints of each model that takes images
    "mnist-vae": ("/encode", "/reconstruct", "/anomaly-score"), "mnist-vqvae": ("/encode", "/reconstruct", "/anomaly-score"),
    "mnist-cvae": ("/anomaly-score", "/classify"), "digits-pixelcnn": ("/anomaly-score", "/classify"), "digits-classifier": ("/classify",),
}  # fmt: skip


# --- damaged bytes ---


@st.composite
def spoilt(draw: st.DrawFn, originals: list[bytes], most: int = 6) -> bytes:
    """Return one of the originals with bytes changed, removed, inserted or repeated, or with the end missing."""
    content = bytearray(draw(st.sampled_from(originals)))
    kinds = st.sampled_from(("set", "cut", "insert", "repeat", "end", "number"))
    change = st.tuples(kinds, st.floats(0, 1), st.binary(min_size=1, max_size=8))
    for what, where, fresh in draw(st.lists(change, max_size=most)):
        at = int(where * len(content))
        if what == "set":
            content[at : at + len(fresh)] = fresh
        elif what == "cut":
            del content[at : at + fresh[0]]
        elif what == "insert":
            content[at:at] = fresh
        elif what == "repeat":
            content[at:at] = content[at : at + fresh[0]] * (1 + fresh[-1] % 8)
        elif what == "end":
            del content[at:]
        else:  # write a length: four bytes in either byte order
            number = draw(st.sampled_from((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 65535, 65536)))
            content[at : at + 4] = struct.pack(draw(st.sampled_from("<>")) + "I", number)
    return bytes(content)


# --- images ---


def picture(kind: str, mode: str = "L", size: tuple[int, int] = (28, 28), **options: Any) -> bytes:
    """Return an image file."""
    buffer = io.BytesIO()
    Image.effect_noise(size, 60).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


PICTURES = [
    *(picture("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")), picture("PNG", "L", (1, 1)), picture("PNG", "RGB", (300, 7)),
    picture("JPEG"), picture("JPEG", "RGB", progressive=True), picture("JPEG", "CMYK"), picture("WEBP", "RGB"), picture("WEBP", "RGBA", lossless=True),
    picture("GIF"), picture("BMP"), picture("TIFF"), b"", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>",
]  # fmt: skip


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@st.composite
def pngs(draw: st.DrawFn) -> bytes:
    """Return PNGs with valid checksums and absurd contents."""
    sizes = st.sampled_from((0, 1, 2, 28, 255, 4096, 65_535, 2**31 - 1, 2**32 - 1))
    bits, colour = draw(st.sampled_from((1, 2, 4, 8, 16, 3))), draw(st.sampled_from((0, 2, 3, 4, 6, 1, 255)))
    head = struct.pack(
        ">IIBBBBB", draw(sizes), draw(sizes), bits, colour, 0, draw(st.integers(0, 1)), draw(st.integers(0, 2))
    )
    kinds = st.sampled_from(
        [
            b"IDAT",
            b"PLTE",
            b"tRNS",
            b"gAMA",
            b"iCCP",
            b"eXIf",
            b"tEXt",
            b"zTXt",
            b"iTXt",
            b"acTL",
            b"fcTL",
            b"fdAT",
            b"IEND",
            b"IHDR",
            b"aaaa",
        ]
    )
    contents = st.one_of(
        st.binary(max_size=64),
        st.builds(lambda unit, n: zlib.compress(unit * n), st.binary(min_size=1, max_size=4), st.integers(0, 5000)),
        st.builds(lambda name, n: name + b"\0\0" + zlib.compress(b"a" * n), st.just(b"name"), st.integers(0, 200_000)),
    )
    parts = draw(st.lists(st.tuples(kinds, contents), max_size=6))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunk(*part) for part in parts)


def images() -> st.SearchStrategy[bytes]:
    """Draw bodies that claim to be an image."""
    return st.one_of(spoilt(PICTURES, 2), pngs())


# --- arrays ---


def npy(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


ARRAYS = [
    *(npy(np.zeros(shape, dtype)) for shape in ((2, 20), (1, 1, 28, 28), (0, 20), (), (1, 7, 7)) for dtype in ("f4", "f8", "i8", "u1", "?", "c8", "U3")),
    npy(np.full((2, 20), np.nan)), npy(np.full((2, 20), np.inf)), npy(np.array([{"a": 1}, None])), npy(np.zeros(3, [("a", "f4")])),
    b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 20), }".ljust(128) + b"\n",
]  # fmt: skip

# --- tables ---


def csv(columns: dict[str, list[Any]]) -> bytes:
    rows = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    return "\n".join(rows).encode() + b"\n"


def parquet(columns: dict[str, list[Any]], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


def tables(row: dict[str, Any]) -> dict[str, list[bytes]]:
    """Return files by kind, with valid and with invalid rows for the model."""
    columns = {name: [value] * 5 for name, value in row.items()}
    odd = [
        {name: ["\u00e9\u0000", '"', "1e999", "-", ""] for name in columns}, {**columns, "more": [1] * 5},
        dict(list(columns.items())[1:]), {name: [None] * 5 for name in columns},
    ]  # fmt: skip
    good = [
        csv(columns),
        *(csv(each) for each in odd),
        csv(columns).replace(b",", b";"),
        csv(columns).decode().encode("utf-16"),
        b"\xef\xbb\xbf" + csv(columns),
    ]
    files = [
        parquet(columns), parquet(columns, compression="gzip"), parquet(columns, compression="zstd", use_dictionary=False), parquet(columns, row_group_size=2),
        *(parquet(each) for each in odd), parquet({name: [[1, 2]] * 5 for name in columns}), parquet({name: [{"a": 1}] * 5 for name in columns}),
    ]  # fmt: skip
    return {"text/csv": good, "application/vnd.apache.parquet": files}


# --- JSON ---

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from((2**31, 2**63 - 1, 2**63, 2**64, -1, 0, 10**400, 1e308, -0.0, 5e-324, float("nan"), float("inf"))),
    st.sampled_from(("\x00", "\ud800", "../../etc/passwd", "null", "9" * 5000, "data:image/png;base64,", "💥", "normal", "random")),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
PLACES = [
    "model",
    "version",
    "seed",
    "first",
    "n",
    "latents",
    "codes",
    "class",
    "condition",
    "prior",
    "temperature",
    "return_latents",
    "encoding",
    "images",
    "rows",
    "fit",
    "from",
    "to",
    "steps",
    "method",
    "false_positive_rate",
    "budget",
    "costs",
    "block_rate",
    "explain",
    "target_class",
    "target_condition",
]


@st.composite
def requests(draw: st.DrawFn, routes: dict[str, list[dict[str, Any]]]) -> tuple[str, bytes]:
    """Return a route and a body: a valid one with fields replaced, added or removed at any depth, or no JSON at all."""
    route = draw(st.sampled_from(sorted(routes)))
    body = json.loads(json.dumps(draw(st.sampled_from(routes[route]))))
    for _ in range(draw(st.integers(0, 3))):
        where, parent = body, None
        while isinstance(where, dict | list) and where and (parent is None or draw(st.booleans())):
            key: Any = (
                draw(st.sampled_from(sorted(where)))
                if isinstance(where, dict)
                else draw(st.integers(0, len(where) - 1))
            )
            parent, where = where, where[key]
        if parent is None or draw(st.integers(0, 9)) == 0:
            body[draw(st.sampled_from(PLACES))] = draw(VALUES)
        else:
            parent[key] = draw(VALUES)
    text = json.dumps(body).encode("utf-8", "surrogatepass")
    how = draw(st.integers(0, 19))
    if how == 0:
        text = draw(spoilt([text]))
    elif how == 1:
        depth = draw(st.sampled_from((50, 2000, 100_000)))
        text = b'{"latents": ' + b"[" * depth + b"]" * depth + b"}"
    return route, text


def good_requests(row: dict[str, Any], other: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return valid requests by route. `row` is a row of transactions-vae, `other` one of nslkdd-cvae."""
    image = base64.b64encode(picture("PNG")).decode()
    pictured: list[dict[str, Any]] = [
        {"images": [image]}, {"images": [image, image], "model": "mnist-cvae", "class": "3"}, {"images": [image], "model": "mnist-vqvae"},
        {"images": [image], "model": "digits-pixelcnn"},
    ]  # fmt: skip
    rowed: list[dict[str, Any]] = [
        {"model": "transactions-vae", "rows": [row, row]},
        {"model": "nslkdd-cvae", "rows": [other], "class": "DoS"},
    ]
    one_path = {"from": {"seed": 1}, "to": {"seed": 2}, "steps": 3}
    costs = {"false_positive": 1, "false_negative": 50, "prevalence": 0.01}
    return {
        "/sample": [
            {"n": 3, "seed": 7},
            {"model": "mnist-cvae", "class": {"1": 0.5, "2": 0.5}, "seed": 1},
            {"model": "mnist-vqvae", "codes": [[[0] * 7] * 7]},
            {"model": "mnist-vae", "latents": [[0.5] * 20], "encoding": "array"},
            {"model": "transactions-vae", "n": 2},
            {"model": "foreign", "n": 2, "temperature": 0.5},
        ],
        "/encode": [*pictured[:3], {**rowed[0], "seed": 1}, rowed[1]],
        "/reconstruct": [*pictured[:3], rowed[0], {**pictured[1], "target_class": "4"}],
        "/interpolate": [
            one_path,
            {"from": {"image": image}, "to": {"latent": [0.1] * 20}},
            {"model": "mnist-cvae", "from": {"class": "1"}, "to": {"class": "2"}, "seed": 4},
            {"model": "transactions-vae", "from": {"row": row}, "to": {"seed": 2}},
        ],
        "/anomaly-score": [
            *pictured,
            {**rowed[0], "explain": True},
            {**rowed[0], "budget": 1},
            {**rowed[0], "costs": costs},
        ],
        "/classify": [
            {"model": "digits-classifier", "images": [image]},
            {"model": "nslkdd-cvae", "rows": [other]},
            {"model": "mnist-cvae", "images": [image]},
        ],
        "/impute": [
            {"model": "transactions-vae", "rows": [{**row, "amount": None}], "seed": 1},
            {"model": "nslkdd-cvae", "rows": [other], "class": "DoS"},
            {"model": "digits-pixelcnn", "images": [image], "masks": [image], "candidates": 2, "seed": 1},
        ],
    }


# --- messages ---


def good_messages(row: dict[str, Any]) -> dict[str, list[Message]]:
    """Return valid messages by rpc."""
    image = picture("PNG")
    values = {
        name: pb.Value(text=value) if isinstance(value, str) else pb.Value(number=value) for name, value in row.items()
    }
    rows = [pb.Row(columns=values)]
    latent = pb.Array(type=pb.Array.FLOAT32, shape=[1, 20], content=np.zeros((1, 20), "<f4").tobytes())
    scored = [pb.ScoreRequest(images=[image]), pb.ScoreRequest(model="transactions-vae", rows=rows, explain=True)]
    return {
        "Sample": [
            pb.SampleRequest(n=2, seed=1),
            pb.SampleRequest(latents=latent),
            pb.SampleRequest(model="mnist-cvae"),
        ],
        "SampleStream": [pb.SampleRequest(n=5, seed=1)],
        "Encode": [pb.EncodeRequest(images=[image]), pb.EncodeRequest(model="transactions-vae", rows=rows)],
        "Reconstruct": [pb.ReconstructRequest(images=[image])],
        "Interpolate": [pb.InterpolateRequest(to=pb.End(seed=1), steps=3, **{"from": pb.End(seed=2)})],
        "AnomalyScore": list(scored),
        "AnomalyScoreFile": [pb.ScoreFileRequest(kind="csv", request=scored[1])],
        "Classify": [pb.ClassifyRequest(model="digits-classifier", images=[image])],
        "Impute": [pb.ImputeRequest(model="transactions-vae", rows=rows)],
        "ListModels": [pb.ListModelsRequest()],
        "GetModel": [pb.GetModelRequest(model="mnist-vae")],
        "GetStats": [pb.GetModelRequest(model="mnist-vae")],
        "GetPreview": [pb.GetModelRequest(model="mnist-vae")],
    }


def messages(row: dict[str, Any]) -> st.SearchStrategy[tuple[str, bytes]]:
    """Draw an rpc and the bytes of a message: a message of this rpc or of another one, intact or damaged."""
    good = {name: [message.SerializeToString() for message in given] for name, given in good_messages(row).items()}
    every = sorted({content for given in good.values() for content in given})
    names = st.sampled_from(sorted(good))
    own = names.flatmap(lambda name: st.tuples(st.just(name), spoilt(good[name], 3)))
    return st.one_of(own, own, st.tuples(names, spoilt(every, 1)), st.tuples(names, st.binary(max_size=40)))


# --- answers ---


class Broken(AssertionError):
    """The service did something that no request may cause."""


def check(answer: httpx.Response, sent: object) -> int:
    """Return the status. Raise Broken if a client cannot have caused it, or if the error has another shape than all errors."""
    if answer.status_code >= 500 and answer.status_code not in (503, 504):
        raise Broken(f"{answer.status_code} for {sent!r}: {answer.text[:300]}")
    if answer.status_code >= 400:
        error = answer.json()["error"]
        if not (error["type"] and error["message"] and error["request_id"]):
            raise Broken(f"an error without {error} for {sent!r}")
        if error["type"] == "internal":
            raise Broken(f"internal, for {sent!r}")
    elif "ndjson" in answer.headers["content-type"] and b'"internal"' in answer.content:
        raise Broken(f"internal, in a stream, for {sent!r}: {answer.text[-300:]}")
    return answer.status_code


REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED,
}  # fmt: skip


def call(channel: grpc.Channel, drawn: tuple[str, bytes], metadata: list[tuple[str, str]]) -> str:
    """Return the code of an rpc that is called with these bytes as its message or messages. Raise Broken as `check` does."""
    name, content = drawn
    method = f"/{NAME}/{name}"
    try:
        if name == "AnomalyScoreFile":
            parts = [content, pb.ScoreFileRequest(chunk=b"amount,hour\n1,2\n").SerializeToString(), content]
            list(channel.stream_stream(method)(iter(parts), timeout=60, metadata=metadata))
        elif name == "SampleStream":
            for _ in zip(range(20), channel.unary_stream(method)(content, timeout=60, metadata=metadata), strict=False):
                pass
        else:
            channel.unary_unary(method)(content, timeout=60, metadata=metadata)
    except grpc.RpcError as error:
        if error.code() not in REFUSALS:
            raise Broken(f"{error.code()} for {drawn!r}: {error.details()}") from None
        return str(error.code().name)
    return "OK"


Send = Callable[..., httpx.Response]


def cases(
    send: Send, row: dict[str, Any], other: dict[str, Any]
) -> dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], int]]]:
    """Return by name a strategy, and a function that sends what it draws. `send` is a client's post."""
    pictured, sheets = ("/encode", "/reconstruct", "/anomaly-score", "/classify"), tables(row)
    asked = st.sampled_from([(route, model) for model, routes in TAKE_IMAGES.items() for route in routes])

    def image(drawn: tuple[tuple[str, str], bytes, int, str]) -> int:
        (route, model), content, how, kind = drawn
        if how == 0:
            return check(send(route, params={"model": model}, content=content, headers={"content-type": kind}), drawn)
        if how == 1:
            return check(
                send(route, params={"model": model}, files=[("file", ("a", content)), ("file", ("b", content))]), drawn
            )
        body = {"model": model, "images": [base64.b64encode(content).decode()]}
        return check(send(route, json=body), drawn)

    def array(drawn: tuple[str, str, bytes]) -> int:
        route, model, content = drawn
        return check(
            send(route, params={"model": model}, content=content, headers={"content-type": "application/x-npy"}), drawn
        )

    def table(drawn: tuple[str, bytes, dict[str, Any]]) -> int:
        kind, content, query = drawn
        return check(
            send(
                "/anomaly-score",
                params={"model": "transactions-vae", **query},
                content=content,
                headers={"content-type": kind},
            ),
            drawn,
        )

    def form(drawn: tuple[str, bytes, bytes]) -> int:
        route, kind, content = drawn
        # keep the characters that a header may contain
        kind = bytes(byte for byte in kind if byte >= 32 and byte != 127).strip()
        return check(send(route, content=content, headers={b"content-type": kind}), drawn)

    def body(drawn: tuple[str, bytes]) -> int:
        return check(send(drawn[0], content=drawn[1], headers={"content-type": "application/json"}), drawn)

    good_form = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\nContent-Type: image/png\r\n\r\n'
        + PICTURES[1]
        + b"\r\n--x--\r\n"
    )
    kinds = st.sampled_from(("image/png", "image/jpeg", "image/webp"))
    return {
        "images": (st.tuples(asked, images(), st.integers(0, 2), kinds), image),
        "arrays": (st.tuples(st.sampled_from(("/sample", *pictured)), st.sampled_from(MODELS), spoilt(ARRAYS, 2)), array),
        "forms": (st.tuples(st.sampled_from(pictured), spoilt([b"multipart/form-data; boundary=x"], 1), spoilt([good_form])), form),
        "tables": (
            st.one_of(*(
                st.tuples(st.just(kind), spoilt(files, 3), st.sampled_from(({}, {"budget": 2}, {"explain": "true"}))) for kind, files in sheets.items()
            )),
            table,
        ),
        "json": (requests(good_requests(row, other)), body),
    }  # fmt: skip
