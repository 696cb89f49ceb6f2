"""Conversion of protobuf messages to the fields of the contract and back. Field names are the same (a test compares them), so this module walks over
descriptors. Only the few messages that represent a JSON value have their own rules.
"""

from __future__ import annotations

import base64
import functools
import math
from collections.abc import Callable, Mapping, Sized
from typing import Any

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from numpy.typing import NDArray

from manifold.runtime import kinds, texts
from manifold.runtime.errors import InvalidValue, TooLarge
from manifold.runtime.tables.values import EXACT
from manifold.service.core.reading import Uploads
from manifold.service.rpc.codes import NotInProto
from manifold.service.stubs import manifold_pb2 as pb

Array = NDArray[Any]

DTYPES: dict[int, np.dtype[Any]] = {
    pb.Array.FLOAT32: np.dtype("<f4"),
    pb.Array.INT64: np.dtype("<i8"),
    pb.Array.UINT8: np.dtype("u1"),
}
# the fields of requests and responses that the kinds of data define
OF_KINDS = {
    name
    for kind in kinds.every
    for shape in (kind.wire.request, kind.wire.answer, kind.wire.explanation, kind.wire.neighbour)
    for name in shape.model_fields
}
OF_DTYPE = {"f": pb.Array.FLOAT32, "i": pb.Array.INT64, "u": pb.Array.UINT8, "b": pb.Array.UINT8}

# --- requests -----------------------------------------------------------------------------------------------------------------


def fields_of(message: Message) -> dict[str, Any]:
    """Return the fields that are set, in the form of JSON. Arrays stay arrays."""
    fields: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        kind = descriptor.message_type
        if descriptor.is_repeated:
            _check_size(value, descriptor.name)
        if kind is not None and kind.GetOptions().map_entry:
            fields[descriptor.name] = {
                key: _value(each, f"{descriptor.name}.{key}") if isinstance(each, Message) else each
                for key, each in value.items()
            }
        elif descriptor.is_repeated and kind is not None:
            fields[descriptor.name] = [_value(item, descriptor.name) for item in value]
        elif descriptor.is_repeated:
            fields[descriptor.name] = list(value)
        elif kind is not None:
            fields[descriptor.name] = to_array(value, descriptor.name) if isinstance(value, pb.Array) else _value(value)
        else:
            fields[descriptor.name] = value
    return fields


def _check_size(entries: Sized, field: str) -> None:
    """Raise TooLarge for more entries than JSON may have arrays, objects and keys. An entry needs much more memory than its message."""
    if len(entries) > texts.PARTS:
        raise TooLarge(f"{field}: {len(entries)} entries are over the limit of {texts.PARTS}; send fewer", field=field)


def request(message: Message, work: float = 0) -> tuple[dict[str, Any], Uploads]:
    """Return the fields of a request for the contract, and its files or array, which are not converted."""
    fields = fields_of(message)
    masks = tuple(fields.pop("masks", ()))
    files = tuple(content for name in _files(message.DESCRIPTOR) for content in fields.pop(name, ()))
    given = [name for name in ("array", "latents", "codes") if name in fields]
    array = fields.pop(given[0]) if len(given) == 1 else None
    if array is not None and files:
        raise InvalidValue("array: not allowed together with items; send only one of them", field="array")
    if array is not None and given[0] == "latents" and array.dtype.kind != "f":
        array = array.astype(np.float32)  # integers would be read as codes
    if array is not None and given[0] == "codes" and array.dtype.kind == "f":
        fields["codes"], array = array.tolist(), None
    for end in ("from", "to"):
        if end in fields:
            fields[end] = {name: _in_base64(value) for name, value in fields[end].items()}
    return {name: _plain(value) for name, value in fields.items()}, Uploads(files, array, masks, work)


@functools.cache
def _files(kind: Descriptor) -> list[str]:
    """Return the names of a message's fields with several files, which are the items of a request."""
    fields = kind.fields
    return [field.name for field in fields if field.is_repeated and field.type == FieldDescriptor.TYPE_BYTES]


def _in_base64(value: Any) -> Any:
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else value


def to_array(message: pb.Array, field: str) -> Array:
    """Return the array. Raise InvalidValue if shape and content do not match."""
    dtype, shape = DTYPES.get(message.type), tuple(message.shape)
    if dtype is None or any(size < 0 for size in shape) or len(message.content) != math.prod(shape) * dtype.itemsize:
        raise InvalidValue(
            f"{field}: {len(message.content)} bytes do not match {pb.Array.Type.Name(message.type) if dtype else 'type'} {list(shape)}; "
            "send the content in C order, little-endian",
            field=field,
        )
    array: Array = np.frombuffer(message.content, dtype).reshape(shape)
    return array


