"""The shapes of request smuggling: requests whose end two parsers may see at different places, with the expected answers.

A shape is the bytes that a client sends on one connection. Most of them hide a second request, GET /smuggled, which must never be answered. A valid
shape ends with a last request, GET /health/live, which closes the connection: a test reads answers until the end and never waits for silence.
"""

from __future__ import annotations

from dataclasses import dataclass

BODY = b'{"seed":1,"encoding":"array"}'
LAST = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
METRICS = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\n"
WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

Answers = tuple[int, ...]
BAD: Answers = (400,)
LIVE: Answers = (200,)
TWO: Answers = (200, 200)


@dataclass(frozen=True)
class Shape:
    """The bytes of one connection, and the statuses of the answers."""

    name: str
    sent: bytes
    answers: Answers = BAD


def chunks(body: bytes) -> bytes:
    """Return the body as one chunk, with the last chunk."""
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def post(*lines: bytes, version: bytes = b"1.1", host: bytes = b"Host: localhost\r\n") -> bytes:
    """Return the head of a request with a body. The given lines include their line ends."""
    return b"POST /sample HTTP/" + version + b"\r\n" + host + b"".join(lines) + b"\r\n"


def get(
    *lines: bytes, target: bytes = b"/health/live", method: bytes = b"GET", host: bytes = b"Host: localhost\r\n"
) -> bytes:
    """Return the head of a request without a body."""
    return method + b" " + target + b" HTTP/1.1\r\n" + host + b"".join(lines) + b"\r\n"


def sized(size: bytes) -> bytes:
    """Return a request whose Content-Length is written like this, followed by a hidden request."""
    return post(b"Content-Length:" + size + b"\r\n") + BODY + HIDDEN


def coded(*lines: bytes) -> bytes:
    """Return a request with two readings. With these lines read as chunked, it ends at once; by its length, it has a body."""
    return post(b"Content-Length: %d\r\n" % (5 + len(HIDDEN)), *lines) + b"0\r\n\r\n" + HIDDEN


def alone(*lines: bytes) -> bytes:
    """Return a request with two readings: with a chunked body if such lines are read as chunked, and without a body otherwise."""
    return post(*lines) + chunks(HIDDEN) + HIDDEN


def chunk(text: bytes) -> bytes:
    """Return a request with a chunked body that begins with these bytes."""
    return post(CHUNKED) + text + b"0\r\n\r\n" + HIDDEN


