"""The conversion of conditions into model inputs: classes, values, texts, items such as images, or several of these.

Each kind of condition has its own type. `tagged` converts the short forms that requests and the library use for classes and values. The `field`
of a condition is its path in the request, for errors; it is None if the condition does not come from a request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import codecs, sampling, texts
from manifold.runtime.errors import InvalidValue, near, shown
from manifold.runtime.manifest import InputSpec, Manifest, TaskSpec
from manifold.runtime.manifest.conditions import NO_CLASS, Classes, Item, Text, Values
from manifold.runtime.problems import word

Array = NDArray[Any]
Float32 = NDArray[np.float32]

RANDOM = "random"
MOST_WEIGHT = 1 + 1e-5  # largest sum of the weights of an optional class: 1, with room for rounding
ONLY = "condition"  # the name of a model's only condition
PART_STREAM = 2**36  # plus the index of a part: the stream of its random choice, from the second part on

# a class by name or index, "random", one class per item, or weights by name
Choice: TypeAlias = str | int | Sequence[str | int] | Mapping[str, float]


@dataclass(frozen=True, eq=False)
class ByClass:
    """A choice of classes."""

    choice: Choice
    field: str | None = None


@dataclass(frozen=True, eq=False)
class ByValues:
    """Real values or class weights, (C,) for all items or (n, C)."""

    values: Array
    field: str | None = None


@dataclass(frozen=True, eq=False)
class ByText:
    """Texts, one for all items or one for each."""

    texts: tuple[str, ...]
    field: str | None = None


@dataclass(frozen=True, eq=False)
class ByItem:
    """Items of some kind of data as model inputs, (1, *shape) for all items or (n, *shape)."""

    data: Array
    field: str | None = None


@dataclass(frozen=True, eq=False)
class BySeveral:
    """Conditions by name."""

    parts: Mapping[str, ByClass | ByValues | ByText | ByItem]


One: TypeAlias = ByClass | ByValues | ByText | ByItem
Condition: TypeAlias = One | BySeveral
Given: TypeAlias = Condition | Choice | Array  # includes the short forms


def tagged(given: Given) -> Condition:
    """Return a condition in its long form. In the short forms, an array gives values and anything else gives classes."""
    if isinstance(given, ByClass | ByValues | ByText | ByItem | BySeveral):
        return given
    return ByValues(given) if isinstance(given, np.ndarray) else ByClass(given)


def shortest(manifest: Manifest, given: Given) -> Condition:
    """Return a condition without its name if the model has only one, so that both forms give the same recipe."""
    condition = tagged(given)
    if isinstance(condition, BySeveral) and len(manifest.conditioned) < 2 and len(condition.parts) == 1:
        return next(iter(condition.parts.values()))
    return condition


def of_items(condition: Condition, items: Array, n: int) -> Condition:
    """Return the condition of some of n items, selected by index. A condition that applies to all items is not changed."""
    match condition:
        case BySeveral(parts):
            return BySeveral({name: of_items(part, items, n) for name, part in parts.items()})  # type: ignore[misc]
        case ByValues(values) if len(np.atleast_2d(values)) == n:
            return replace(condition, values=np.atleast_2d(values)[items])
        case ByItem(data) if len(data) == n:
            return replace(condition, data=data[items])
        case ByText(texts) if len(texts) == n:
            return replace(condition, texts=tuple(texts[int(item)] for item in items))
        case ByClass(choice) if _is_list(choice) and len(choice) == n:
            return replace(condition, choice=[choice[int(item)] for item in items])
    return condition


def _is_list(choice: Choice) -> TypeGuard[Sequence[str | int]]:
    return isinstance(choice, Sequence) and not isinstance(choice, str)


def check_count(given: Given | None, n: int, name: str | None = None) -> None:
    """Raise InvalidValue if a condition gives neither one value for all n items nor one for each. `name` is the name of a part."""
    condition = None if given is None else tagged(given)
    said = getattr(condition, "field", None)
    field = said or (ONLY if name is None else f"conditions.{name}")
    match condition:
        case BySeveral(parts):
            for own, part in parts.items():
                check_count(part, n, own)
        case ByClass(choice) if _is_list(choice):
            if len(choice) != n:
                field = "class" if name is None and said is None else field
                raise InvalidValue(
                    f"{field}: {len(choice)} classes for {n} items; give one, or one per item", field=field
                )
        case ByValues(values):
            _check_one_or_each(len(np.atleast_2d(values)), n, field, "rows")
        case ByText(texts):
            _check_one_or_each(len(texts), n, field, "texts")
        case ByItem(data):
            _check_one_or_each(len(data), n, field, "items")


def _check_one_or_each(count: int, n: int, field: str, noun: str) -> None:
    if count not in (1, n):
        raise InvalidValue(f"{field}: {count} {noun} for {n} items; give one, or one per item", field=field)


def key_of(condition: Classes | Values | Text | Item) -> str:
    """Return the key that a request uses for a condition of this kind."""
    if isinstance(condition, Item):
        return condition.data.wire.many
    return {"classes": "class", "text": "texts"}.get(condition.kind, condition.kind)


def is_random(given: Given | None) -> bool:
    """Return whether the condition is drawn at random."""
    chosen = None if given is None else tagged(given)
    return chosen is None or (
        isinstance(chosen, ByClass) and isinstance(chosen.choice, str) and chosen.choice == RANDOM
    )


def part_of(manifest: Manifest, tensor: InputSpec, given: Given | None) -> One | None:
    """Return the part of a condition that fills an input; None if it is not given. Raises InvalidValue for parts that the model does not have."""
    if given is None:
        return None
    condition, names = tagged(given), list(manifest.conditioned) or [ONLY]
    if isinstance(condition, BySeveral):
        if unknown := next((name for name in condition.parts if name not in names), None):
            field = condition.parts[unknown].field or f"conditions.{unknown}"
            raise InvalidValue(
                f"{field}: {manifest.name} has no such condition{near(unknown, names)}; it is conditioned on {', '.join(names)}",
                field=field,
                valid=names,
            )
        return condition.parts.get(manifest.name_of_condition(tensor))
    if len(names) > 1 and not is_random(condition):
        field = condition.field or ("class" if isinstance(condition, ByClass) else ONLY)
        raise InvalidValue(
            f"{field}: {manifest.name} is conditioned on {', '.join(names)}; give each one under `conditions`", field=field, valid=names
        )  # fmt: skip
    return None if len(names) > 1 else condition


def fill(manifest: Manifest, tensor: InputSpec, given: Given | None, n: int, seed: int, first: int) -> Array:
    """Return an input (n, *shape) that a condition fills. If it is not given, it is drawn: classes from their prior, others from the examples.

    Raises InvalidValue for conditions that do not match the manifest.
    """
    part, stated = part_of(manifest, tensor, given), manifest.condition_of(tensor)
    draw = _Draw(manifest, manifest.name_of_condition(tensor), n, seed, first, None if part is None else part.field)
    if isinstance(stated, Text):
        return draw.text(stated, part, tensor)
    if isinstance(stated, Item):
        return draw.item(stated, part)
    if isinstance(part, ByValues):
        return draw.values(stated, part.values, tensor.shape[0])
    if isinstance(part, ByText | ByItem):
        raise draw.wrong("class" if isinstance(stated, Classes) else "values")
    return draw.classes(stated, RANDOM if part is None else part.choice, tensor.shape[0])


@dataclass(slots=True)
class _Draw:
    """The source of one condition for n items of a seed."""

    manifest: Manifest
    name: str
    n: int
    seed: int
    first: int
    said: str | None = None  # the path of the condition in the request, if it was given

    @property
    def field(self) -> str:
        """The path of the condition in the request, or the path to use if it was not given."""
        return self.said or self.place

    @property
    def place(self) -> str:
        """The path that a request can use for the condition."""
        stated = self.manifest.conditioned.get(self.name)
        long = len(self.manifest.conditioned) > 1 or isinstance(stated, Text | Item)
        return f"conditions.{self.name}" if long else ONLY

    def wrong(self, needed: str) -> InvalidValue:
        short = {"class": "class", "values": ONLY}
        long = self.said if self.said is not None and "conditions." in self.said else self.place
        key = short[needed] if long == ONLY else f"{long}.{needed}"
        return InvalidValue(f"{self.field}: {self.manifest.name} takes {needed} here; use {key}", field=self.field)

    def chosen(self, weights: Sequence[float]) -> NDArray[np.int64]:
        """Draw the index of one of several weights for each item."""
        place = list(self.manifest.conditioned).index(self.name) if self.name in self.manifest.conditioned else 0
        if place == 0:
            return sampling.choice(self.seed, self.first, self.n, weights)
        uniforms = sampling.uniform(self.seed, self.first, self.n, PART_STREAM + place, ())
        return sampling.pick(np.tile(np.asarray(weights), (self.n, 1)), uniforms)

    def even(self, count: int) -> NDArray[np.int64]:
        """Draw one of `count` equally likely indices for each item."""
        return self.chosen([1 / count] * count)

    def values(self, stated: Classes | Values | None, given: Array, width: int) -> Float32:
        rows = codecs.floats(np.atleast_2d(given), (width,), self.field)
        _check_one_or_each(len(rows), self.n, self.field, "rows")
        if isinstance(stated, Classes):
            check_weights(stated, rows, self.field)
        return np.ascontiguousarray(np.broadcast_to(rows, (self.n, width)))

    def classes(self, stated: Classes | Values | None, choice: Choice, width: int) -> Float32:
        field = "class" if self.said is None and self.place == ONLY else self.field
        if isinstance(stated, Values) and isinstance(choice, str) and choice == RANDOM:
            return np.asarray(stated.examples, np.float32)[self.even(len(stated.examples))]
        if not isinstance(stated, Classes):
            names = f" of {', '.join(stated.names)}" if stated else ""
            raise InvalidValue(
                f"{field}: {self.manifest.name} has no classes; give the values{names} as `condition`", field=field
            )
        choices = (*stated.names, NO_CLASS) if stated.optional else stated.names  # the last column is dropped below
        if isinstance(choice, Mapping):
            return np.tile(class_weights(choices, choice, len(choices), field, count=width)[:width], (self.n, 1))
        if isinstance(choice, str | int):
            if choice == RANDOM:
                return np.eye(width, dtype=np.float32)[self.chosen(stated.weights)]
            choice = [choice] * self.n
        if len(choice) != self.n:
            raise InvalidValue(
                f"{field}: {len(choice)} classes for {self.n} items; give one, or one per item", field=field
            )
        chosen = [class_index(choices, name, field, count=width) for name in choice]
        return np.ascontiguousarray(np.eye(len(choices), dtype=np.float32)[chosen, :width])

    def text(self, stated: Text, part: One | None, tensor: InputSpec) -> Array:
        if is_random(part):
            given = tuple(stated.examples[place] for place in self.even(len(stated.examples)))
        elif isinstance(part, ByText):
            given = part.texts * (self.n if len(part.texts) == 1 else 1)
        else:
            raise self.wrong("texts")
        _check_one_or_each(len(given), self.n, self.field, "texts")
        tokens, mask = tokenised(given, tensor.shape[0], bool(tensor.free), self.field)
        return tokens if tensor.source == "tokens" else mask

    def item(self, stated: Item, part: One | None) -> Array:
        if not isinstance(part, ByItem):
            wanted = f"{self.place}.{stated.data.wire.many}"
            raise InvalidValue(
                f"{self.field}: {self.manifest.name} is conditioned on {stated.data.noun}; give one, or one per item, as {wanted}",
                field=self.field,
            )
        if part.data.shape[1:] != stated.shape or len(part.data) not in (1, self.n):
            raise InvalidValue(
                f"{self.field}: {part.data.shape[0]} {stated.data.noun} of shape {list(part.data.shape[1:])} for {self.n} items; "
                f"give one, or one per item, of shape {list(stated.shape)}", field=self.field,
            )  # fmt: skip
        return np.ascontiguousarray(np.broadcast_to(part.data, (self.n, *stated.shape)), np.float32)


def of_inputs(manifest: Manifest, spec: TaskSpec, inputs: Mapping[str, Array]) -> dict[str, Any]:
    """Return the conditions in inputs by name: vectors (n, C), and texts. Empty for a model with only one vector, or with items as condition."""
    if len(manifest.conditioned) < 2 and spec.input("tokens") is None:
        return {}
    held: dict[str, Any] = {}
    for tensor in spec.inputs:
        if tensor.source == "condition" and len(tensor.shape) == 1:
            held[manifest.name_of_condition(tensor)] = inputs[tensor.role]
        elif tensor.source == "tokens":
            mask = mask_of(manifest, spec, tensor)
            known = inputs[tensor.role] if mask is None else inputs[mask.role]  # without a mask, zeros count as padding
            held[manifest.name_of_condition(tensor)] = texts_of(inputs[tensor.role], known)
    return held


def mask_of(manifest: Manifest, spec: TaskSpec, tokens: InputSpec) -> InputSpec | None:
    """Return the input with the mask of an input of tokens; None if the task has no mask."""
    name = manifest.name_of_condition(tokens)
    masks = (tensor for tensor in spec.inputs if tensor.source == "token_mask")
    return next((tensor for tensor in masks if manifest.name_of_condition(tensor) == name), None)


def texts_of(tokens: Array, mask: Array) -> list[str]:
    """Return texts from tokens (n, T) and their mask (n, T)."""
    return [bytes(row[known > 0].tolist()).decode(errors="replace") for row, known in zip(tokens, mask, strict=True)]


def tokenised(given: Sequence[str], longest: int, free: bool, field: str) -> tuple[NDArray[np.int64], Float32]:
    """Return the bytes of texts as tokens (n, T), padded with zeros, and a mask (n, T) of the tokens that belong to a text.

    T is `longest`, or the length of the longest text if the axis is `free`. Raises InvalidValue for a text longer than `longest` bytes.
    """
    encoded = [text.encode() for text in given]
    most = max(map(len, encoded))
    if most > longest:
        raise InvalidValue(f"{field}: a text has {most} bytes; the limit is {longest}", field=field)
    width = max(1, most) if free else longest
    tokens, mask = np.zeros((len(given), width), np.int64), np.zeros((len(given), width), np.float32)
    for row, content in enumerate(encoded):
        tokens[row, : len(content)], mask[row, : len(content)] = np.frombuffer(content, np.uint8), 1
    return tokens, mask


def check_weights(stated: Classes, rows: Array, field: str) -> None:
    """Raise InvalidValue for class weights (n, C) that are not valid. `field` is their name in the request."""
    if stated.optional:
        if (rows < 0).any() or (rows.sum(axis=1) > MOST_WEIGHT).any():
            raise InvalidValue(
                f"{field}: an item has a negative class weight, or weights with a sum above 1; give weights of at least 0 with a sum "
                "of at most 1, where the rest is the weight of no class",
                field=field,
            )
    elif not ((rows >= 0).all() and rows.any(axis=1).all()):
        raise InvalidValue(
            f"{field}: an item has a negative class weight, or only zeros; give weights of at least 0 with a positive sum",
            field=field,
        )


def class_weights(
    names: Sequence[str], given: Mapping[str, float], width: int, field: str = "class", *, count: int | None = None
) -> Float32:
    """Return weights by name as an array (C,) that sums to 1. Raises InvalidValue for weights that are negative, not finite or all 0.

    `count` is the number of names that an index may mean, if it is not all of them.
    """
    weights, named = np.zeros(width), set[int]()
    for name, weight in given.items():
        index = class_index(names, name, field, count=count)
        if index in named:
            raise InvalidValue(
                f"{field}: {shown(name)} is given twice, by name and by index; give it once", field=field
            )
        named.add(index)
        codecs.check_types(weight, field)
        try:
            weights[index] = weight
        except (OverflowError, TypeError, ValueError):
            raise InvalidValue(f"{field}: {shown(weight)} is not a weight; give a number", field=field) from None
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise InvalidValue(
            f"{field}: the weights {word(dict(given))} are not valid; give finite weights of at least 0 with a positive sum",
            field=field,
        )
    # scale by a power of two, which changes no digit: the sum of large weights would overflow, and a sum of tiny ones would lose precision
    weights = np.ldexp(weights, -int(np.frexp(weights.max())[1]))
    shares: Float32 = (weights / weights.sum()).astype(np.float32)
    return shares


def class_index(names: Sequence[str], name: str | int, field: str = "class", *, count: int | None = None) -> int:
    """Return the index of a class from its name or index. A text that is both is read as a name. Raises InvalidValue.

    `count` is the number of names that an index may mean, if it is not all of them.
    """
    count = len(names) if count is None else count
    number = isinstance(name, int | np.integer) and abs(name) <= sampling.MAX_SEED
    text = name if isinstance(name, str) else str(name) if number else ""
    if text in names:
        return names.index(text)
    index = texts.whole(text, count - 1)
    if index is not None:
        return index
    others = "".join(f", or {each}" for each in names[count:])
    raise InvalidValue(
        f"{field}: there is no class {shown(name)}{near(text, names)}; give a name or an index from 0 to {count - 1}{others}",
        field=field,
        valid=list(names),
    )
