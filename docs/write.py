"""The writer of the pages that come from the program: the manifest, endpoints, licences of data, and the number of shipped models.

`make docs` runs it, and a test compares its results with the files. `python docs/write.py` writes all of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from manifold.runtime import manifest, shipped

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "models"
COUNT = re.compile(r"(<!-- count of models -->)\d*(<!-- end of count -->)")
DATA = re.compile(r"(--- data of the shipped models, from their manifests ---\n).*?(--- end of data ---)", re.S)
FIRST = ("Manifest", "TaskSpec", "InputSpec", "TensorSpec", "Scoring", "Term")  # the objects that readers need first

Schema = Mapping[str, Any]


def pages() -> dict[Path, str]:
    """Return the text of each page and file that comes from the program."""
    written = {
        ROOT / "docs/reference/manifest.md": manifest_page(manifest.schema()),
        ROOT / "docs/reference/endpoints.md": endpoints_page(json.loads((ROOT / "docs/openapi.json").read_text())),
        ROOT / "NOTICE": notice((ROOT / "NOTICE").read_text()),
    }
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        if page not in written and COUNT.search(text := page.read_text()):
            written[page] = COUNT.sub(rf"\g<1>{len(shipped.versions(MODELS))}\g<2>", text)
    return written


def manifest_page(schema: Schema) -> str:
    """Return the page that lists every field of the manifest, from its JSON schema."""
    objects = {"Manifest": schema, **schema["$defs"]}
    order = [*(name for name in FIRST if name in objects), *sorted(objects.keys() - set(FIRST))]
    parts = [
        "# The manifest",
        "This page is written by `make docs` from the JSON schema of the manifest\n"
        "([manifest.schema.json](../manifest.schema.json), or `manifold schema`). [Artifacts and their rules](artifact.md) explains how the\n"
        "fields work together.",
    ]
    for name in order:
        if fields := _fields(objects[name]):
            parts += [f"## {name}", _text(objects[name]), fields]
    return "\n\n".join(part for part in parts if part) + "\n"


def endpoints_page(document: Schema) -> str:
    """Return the page that lists the fields of every endpoint, from the OpenAPI document."""
    schemas = document["components"]["schemas"]
    parts = [
        "# Endpoints and fields",
        "This page is written by `make docs` from the OpenAPI document ([openapi.json](../openapi.json)).\n"
        "[HTTP](http.md) explains how the fields work.",
    ]
    shown: set[str] = set()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            bodies = operation.get("requestBody", {}).get("content", {})
            answers = operation["responses"]["200"].get("content", {})
            names = {"Request": _json_object(bodies), "Response": _json_object(answers)}
            shown |= {name for name in names.values() if name}
            parts += [f"## {method.upper()} {path}", _sentence(operation.get("summary", ""))]
            parts.append(f"Content types of the body: {', '.join(f'`{each}`' for each in bodies)}." if bodies else "")
            parts.append(
                _table(
                    (each["name"], each["schema"], each.get("description", ""))
                    for each in operation.get("parameters", ())
                )
            )
            parts += [
                f"{title} fields:\n\n{fields}"
                for title, name in names.items()
                if name and (fields := _fields(schemas[name]))
            ]
    parts += ["## Objects", "These objects occur in the fields above."]
    for name in sorted(_nested(shown, schemas)):
        parts += [f"### {name}", _text(schemas[name]), _fields(schemas[name])]
    return "\n\n".join(part for part in parts if part) + "\n"


def notice(text: str) -> str:
    """Return the text of NOTICE with the terms of the data of each shipped model."""
    terms: dict[str, list[str]] = {}
    for name, folder in shipped.latest(MODELS).items():
        stated = manifest.read(folder).license or "not stated"
        terms.setdefault(stated, []).append(name)
    lines = [f"\n{stated}\n  {', '.join(sorted(names))}\n" for stated, names in sorted(terms.items())]
    return DATA.sub(lambda found: f"{found[1]}{''.join(lines)}\n{found[2]}", text)


def _json_object(content: Schema) -> str:
    """Return the name of the object that a JSON body contains; empty if it has none."""
    return str(content.get("application/json", {}).get("schema", {}).get("$ref", "")).rpartition("/")[2]


def _nested(names: set[str], schemas: Schema) -> set[str]:
    """Return the names of all objects with fields that occur within the named ones."""
    found: set[str] = set()
    waiting = set(names)
    while waiting:
        inner = {name for each in waiting for name in _references(schemas[each])}
        waiting = inner - found
        found |= inner
    return {name for name in found if _fields(schemas[name])}


def _references(schema: object) -> Iterator[str]:
    """Yield the names of the objects that a schema refers to."""
    if isinstance(schema, Mapping):
        if "$ref" in schema:
            yield str(schema["$ref"]).rpartition("/")[2]
        for key, value in schema.items():
            if key not in ("examples", "example"):
                yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _fields(schema: Schema) -> str:
    """Return a table of the fields of an object; empty if it has none."""
    needed = schema.get("required", ())
    return _table(
        (name, field, str(field.get("description", "")), name in needed)
        for name, field in schema.get("properties", {}).items()
    )


def _table(rows: Iterator[tuple[Any, ...]]) -> str:
    lines = [
        f"| `{name}` | {_type(schema)} | {'required' if needed and needed[0] else _default(schema)} | {_cell(said)} |"
        for name, schema, said, *needed in rows
    ]
    return "\n".join(["| field | type | default | meaning |", "|---|---|---|---|", *lines]) if lines else ""


def _type(schema: Schema) -> str:
    """Return the type of a field, as a reader of JSON knows it, with its range."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            kinds = [_type(each) for each in schema[key] if each.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(each)}`" for each in schema["enum"])
    kind = {"array": _list, "object": _mapping, "number": _number, "integer": _number}.get(str(schema.get("type")))
    return kind(schema) if kind else {"string": "text", "boolean": "boolean"}.get(str(schema.get("type")), "any JSON")


def _list(schema: Schema) -> str:
    kinds = dict.fromkeys(_type(each) for each in schema.get("prefixItems", [schema.get("items", {})]))
    return f"list of {' and '.join(kinds)}"


def _mapping(schema: Schema) -> str:
    inner = schema.get("additionalProperties")
    return f"object of {_type(inner)} by name" if isinstance(inner, Mapping) and inner else "object"


def _number(schema: Schema) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [
        f"{sign} {schema[key]:g}" if isinstance(schema[key], float) else f"{sign} {schema[key]}"
        for key, sign in signs.items()
        if key in schema
    ]
    return " ".join([str(schema["type"]), ", ".join(bounds)]).strip()


def _default(schema: Schema) -> str:
    if schema.get("default") is None:
        return ""
    return f"`{json.dumps(schema['default'], ensure_ascii=False)}`"


def _text(schema: Schema) -> str:
    """Return the description of an object. Line breaks within a paragraph stay."""
    return _safe(str(schema.get("description", "")).strip())


def _sentence(text: str) -> str:
    return _safe(text if not text or text.endswith(".") else f"{text}.")


def _cell(text: str) -> str:
    return _safe(" ".join(text.split())).replace("|", "\\|")


def _safe(text: str) -> str:
    """Return a text in which Markdown sees no HTML, emphasis or links. Code stays as it is."""
    parts = text.split("`")
    return "`".join(part if place % 2 else re.sub(r"([*_<\[\]])", r"\\\1", part) for place, part in enumerate(parts))


def main() -> None:
    """Write all pages that differ from their files, and print their names."""
    for path, text in pages().items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