SIZED = [
    Shape(f"length {name}", sized(size))
    for name, size in {
        "list, equal": b" 29, 29", "list, different": b" 29, 71", "with +": b" +29", "-1": b" -1", "hexadecimal": b" 0x1d",
        "with an underscore": b" 2_9", "with a space inside": b" 2 9", "with a point": b" 29.0", "empty": b" ", "of a letter": b" a",
        "of other digits": " ٢٩".encode(), "huge": b" 99999999999999999999999999", "2**64 + 29": b" 18446744073709551645",
        "with NUL": b" 29\0", "with a vertical tab": b" \x0b29", "quoted": b' "29"', "with a parameter": b" 29;a=b",
    }.items()
]  # fmt: skip
CODED = [
    Shape(f"CL.TE, {name}", coded(line))
    for name, line in {
        "chunked": CHUNKED, "xchunked": b"Transfer-Encoding: xchunked\r\n", "two spaces": b"Transfer-Encoding:  chunked\r\n",
        "a space before the colon": b"Transfer-Encoding : chunked\r\n", "a tab before the colon": b"Transfer-Encoding\t: chunked\r\n",
        "a tab": b"Transfer-Encoding:\tchunked\r\n", "a vertical tab": b"Transfer-Encoding:\x0bchunked\r\n",
        "a form feed": b"Transfer-Encoding: \x0cchunked\r\n", "a vertical tab behind": b"Transfer-Encoding: chunked\x0b\r\n",
        "NUL": b"Transfer-Encoding: chunked\0\r\n", "quoted": b'Transfer-Encoding: "chunked"\r\n', "capitals": b"TRANSFER-ENCODING: CHUNKED\r\n",
        "chunked, identity": b"Transfer-Encoding: chunked, identity\r\n", "identity, chunked": b"Transfer-Encoding: identity, chunked\r\n",
        "chunked, chunked": b"Transfer-Encoding: chunked, chunked\r\n", "gzip, chunked": b"Transfer-Encoding: gzip, chunked\r\n",
        "a comma before": b"Transfer-Encoding: ,chunked\r\n", "a comma behind": b"Transfer-Encoding: chunked,\r\n",
        "a parameter": b"Transfer-Encoding: chunked;a=b\r\n", "empty": b"Transfer-Encoding:\r\n", "identity": b"Transfer-Encoding: identity\r\n",
        "two lines": CHUNKED + CHUNKED, "two lines, the first odd": b"Transfer-Encoding: x\r\n" + CHUNKED,
        "two lines, the last odd": CHUNKED + b"Transfer-Encoding: x\r\n", "folded": b"Transfer-Encoding:\r\n chunked\r\n",
        "folded behind another": b"X-A: b\r\n Transfer-Encoding: chunked\r\n", "a line of LF": b"X-A: b\nTransfer-Encoding: chunked\r\n",
        "a line of CR": b"X-A: b\rTransfer-Encoding: chunked\r\n", "LF at its end": b"Transfer-Encoding: chunked\n",
        "a space before the name": b" Transfer-Encoding: chunked\r\n", "no colon": b"Transfer-Encoding chunked\r\n",
        "NUL in the name": b"Transfer\0-Encoding: chunked\r\n", "a space in the name": b"Transfer Encoding: chunked\r\n",
        "an empty name": b": chunked\r\n",
    }.items()
]  # fmt: skip
ALONE = [
    Shape(f"TE, {name}", alone(line))
    for name, line in {
        "xchunked": b"Transfer-Encoding: xchunked\r\n", "chunked, identity": b"Transfer-Encoding: chunked, identity\r\n",
        "identity, chunked": b"Transfer-Encoding: identity, chunked\r\n", "gzip, chunked": b"Transfer-Encoding: gzip, chunked\r\n",
        "chunked, chunked": b"Transfer-Encoding: chunked, chunked\r\n", "two lines": CHUNKED + CHUNKED, "identity": b"Transfer-Encoding: identity\r\n",
        "empty": b"Transfer-Encoding:\r\n", "a vertical tab": b"Transfer-Encoding:\x0bchunked\r\n",
        "two lines, the first odd": b"Transfer-Encoding: gzip\r\n" + CHUNKED,
    }.items()
]  # fmt: skip
CHUNKINGS = [
    Shape(f"chunk {name}", chunk(text))
    for name, text in {
        "of a negative size": b"-1\r\n", "of a size with 0x": b"0x5\r\nabcde\r\n", "of a size over 64 bits": b"10000000000000005\r\nabcde\r\n",
        "of a size with a space before": b" 5\r\nabcde\r\n",
        "of a size with a space behind": b"5 \r\nabcde\r\n", "of a size with a tab behind": b"5\t\r\nabcde\r\n",
        "of a size with +": b"+5\r\nabcde\r\n", "of no size": b"\r\nabcde\r\n",
        "size that ends with LF": b"5\nabcde\r\n", "size that ends with CR": b"5\rabcde\r\n", "without an end": b"5\r\nabcde",
        "that ends with LF": b"5\r\nabcde\n", "longer than its size": b"5\r\nabcdefg\r\n", "extension with LF": b"5;a\nb\r\nabcde\r\n",
        "extension with CR": b"5;a\rb\r\nabcde\r\n", "extension with NUL": b"5;\0\r\nabcde\r\n", "size of other digits": "٥\r\nabcde\r\n".encode(),
    }.items()
]  # fmt: skip
HEADS = [
    Shape(name, sent + HIDDEN)
    for name, sent in {
        "lines of LF alone": get().replace(b"\r\n", b"\n"), "a head of CR alone": get().replace(b"\r\n", b"\r"),
        "a last line of LF": get()[:-2] + b"\n", "a request line of LF": get().replace(b"\r\n", b"\n", 1), "a folded value": get(b"X-A: b\r\n c\r\n"),
        "a folded value, by tab": get(b"X-A: b\r\n\tc\r\n"), "a folded first line": get(host=b" X-A: b\r\nHost: localhost\r\n"),
        "NUL in a value": get(b"X-A: b\0c\r\n"), "CR in a value": get(b"X-A: b\rc\r\n"), "a space in a name": get(b"X A: b\r\n"),
        "a space before a colon": get(b"X-A : b\r\n"), "an odd byte in a name": get(b"X-\xe9: b\r\n"), "a line without a colon": get(b"X-A\r\n"),
        "an empty name": get(b": b\r\n"), "two Hosts, different": get(b"Host: elsewhere\r\n"), "two Hosts, equal": get(b"Host: localhost\r\n"),
        "no Host": get(host=b""), "an empty Host": get(host=b"Host:\r\n"), "a Host with a user": get(host=b"Host: a@localhost\r\n"),
        "a Host with a path": get(host=b"Host: localhost/a\r\n"), "a Host with a space": get(host=b"Host: local host\r\n"),
        "a Host list": get(host=b"Host: localhost, elsewhere\r\n"), "a Host with an odd byte": get(host=b"Host: local\xe9host\r\n"),
        "a Host with a port of letters": get(host=b"Host: localhost:a\r\n"), "a Host with a control": get(host=b"Host: local\x01host\r\n"),
        "a Host with a brace": get(host=b"Host: {localhost}\r\n"),
        "a target with another Host": get(target=b"http://elsewhere/health/live"), "a target of another scheme": get(target=b"ftp://localhost/health/live"),
        "a target with a user": get(target=b"http://a@localhost/health/live"), "a target with a space": get(target=b"/health/ live"),
        "a target of no kind": get(target=b"health/live"), "an empty target": b"GET  HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "a target with NUL": get(target=b"/health\0/live"), "a target with an odd byte": get(target=b"/health/\xe9"),
        "a target with a tab": get(target=b"/health\t/live"), "a target with a fragment": get(target=b"/health/live#a"),
        "a small method": get(method=b"get"), "a method with a digit": get(method=b"G3T"), "a method with a colon": get(method=b"GET:"),
        "an unknown method": get(method=b"GETS"), "no method": b" /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "HTTP/0.9": b"GET /health/live\r\n\r\n", "HTTP/0.9 by number": get().replace(b"/1.1", b"/0.9"),
        "HTTP/1.2": get().replace(b"/1.1", b"/1.2"),
        "HTTP/2.0 by number": get().replace(b"/1.1", b"/2.0"), "HTTP/1.1x": get().replace(b"/1.1", b"/1.1x"),
        "http in small letters": get().replace(b"HTTP", b"http"),
        "HTTP/11": get().replace(b"/1.1", b"/11"), "a space behind the version": get().replace(b"/1.1", b"/1.1 "),
        "a tab before the version": get().replace(b" HTTP", b"\tHTTP"),
        "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", "TLS": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\0" * 80,
        "CONNECT": get(method=b"CONNECT", target=b"localhost:80"), "CONNECT with a body": get(LENGTH, method=b"CONNECT", target=b"localhost:80") + BODY,
        "HTTP/1.0, chunked": post(CHUNKED, version=b"1.0") + chunks(BODY),
        "HTTP/1.0, kept alive, chunked": post(CHUNKED, b"Connection: keep-alive\r\n", version=b"1.0") + chunks(BODY),
        "HTTP/1.0, two Hosts": get(b"Host: elsewhere\r\n").replace(b"/1.1", b"/1.0"),
    }.items()
]  # fmt: skip
LENGTHS = [
    Shape("two lengths, equal", post(LENGTH, LENGTH) + BODY + HIDDEN),
    Shape("two lengths, different", post(LENGTH, b"Content-Length: 70\r\n") + BODY + HIDDEN),
    Shape("two lengths, the first 0", post(b"Content-Length: 0\r\n", b"Content-Length: %d\r\n" % len(HIDDEN)) + HIDDEN),
    Shape("TE.CL", post(CHUNKED, b"Content-Length: 4\r\n") + chunks(HIDDEN) + HIDDEN),
    Shape("TE.CL, length 0", post(CHUNKED, b"Content-Length: 0\r\n") + chunks(BODY) + HIDDEN),
    Shape("length with a space before the colon", post(b"Content-Length : 29\r\n") + BODY + HIDDEN),
    Shape("length folded", post(b"Content-Length:\r\n 29\r\n") + BODY + HIDDEN),
    Shape("GET, CL.TE", get(CHUNKED, b"Content-Length: %d\r\n" % (5 + len(HIDDEN))) + b"0\r\n\r\n" + HIDDEN),
    Shape("a length in the trailers", post(CHUNKED) + chunks(BODY)[:-2] + b"Content-Length: 5\r\n\r\n" + HIDDEN),
    Shape(
        "a coding in the trailers", post(CHUNKED) + chunks(BODY)[:-2] + b"Transfer-Encoding: chunked\r\n\r\n" + HIDDEN
    ),
    Shape("trailers folded", post(CHUNKED) + chunks(BODY)[:-2] + b"X-A: b\r\n c\r\n\r\n" + HIDDEN),
    Shape("no empty line behind the last chunk", post(CHUNKED) + chunks(BODY)[:-2] + HIDDEN),
    Shape("LF behind the last chunk", post(CHUNKED) + chunks(BODY)[:-2] + b"\n" + HIDDEN),
    Shape("chunked with a space and a tab behind", post(b"Transfer-Encoding: chunked \t\r\n") + chunks(BODY) + HIDDEN),
    Shape(
        "CL.TE, upgrade", post(UPGRADE, b"Content-Length: %d\r\n" % (5 + len(HIDDEN)), CHUNKED) + b"0\r\n\r\n" + HIDDEN
    ),
    Shape("two lengths, upgrade", post(UPGRADE, LENGTH, LENGTH) + BODY + HIDDEN),
    Shape("TE, identity, upgrade", post(UPGRADE, b"Transfer-Encoding: identity\r\n") + chunks(HIDDEN) + HIDDEN),
]
LEGAL = [
    Shape("a body that is a request", post(b"Content-Length: %d\r\n" % len(HIDDEN)) + HIDDEN + LAST, (400, 200)),
    Shape("a chunked body that is a request", post(CHUNKED) + chunks(HIDDEN) + LAST, (400, 200)),
    Shape(
        "a body nobody reads that is a request",
        post(b"Content-Length: %d\r\n" % len(HIDDEN)).replace(b"/sample", b"/nothing") + HIDDEN + LAST,
        (404, 200),
    ),
    Shape("upgrade to h2c, with a length", post(UPGRADE, LENGTH) + BODY + LAST, TWO),
    Shape("upgrade to h2c, chunked", post(UPGRADE, CHUNKED) + chunks(BODY) + LAST, TWO),
    Shape(
        "upgrade to h2c, a body that is GET /metrics",
        post(UPGRADE, b"Content-Length: %d\r\n" % len(METRICS)) + METRICS + LAST,
        (400, 200),
    ),
    Shape("upgrade to h2c, a chunked GET /metrics", post(UPGRADE, CHUNKED) + chunks(METRICS) + LAST, (400, 200)),
    Shape("upgrade to h2c, no body", get(UPGRADE) + LAST, TWO),
    Shape(
        "upgrade to h2c, GET with a body that is a request",
        get(UPGRADE, b"Content-Length: %d\r\n" % len(HIDDEN)) + HIDDEN + LAST,
        TWO,
    ),
    Shape("upgrade to h2c, twice", (post(UPGRADE, LENGTH) + BODY) * 2 + LAST, (200, 200, 200)),
    Shape("upgrade to TLS", post(b"Connection: upgrade\r\nUpgrade: TLS/1.0\r\n", LENGTH) + BODY + LAST, TWO),
    Shape("upgrade to a websocket", get(WEBSOCKET) + LAST, TWO),
    Shape(
        "upgrade to a websocket, with a body",
        post(b"Connection: Upgrade\r\nUpgrade: websocket\r\n", LENGTH) + BODY + LAST,
        TWO,
    ),
    Shape("upgrade on HTTP/1.0", post(UPGRADE, LENGTH, version=b"1.0") + BODY + HIDDEN, LIVE),
    Shape("upgrade and close", post(b"Connection: Upgrade, close\r\nUpgrade: h2c\r\n", LENGTH) + BODY + HIDDEN, LIVE),
    Shape("upgrade without Connection", post(b"Upgrade: h2c\r\n", LENGTH) + BODY + LAST, TWO),
    Shape("upgrade and Expect", post(UPGRADE, b"Expect: 100-continue\r\n", LENGTH) + BODY + LAST, (100, 200, 200)),
    Shape("Expect, the body at once", post(b"Expect: 100-continue\r\n", LENGTH) + BODY + LAST, (100, 200, 200)),
    Shape(
        "Expect, a body that is a request, nobody reads it",
        post(b"Expect: 100-continue\r\n", b"Content-Length: %d\r\n" % len(HIDDEN)).replace(b"/sample", b"/nothing")
        + HIDDEN,
        (404,),
    ),
    Shape("Expect on HTTP/1.0", post(b"Expect: 100-continue\r\n", LENGTH, version=b"1.0") + BODY + HIDDEN, LIVE),
    Shape("GET with a body that is a request", get(b"Content-Length: %d\r\n" % len(HIDDEN)) + HIDDEN + LAST, TWO),
    Shape("GET with a chunked body that is a request", get(CHUNKED) + chunks(HIDDEN) + LAST, TWO),
    Shape(
        "HEAD with a body that is a request",
        get(b"Content-Length: %d\r\n" % len(HIDDEN), method=b"HEAD") + HIDDEN + LAST,
        TWO,
    ),
    Shape("TRACE", get(method=b"TRACE") + LAST, (405, 200)),
    Shape("OPTIONS of all", get(method=b"OPTIONS", target=b"*") + LAST, (404, 200)),
    Shape("length with zeros before", post(b"Content-Length: 000029\r\n") + BODY + LAST, TWO),
    Shape("length with spaces around", post(b"Content-Length: \t 29 \t \r\n") + BODY + LAST, TWO),
    Shape("chunked in capitals", post(b"Transfer-Encoding: CHUNKED\r\n") + chunks(BODY) + LAST, TWO),
    Shape("chunked with spaces before", post(b"Transfer-Encoding: \t chunked\r\n") + chunks(BODY) + LAST, TWO),
    Shape("two spaces before the version", get().replace(b" HTTP", b"  HTTP") + LAST, TWO),
    Shape(
        "Connection names Content-Length",
        post(b"Connection: keep-alive, Content-Length\r\n", LENGTH) + BODY + LAST,
        TWO,
    ),
    Shape(
        "Connection names Transfer-Encoding",
        post(b"Connection: keep-alive, Transfer-Encoding\r\n", CHUNKED) + chunks(BODY) + LAST,
        TWO,
    ),
    Shape("Content_Length", get(b"Content_Length: %d\r\n" % len(HIDDEN)) + LAST, TWO),
    Shape(
        "TRACE with a body that is a request",
        get(b"Content-Length: %d\r\n" % len(HIDDEN), method=b"TRACE") + HIDDEN + LAST,
        (405, 200),
    ),
    Shape("a chunk's size with zeros before", post(CHUNKED) + b"00000" + chunks(BODY) + LAST, TWO),
    Shape("a chunk's extension", post(CHUNKED) + chunks(BODY).replace(b"\r\n", b';a="b"\r\n', 1) + LAST, TWO),
    Shape("trailers", post(CHUNKED) + chunks(BODY)[:-2] + b"X-A: b\r\n\r\n" + LAST, TWO),
    Shape(
        "trailers that look like headers",
        post(CHUNKED) + chunks(BODY)[:-2] + b"Host: elsewhere\r\nContent-Type: text/plain\r\n\r\n" + LAST,
        TWO,
    ),
    Shape("a target with its Host", get(target=b"http://localhost/health/live") + LAST, TWO),
    Shape("HTTP/1.0", get().replace(b"/1.1", b"/1.0") + HIDDEN, LIVE),
    Shape("HTTP/1.0 without Host", b"GET /health/live HTTP/1.0\r\n\r\n" + HIDDEN, LIVE),
    Shape("pipelined", post(LENGTH) + BODY + get() + post(CHUNKED) + chunks(BODY) + LAST, (200, 200, 200, 200)),
    Shape("empty lines before a request", b"\r\n\r\n" + get() + b"\r\n" + LAST, TWO),
    Shape("what follows a close", get(b"Connection: close\r\n") + HIDDEN, LIVE),
    Shape("what is bad behind what is good", get() + post(LENGTH, LENGTH) + BODY + HIDDEN, (200, 400)),
    Shape("what is no request behind what is good", get() + b"nonsense\r\n\r\n" + HIDDEN, (200, 400)),
]
SHAPES = (*LENGTHS, *SIZED, *CODED, *ALONE, *CHUNKINGS, *HEADS, *LEGAL)
