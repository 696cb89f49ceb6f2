"""The reading of requests into model inputs: items, masks, latents, codes and ends of a path. Large ones are read off the event loop."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from manifold.runtime import codecs, kinds, operations
from manifold.runtime.conditions import ByClass, ByItem, BySeveral, ByText, ByValues, Choice, Given, One, key_of
from manifold.runtime.errors import InvalidValue, ManifoldError, TooLarge, UnsupportedTask
from manifold.runtime.kinds import Items, Kind, Reading
from manifold.runtime.manifest import Manifest
from manifold.runtime.manifest.conditions import Item
from manifold.service.aside import LARGE, ROW, aside
from manifold.service.core import contract
from manifold.service.models.registry import Registry
from manifold.service.settings import Settings

if TYPE_CHECKING:
    from manifold.service.core.use_cases import impute, interpolate, sample

Array = NDArray[Any]
E = TypeVar("E", InvalidValue, UnsupportedTask)

MANY = [kind.wire.many for kind in kinds.every]  # request fields that contain items
FILES = "images"  # the field to which uploaded files are added
OPTIONS = [name for kind in kinds.every for name in kind.wire.options.model_fields]
SINGLE = [kind.wire.one for kind in kinds.every]  # fields of an end of a path that contain an item


@dataclass(frozen=True)
class Uploads:
    """The files, or the array, that a request contains beside its fields."""

    files: tuple[bytes, ...] = ()
    array: Array | None = None
    masks: tuple[bytes, ...] = ()
    work: float = 0  # cost of reading the request, in bytes (service.aside)


class Reader:
    """The reader of requests, which enforces the limits of the settings."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.settings, self.registry = settings, registry

    async def items(
        self, manifest: Manifest, request: contract.ItemsRequest, uploads: Uploads, *, unknown: bool = False, missing: bool = False
    ) -> Items:  # fmt: skip
        """Read the items. `unknown` allows categories that training has never seen, `missing` allows missing values. Raise RequestError."""
        spec, field = manifest.spec, manifest.spec.wire.many
        self._refuse_others(manifest, request, uploads)
        if uploads.array is not None:
            for option in OPTIONS:
                if option in request.model_fields_set:
                    raise operations.no_effect(manifest, option, "reads numbers, which are not resized")
            if spec.in_files:
                self.limit(len(uploads.array) if uploads.array.ndim > 1 else 1, field)
            rows = await aside(functools.partial(spec.rows_of, uploads.array, "body"), uploads.work)
            if rows is not None:
                setattr(request, field, rows)  # as if they had been sent in this field
                return await self._read(spec, rows, self._how(request, unknown, missing), uploads.work)
            read = await aside(functools.partial(spec.read_array, uploads.array, "body"), uploads.work)
            self.limit(len(read.data), field)
            return read
        given = [*(getattr(request, field) or ()), *uploads.files]
        if not given:
            raise InvalidValue(f"{field}: at least one is needed; send {spec.needed}", field=field, valid=spec.valid)
        self.limit(len(given), field)
        return await self._read(spec, given, self._how(request, unknown, missing), uploads.work)

    def _how(self, request: Any, unknown: bool = False, missing: bool = False) -> Reading:
        options = {name: getattr(request, name) for name in OPTIONS if hasattr(request, name)}
        return Reading(options, self.settings.max_pixels, unknown, missing)

    async def _read(self, spec: Kind, given: Sequence[Any], how: Reading, work: float) -> Items:
        """Read items. Slow kinds are read in groups, so that the work ends if the client disconnects, and other requests get their turn."""
        field, group = spec.wire.many, spec.wire.group
        if group is None:
            return await aside(functools.partial(spec.read, given, how, field), max(work, ROW * len(given)))
        groups = [
            await aside(functools.partial(spec.read, given[start : start + group], how, field, start))
            for start in range(0, len(given), group)
        ]
        return groups[0] if len(groups) == 1 else await aside(functools.partial(Items.joined, groups))

    def _refuse_others(self, manifest: Manifest, request: contract.ItemsRequest, uploads: Uploads) -> None:
        """Raise InvalidValue for items of another kind than the model takes."""
        spec = manifest.spec
        other = next((name for name in MANY if name != spec.wire.many and getattr(request, name) is not None), None)
        if other is None and uploads.files and spec.wire.group is None:
            other = FILES
        if other is not None:
            self._refuse_default(manifest, request, other)
            raise InvalidValue(f"{other}: {manifest.name} takes {spec.needed}", field=other, valid=spec.valid)

    def _refuse_default(self, manifest: Manifest, request: contract.BaseRequest, given: str) -> None:
        """Raise InvalidValue if the request names no model, and other models take the items that it contains in the field `given`."""
        many = next(kind.wire.many for kind in kinds.every if given in (kind.wire.many, kind.wire.one))
        names = self.registry.names_of(
            lambda other: other.manifest is not None and other.manifest.spec.wire.many == many
        )
        if request.model is None and names:
            raise default_model(manifest.name, f"takes {manifest.spec.noun}, not {many}", names, InvalidValue)

    async def ends(
        self, manifest: Manifest, request: interpolate.InterpolateRequest, uploads: Uploads
    ) -> tuple[operations.End, operations.End, tuple[dict[str, Any], ...]]:
        """Read both ends of a path. Return them, and the steps that fitted their items to the model."""
        spec, how = manifest.spec, self._how(request)
        if all(getattr(end, spec.wire.one) is None for end in (request.from_, request.to)):
            for option in OPTIONS:
                if option in request.model_fields_set:
                    raise operations.no_effect(manifest, option, f"gets no {spec.noun} as an end of the path")

        def read() -> tuple[operations.End, operations.End, tuple[dict[str, Any], ...]]:
            for end in (request.from_, request.to):
                if other := next(
                    (name for name in SINGLE if name != spec.wire.one and getattr(end, name) is not None), None
                ):
                    self._refuse_default(manifest, request, other)
            start, fitted = self._end(manifest, request.from_, "from", how)
            stop, more = self._end(manifest, request.to, "to", how)
            return start, stop, (*fitted, *more)

        slow = spec.wire.group is not None and any(
            getattr(end, spec.wire.one) is not None for end in (request.from_, request.to)
        )
        return await aside(read, LARGE if slow else uploads.work)

    def limit(self, n: int, name: str) -> None:
        """Raise TooLarge for more items than a request may contain."""
        if n > self.settings.max_items:
            raise TooLarge(
                f"{name}: {n} is over the limit of {self.settings.max_items} items in a request; send several requests",
                field=name,
            )

    def given(
        self, manifest: Manifest, request: sample.SampleRequest, uploads: Uploads
    ) -> tuple[operations.Latents | None, Array | None]:
        """Read the latents and codes of a /sample request, by field or as a body of numbers."""
        if uploads.files:
            raise InvalidValue("images: /sample takes no items; send them to /reconstruct", field=FILES)
        latents: Any = request.latents
        codes: Any = request.codes
        if uploads.array is not None:
            if latents is not None or codes is not None:
                raise InvalidValue("latents: given twice, as a field and as the body; remove one", field="latents")
            is_codes = uploads.array.dtype.kind in "iu" and manifest.codes is not None
            latents, codes = (None, uploads.array) if is_codes else (uploads.array, None)
        named = self.latents(manifest, latents, request.named_latents, "latents")
        return named, None if codes is None else self._codes(manifest, codes)

    def latents(
        self, manifest: Manifest, one: Any, named: dict[str, Any] | None, field: str
    ) -> operations.Latents | None:
        """Read latents (n, *shape): one array, or arrays by name. Raise UnsupportedTask for a model without such latents."""
        given = named if one is None else {field: one}
        if given is None:
            return None
        before, dot, last = field.rpartition(".")
        by_name = f"{before}{dot}named_{last}"
        if one is not None and named is not None:
            raise InvalidValue(f"{field}: given twice, also by name; remove one", field=field)
        if not given:
            names = (
                f"; give some of {', '.join(manifest.latents)}, or remove the field"
                if manifest.has_named_latents
                else "; remove the field"
            )
            raise InvalidValue(f"{by_name}: at least one is needed{names}", field=by_name)
        wanted = manifest.latents if manifest.has_named_latents else {field: manifest.space}
        read = {}
        for name, values in given.items():
            latent, place = wanted.get(name), field if one is not None else f"{by_name}.{name}"
            if latent is None:
                raise self._no_latent(manifest, place, list(manifest.latents))
            read[name] = codecs.floats(values, latent.dims, place)
            self._not_empty(read[name], place)
        if len({len(values) for values in read.values()}) > 1:
            raise InvalidValue(
                f"{by_name}: the latents have different lengths; give the same number of each", field=by_name
            )
        return read if manifest.has_named_latents else next(iter(read.values()), None)

    @staticmethod
    def _no_latent(manifest: Manifest, field: str, names: list[str]) -> ManifoldError:
        if manifest.has_named_latents:
            return InvalidValue(
                f"{field}: {manifest.name} has the latents {', '.join(names)}; use these names",
                field=field,
                valid=names,
            )
        if manifest.space is not None:
            return InvalidValue(
                f"{field}: {manifest.name} has one latent without a name; use the field latents", field=field
            )
        return UnsupportedTask(
            f"{field}: {manifest.name} has no latent; remove the latents",
            field=field,
            valid=operations.endpoints(manifest),
        )

    def _codes(self, manifest: Manifest, codes: Any) -> Array:
        if manifest.codes is None or operations.task_of_codes(manifest) is None:
            raise UnsupportedTask(
                f"codes: {manifest.name} does not decode codes; remove them",
                field="codes",
                valid=operations.endpoints(manifest),
            )
        codecs.check_types(codes, "codes", whole=True)
        numbers = codecs.floats(codes, manifest.codes.shape, "codes")
        self._not_empty(numbers, "codes")
        if (numbers != np.rint(numbers)).any() or numbers.min() < 0 or numbers.max() >= manifest.codes.levels:
            raise InvalidValue(f"codes: whole numbers from 0 to {manifest.codes.levels - 1} are needed", field="codes")
        return numbers.astype(np.int64)

    async def condition(self, manifest: Manifest, uploads: Uploads, stated: Any) -> Given | None:
        """Read the condition of a request or of an end of a path. Large conditions are read off the event loop."""
        if stated.condition is None and stated.conditions is None:
            return self.values(stated.class_, None)
        return await aside(
            functools.partial(self.read_condition, manifest, stated), max(uploads.work, _weight(stated.conditions))
        )

    def read_condition(self, manifest: Manifest, stated: Any, prefix: str = "") -> Given | None:
        """Return a class, the array of a condition, or conditions by name. Raise InvalidValue for more than one form."""
        if stated.conditions is None:
            return self.values(stated.class_, stated.condition, f"{prefix}condition")
        field = f"{prefix}conditions"
        if stated.class_ is not None or stated.condition is not None:
            raise InvalidValue(
                f"{field}: class and condition are short forms of it; give only one of them", field=field
            )
        return BySeveral({
            name: self._part(manifest, name, part, f"{field}.{name}") for name, part in stated.conditions.items()
        })  # fmt: skip

    def _part(self, manifest: Manifest, name: str, part: contract.Condition, field: str) -> One:
        """Read one condition in its long form."""
        given = [key for key in ("class_", "values", "texts", *MANY) if getattr(part, key) is not None]
        if len(given) != 1:
            valid = ["class", "values", "texts", *MANY]
            raise InvalidValue(f"{field}: exactly one of {', '.join(valid)} is needed", field=field, valid=valid)
        if part.texts is not None:
            self._not_empty(part.texts, f"{field}.texts")
            return ByText(tuple(part.texts), field)
        if part.class_ is not None:
            return ByClass(part.class_, field)
        if part.values is not None:
            return ByValues(_numbers(part.values, f"{field}.values"), field)
        one = manifest.conditioned.get(name)
        if not isinstance(one, Item) or one.data.wire.many != given[0]:
            raise self._no_item(manifest, name, f"{field}.{given[0]}")
        self._not_empty(getattr(part, given[0]), f"{field}.{given[0]}")
        read = one.data.read(getattr(part, given[0]), self._how(part), f"{field}.{given[0]}")
        return ByItem(read.data, field)

    @staticmethod
    def _no_item(manifest: Manifest, name: str, field: str) -> InvalidValue:
        """Return the error for items in place of another condition, or of a condition that the model lacks."""
        one = manifest.conditioned.get(name)
        if one is None:
            names = list(manifest.conditioned)
            conditioning = (
                f"is conditioned on {', '.join(names)}" if names else "is not conditional; remove the conditions"
            )
            return InvalidValue(f"{field}: {manifest.name} {conditioning}", field=field, valid=names)
        return InvalidValue(f"{field}: {manifest.name} takes {key_of(one)} here", field=field)

    async def target(self, manifest: Manifest, uploads: Uploads, request: Any, condition: Given | None) -> Given | None:
        """Read the condition with which items are decoded, if it differs from their own. Conditions that are not given stay unchanged."""
        if request.target_conditions is None:
            return self.values(request.target_class, request.target_condition, "target_condition")
        read = functools.partial(self._target, manifest, request)
        target = await aside(read, max(uploads.work, _weight(request.target_conditions)))
        return BySeveral({**condition.parts, **target.parts}) if isinstance(condition, BySeveral) else target

    def _target(self, manifest: Manifest, request: Any) -> BySeveral:
        field, parts = "target_conditions", request.target_conditions or {}
        if request.target_class is not None or request.target_condition is not None:
            raise InvalidValue(
                f"{field}: target_class and target_condition are short forms of it; give only one of them", field=field
            )
        return BySeveral({name: self._part(manifest, name, part, f"{field}.{name}") for name, part in parts.items()})

    def values(self, class_: Choice | None, values: list[Any] | None, field: str = "condition") -> One | None:
        """Return a class or an array of values, whose width the operation checks. Raise InvalidValue if both are given."""
        of_class = field.replace("condition", "class")
        if values is None:
            return None if class_ is None else ByClass(class_, of_class)
        if class_ is not None:
            raise InvalidValue(f"{field}: not allowed together with {of_class}; give only one of them", field=field)
        return ByValues(_numbers(values, field), field)

    def _not_empty(self, array: Sequence[Any] | Array, name: str) -> None:
        if not len(array):
            raise InvalidValue(f"{name}: it is empty; give at least one, or remove the field", field=name)
        self.limit(len(array), name)

    async def masked(self, manifest: Manifest, request: impute.ImputeRequest, uploads: Uploads) -> tuple[Items, Array]:
        """Read items and their masks (n, *mask_shape), 1 where the item is known."""
        items, spec = await self.items(manifest, request, uploads), manifest.spec
        given, n = [*(request.masks or ()), *uploads.masks], len(items.data)
        if len(given) not in (1, n):
            raise InvalidValue(
                f"masks: {len(given)} masks for {n} {spec.noun}; give one for each or one for all: a PNG that is white where the item is known",
                field="masks",
            )
        given, how, group = given * (n if len(given) == 1 else 1), self._how(request), spec.wire.group or n
        masks = [
            await aside(functools.partial(spec.read_masks, given[start : start + group], items, how, start))
            for start in range(0, n, group)
        ]
        return items, np.concatenate(masks)

    def _end(
        self, manifest: Manifest, end: interpolate.End, name: str, how: Reading
    ) -> tuple[operations.End, tuple[dict[str, Any], ...]]:
        """Read one end of a path. Return it, and the steps that fitted its item to the model."""
        spec = manifest.spec
        given = [key for key in (*SINGLE, "latent", "named_latent", "seed") if getattr(end, key) is not None]
        condition = self.read_condition(manifest, end, f"{name}.")
        if len(given) > 1:
            raise InvalidValue(
                f"{name}: {' and '.join(given)} are given together; give only one of them", field=name, valid=given
            )
        if not given and condition is None:
            valid = [spec.wire.one, "latent", "seed", "class", "condition"]
            raise InvalidValue(f"{name}: is empty; give one of {', '.join(valid)}", field=name, valid=valid)
        items, latent = None, self._latent_of(manifest, end, name)
        if given and given[0] in SINGLE:
            if given[0] != spec.wire.one:
                field = f"{name}.{given[0]}"
                raise InvalidValue(f"{field}: {manifest.name} takes {spec.noun}; send {spec.wire.one}", field=field)
            items = spec.read_one(getattr(end, given[0]), how, f"{name}.{given[0]}")
        data, fitted = (None, ()) if items is None else (items.data[0], items.fitted)
        return operations.End(latent, data, end.seed, end.first, condition), fitted

    def _latent_of(self, manifest: Manifest, end: interpolate.End, name: str) -> operations.Latents | None:
        """Read the latent of an end, (*shape), or latents by name."""
        if end.latent is not None and manifest.space is not None and not manifest.has_named_latents:
            return codecs.floats([end.latent], manifest.space.dims, f"{name}.latent")[0]
        named = None if end.named_latent is None else {role: [values] for role, values in end.named_latent.items()}
        one = None if end.latent is None else [end.latent]
        read = self.latents(manifest, one, named, f"{name}.latent")
        return None if read is None else {role: values[0] for role, values in read.items()}


def default_model(name: str, lacks: str, names: list[str], error: type[E]) -> E:
    """Return the error of a request that names no model and does not suit the default model. `names` are models that it suits."""
    return error(f"model: the default model {name} {lacks}; name one of the valid models", field="model", valid=names)


def _numbers(values: list[Any], field: str) -> Array:
    codecs.check_types(values, field)
    try:
        return np.atleast_2d(np.asarray(values, np.float64))
    except (ValueError, TypeError, OverflowError):
        raise InvalidValue(f"{field}: numbers of shape [C] or [n, C] are needed", field=field) from None


def _weight(conditions: dict[str, contract.Condition] | None) -> float:
    """Return the cost of reading conditions, in bytes (service.aside). Items may take long even if they are small."""
    heavy = any(getattr(part, name) is not None for part in (conditions or {}).values() for name in MANY)
    return LARGE if heavy else 0