def _value(message: Message, field: str = "array") -> Any:
    """Return the JSON value that a message represents. `field` is its name in errors."""
    if isinstance(message, pb.Value):
        return _scalar(message)
    if isinstance(message, pb.Row):
        _check_size(message.columns, "columns")
        return {name: _scalar(value) for name, value in message.columns.items()}
    if isinstance(message, pb.Array):
        return to_array(message, field)
    if isinstance(message, pb.Numbers):
        return list(message.values) if len(message.values) != 1 else message.values[0]
    if isinstance(message, pb.ClassChoice):
        match message.WhichOneof("choice"):
            case "names":
                return list(message.names.names)
            case "weights":
                _check_size(message.weights.weights, "weights")
                return dict(message.weights.weights)
            case _:
                return message.name
    return fields_of(message)


def _scalar(value: pb.Value) -> float | str | bool | None:
    kind = value.WhichOneof("value")
    return None if kind is None else getattr(value, kind)


def _plain(value: Any) -> Any:
    """Return arrays within fields as lists (they are small: conditions and ends), and files within objects as base64."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        return [_in_base64(each) for each in value]
    return {name: _plain(each) for name, each in value.items()} if isinstance(value, dict) else value


# --- responses ----------------------------------------------------------------------------------------------------------------


def fill(message: Message, fields: Mapping[str, Any]) -> None:
    """Set the fields of a message. None stays unset. Raise NotInProto for the field of a kind of data that the message lacks."""
    for name, value in fields.items():
        if value is not None:
            check_field(message, name)
            _set(message, message.DESCRIPTOR.fields_by_name[name], value)


def check_field(message: Message, name: str) -> None:
    """Raise NotInProto if the message lacks a field that a kind of data defines."""
    if name not in message.DESCRIPTOR.fields_by_name and name in OF_KINDS:
        raise NotInProto(name)


def _set(message: Message, descriptor: FieldDescriptor, value: Any) -> None:
    name, kind = descriptor.name, descriptor.message_type
    if kind is None:
        if descriptor.is_repeated:
            getattr(message, name).extend(value.tolist() if isinstance(value, np.ndarray) else value)
        elif descriptor.type == FieldDescriptor.TYPE_BYTES and isinstance(value, str):
            setattr(message, name, base64.b64decode(value))
        else:
            setattr(message, name, value)
    elif kind.GetOptions().map_entry:
        entries, of_messages = getattr(message, name), kind.fields_by_name["value"].message_type is not None
        for key, each in value.items():
            if of_messages:
                _write(entries[key], each)
            else:
                entries[key] = each
    elif descriptor.is_repeated:
        for each in value:
            _write(getattr(message, name).add(), each)
    else:
        _write(getattr(message, name), value)


def _write(message: Message, value: Any) -> None:
    """Write a JSON value into the message that represents it."""
    rule = RULES.get(message.DESCRIPTOR.name)
    if rule is not None:
        rule(message, value)
    else:
        message.SetInParent()
        fill(message, value)


def _write_array(message: pb.Array, value: Any) -> None:
    array = np.asarray(value)
    if array.dtype.kind not in OF_DTYPE:
        raise TypeError(f"an array of {array.dtype} cannot be sent")
    message.type = OF_DTYPE[array.dtype.kind]
    message.shape.extend(array.shape)
    message.content = np.ascontiguousarray(array, DTYPES[message.type]).tobytes()


def _write_value(message: pb.Value, value: Any) -> None:
    if isinstance(value, bool):
        message.boolean = value
    elif isinstance(value, int) and abs(value) > EXACT:  # as a double it would be rounded
        if -(2**63) <= value < 2**63:
            message.integer = value
        else:
            message.text = str(value)
    elif isinstance(value, str):
        message.text = value
    elif value is not None:
        message.number = value


def _write_passed(message: pb.PassedValue, value: Any) -> None:
    if isinstance(value, bool):
        message.boolean = value
    elif isinstance(value, int) and -(2**63) <= value < 2**63:
        message.integer = value
    elif isinstance(value, float):
        message.number = value
    elif value is not None:
        message.text = str(value)


def _write_row(message: pb.Row, value: Mapping[str, Any]) -> None:
    for name, each in value.items():
        _write_value(message.columns[name], each)


def _write_class(message: pb.ClassChoice, value: Any) -> None:
    if isinstance(value, Mapping):
        message.weights.weights.update(value)
    elif isinstance(value, list):
        message.names.names.extend(map(str, value))
    else:
        message.name = value


def _write_imputed(message: pb.ImputedColumns, value: Mapping[str, Mapping[str, float]]) -> None:
    for column, probabilities in value.items():
        message.columns[column].probabilities.update(probabilities)


RULES: dict[str, Callable[[Any, Any], None]] = {
    "Array": _write_array, "Value": _write_value, "PassedValue": _write_passed,
    "Row": _write_row, "ClassChoice": _write_class, "ImputedColumns": _write_imputed,
}  # fmt: skip
