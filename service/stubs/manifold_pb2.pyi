from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Array(_message.Message):
    __slots__ = ("type", "shape", "content")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        FLOAT32: _ClassVar[Array.Type]
        INT64: _ClassVar[Array.Type]
        UINT8: _ClassVar[Array.Type]
    FLOAT32: Array.Type
    INT64: Array.Type
    UINT8: Array.Type
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    type: Array.Type
    shape: _containers.RepeatedScalarFieldContainer[int]
    content: bytes
    def __init__(self, type: _Optional[_Union[Array.Type, str]] = ..., shape: _Optional[_Iterable[int]] = ..., content: _Optional[bytes] = ...) -> None: ...

class Value(_message.Message):
    __slots__ = ("number", "text", "integer", "boolean")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    BOOLEAN_FIELD_NUMBER: _ClassVar[int]
    number: float
    text: str
    integer: int
    boolean: bool
    def __init__(self, number: _Optional[float] = ..., text: _Optional[str] = ..., integer: _Optional[int] = ..., boolean: _Optional[bool] = ...) -> None: ...

class PassedValue(_message.Message):
    __slots__ = ("number", "text", "integer", "boolean")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    BOOLEAN_FIELD_NUMBER: _ClassVar[int]
    number: float
    text: str
    integer: int
    boolean: bool
    def __init__(self, number: _Optional[float] = ..., text: _Optional[str] = ..., integer: _Optional[int] = ..., boolean: _Optional[bool] = ...) -> None: ...

class Row(_message.Message):
    __slots__ = ("columns",)
    class ColumnsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    columns: _containers.MessageMap[str, Value]
    def __init__(self, columns: _Optional[_Mapping[str, Value]] = ...) -> None: ...

class ClassChoice(_message.Message):
    __slots__ = ("name", "names", "weights")
    class Names(_message.Message):
        __slots__ = ("names",)
        NAMES_FIELD_NUMBER: _ClassVar[int]
        names: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, names: _Optional[_Iterable[str]] = ...) -> None: ...
    class Weights(_message.Message):
        __slots__ = ("weights",)
        class WeightsEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: float
            def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
        WEIGHTS_FIELD_NUMBER: _ClassVar[int]
        weights: _containers.ScalarMap[str, float]
        def __init__(self, weights: _Optional[_Mapping[str, float]] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    names: ClassChoice.Names
    weights: ClassChoice.Weights
    def __init__(self, name: _Optional[str] = ..., names: _Optional[_Union[ClassChoice.Names, _Mapping]] = ..., weights: _Optional[_Union[ClassChoice.Weights, _Mapping]] = ...) -> None: ...

class Numbers(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class Condition(_message.Message):
    __slots__ = ("values", "texts", "images", "rows")
    CLASS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    values: Array
    texts: _containers.RepeatedScalarFieldContainer[str]
    images: _containers.RepeatedScalarFieldContainer[bytes]
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    def __init__(self, values: _Optional[_Union[Array, _Mapping]] = ..., texts: _Optional[_Iterable[str]] = ..., images: _Optional[_Iterable[bytes]] = ..., rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ..., **kwargs) -> None: ...

class Posterior(_message.Message):
    __slots__ = ("mean", "log_variance", "latents")
    MEAN_FIELD_NUMBER: _ClassVar[int]
    LOG_VARIANCE_FIELD_NUMBER: _ClassVar[int]
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    mean: Array
    log_variance: Array
    latents: Array
    def __init__(self, mean: _Optional[_Union[Array, _Mapping]] = ..., log_variance: _Optional[_Union[Array, _Mapping]] = ..., latents: _Optional[_Union[Array, _Mapping]] = ...) -> None: ...

class MadeItems(_message.Message):
    __slots__ = ("images", "data", "rows")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedScalarFieldContainer[bytes]
    data: Array
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    def __init__(self, images: _Optional[_Iterable[bytes]] = ..., data: _Optional[_Union[Array, _Mapping]] = ..., rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("queue", "compute", "encode")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_FIELD_NUMBER: _ClassVar[int]
    ENCODE_FIELD_NUMBER: _ClassVar[int]
    queue: float
    compute: float
    encode: float
    def __init__(self, queue: _Optional[float] = ..., compute: _Optional[float] = ..., encode: _Optional[float] = ...) -> None: ...

class Fitted(_message.Message):
    __slots__ = ("width", "height", "mode", "steps", "warnings")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    mode: str
    steps: _containers.RepeatedScalarFieldContainer[str]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ..., mode: _Optional[str] = ..., steps: _Optional[_Iterable[str]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class SampleRequest(_message.Message):
    __slots__ = ("model", "version", "seed", "first", "n", "latents", "codes", "prior", "temperature", "return_latents", "encoding", "condition", "conditions", "inputs", "named_latents", "steps", "guidance")
    class ConditionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Condition
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Condition, _Mapping]] = ...) -> None: ...
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Numbers
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Numbers, _Mapping]] = ...) -> None: ...
    class NamedLatentsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Array
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Array, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    CLASS_FIELD_NUMBER: _ClassVar[int]
    PRIOR_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    RETURN_LATENTS_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    NAMED_LATENTS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    seed: int
    first: int
    n: int
    latents: Array
    codes: Array
    prior: str
    temperature: float
    return_latents: bool
    encoding: str
    condition: Array
    conditions: _containers.MessageMap[str, Condition]
    inputs: _containers.MessageMap[str, Numbers]
    named_latents: _containers.MessageMap[str, Array]
    steps: int
    guidance: Numbers
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., seed: _Optional[int] = ..., first: _Optional[int] = ..., n: _Optional[int] = ..., latents: _Optional[_Union[Array, _Mapping]] = ..., codes: _Optional[_Union[Array, _Mapping]] = ..., prior: _Optional[str] = ..., temperature: _Optional[float] = ..., return_latents: _Optional[bool] = ..., encoding: _Optional[str] = ..., condition: _Optional[_Union[Array, _Mapping]] = ..., conditions: _Optional[_Mapping[str, Condition]] = ..., inputs: _Optional[_Mapping[str, Numbers]] = ..., named_latents: _Optional[_Mapping[str, Array]] = ..., steps: _Optional[int] = ..., guidance: _Optional[_Union[Numbers, _Mapping]] = ..., **kwargs) -> None: ...

class EncodeRequest(_message.Message):
    __slots__ = ("model", "version", "seed", "first", "images", "rows", "fit", "condition", "array", "conditions", "inputs")
    class ConditionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Condition
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Condition, _Mapping]] = ...) -> None: ...
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Numbers
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Numbers, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    CLASS_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    ARRAY_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    seed: int
    first: int
    images: _containers.RepeatedScalarFieldContainer[bytes]
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    fit: str
    condition: Array
    array: Array
    conditions: _containers.MessageMap[str, Condition]
    inputs: _containers.MessageMap[str, Numbers]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., seed: _Optional[int] = ..., first: _Optional[int] = ..., images: _Optional[_Iterable[bytes]] = ..., rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ..., fit: _Optional[str] = ..., condition: _Optional[_Union[Array, _Mapping]] = ..., array: _Optional[_Union[Array, _Mapping]] = ..., conditions: _Optional[_Mapping[str, Condition]] = ..., inputs: _Optional[_Mapping[str, Numbers]] = ..., **kwargs) -> None: ...

class ReconstructRequest(_message.Message):
    __slots__ = ("model", "version", "seed", "first", "images", "rows", "fit", "encoding", "condition", "target_class", "target_condition", "array", "conditions", "inputs", "target_conditions")
    class ConditionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Condition
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Condition, _Mapping]] = ...) -> None: ...
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Numbers
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Numbers, _Mapping]] = ...) -> None: ...
    class TargetConditionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Condition
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Condition, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    CLASS_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    TARGET_CLASS_FIELD_NUMBER: _ClassVar[int]
    TARGET_CONDITION_FIELD_NUMBER: _ClassVar[int]
    ARRAY_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    TARGET_CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    seed: int
    first: int
    images: _containers.RepeatedScalarFieldContainer[bytes]
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    fit: str
    encoding: str
    condition: Array
    target_class: ClassChoice
    target_condition: Array
    array: Array
    conditions: _containers.MessageMap[str, Condition]
    inputs: _containers.MessageMap[str, Numbers]
    target_conditions: _containers.MessageMap[str, Condition]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., seed: _Optional[int] = ..., first: _Optional[int] = ..., images: _Optional[_Iterable[bytes]] = ..., rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ..., fit: _Optional[str] = ..., encoding: _Optional[str] = ..., condition: _Optional[_Union[Array, _Mapping]] = ..., target_class: _Optional[_Union[ClassChoice, _Mapping]] = ..., target_condition: _Optional[_Union[Array, _Mapping]] = ..., array: _Optional[_Union[Array, _Mapping]] = ..., conditions: _Optional[_Mapping[str, Condition]] = ..., inputs: _Optional[_Mapping[str, Numbers]] = ..., target_conditions: _Optional[_Mapping[str, Condition]] = ..., **kwargs) -> None: ...

class End(_message.Message):
    __slots__ = ("image", "row", "latent", "seed", "first", "condition", "named_latent", "conditions")
    class NamedLatentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Array
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Array, _Mapping]] = ...) -> None: ...
    class ConditionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Condition
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Condition, _Mapping]] = ...) -> None: ...
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    LATENT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    CLASS_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    NAMED_LATENT_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    row: Row
    latent: Array
    seed: int
    first: int
    condition: Array
    named_latent: _containers.MessageMap[str, Array]
    conditions: _containers.MessageMap[str, Condition]
    def __init__(self, image: _Optional[bytes] = ..., row: _Optional[_Union[Row, _Mapping]] = ..., latent: _Optional[_Union[Array, _Mapping]] = ..., seed: _Optional[int] = ..., first: _Optional[int] = ..., condition: _Optional[_Union[Array, _Mapping]] = ..., named_latent: _Optional[_Mapping[str, Array]] = ..., conditions: _Optional[_Mapping[str, Condition]] = ..., **kwargs) -> None: ...

class InterpolateRequest(_message.Message):
    __slots__ = ("model", "version", "to", "steps", "method", "seed", "fit", "encoding", "inputs")
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Numbers
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Numbers, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    to: End
    steps: int
    method: str
    seed: int
    fit: str
    encoding: str
    inputs: _containers.MessageMap[str, Numbers]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., to: _Optional[_Union[End, _Mapping]] = ..., steps: _Optional[int] = ..., method: _Optional[str] = ..., seed: _Optional[int] = ..., fit: _Optional[str] = ..., encoding: _Optional[str] = ..., inputs: _Optional[_Mapping[str, Numbers]] = ..., **kwargs) -> None: ...

class Costs(_message.Message):
    __slots__ = ("false_positive", "false_negative", "prevalence")
    FALSE_POSITIVE_FIELD_NUMBER: _ClassVar[int]
    FALSE_NEGATIVE_FIELD_NUMBER: _ClassVar[int]
    PREVALENCE_FIELD_NUMBER: _ClassVar[int]
    false_positive: float
    false_negative: float
    prevalence: float
    def __init__(self, false_positive: _Optional[float] = ..., false_negative: _Optional[float] = ..., prevalence: _Optional[float] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("model", "version", "images", "rows", "fit", "false_positive_rate", "budget", "explain", "condition", "costs", "block_rate", "array", "conditions", "inputs", "false_discovery_rate")
    class ConditionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Condition
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Condition, _Mapping]] = ...) -> None: ...
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Numbers
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Numbers, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    CLASS_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    FALSE_POSITIVE_RATE_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    COSTS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_RATE_FIELD_NUMBER: _ClassVar[int]
    ARRAY_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    FALSE_DISCOVERY_RATE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    images: _containers.RepeatedScalarFieldContainer[bytes]
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    fit: str
    false_positive_rate: float
    budget: int
    explain: bool
    condition: Array
    costs: Costs
    block_rate: float
    array: Array
    conditions: _containers.MessageMap[str, Condition]
    inputs: _containers.MessageMap[str, Numbers]
    false_discovery_rate: float
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., images: _Optional[_Iterable[bytes]] = ..., rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ..., fit: _Optional[str] = ..., false_positive_rate: _Optional[float] = ..., budget: _Optional[int] = ..., explain: _Optional[bool] = ..., condition: _Optional[_Union[Array, _Mapping]] = ..., costs: _Optional[_Union[Costs, _Mapping]] = ..., block_rate: _Optional[float] = ..., array: _Optional[_Union[Array, _Mapping]] = ..., conditions: _Optional[_Mapping[str, Condition]] = ..., inputs: _Optional[_Mapping[str, Numbers]] = ..., false_discovery_rate: _Optional[float] = ..., **kwargs) -> None: ...

class ClassifyRequest(_message.Message):
    __slots__ = ("model", "version", "images", "rows", "fit", "array", "inputs")
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Numbers
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Numbers, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    ARRAY_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    images: _containers.RepeatedScalarFieldContainer[bytes]
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    fit: str
    array: Array
    inputs: _containers.MessageMap[str, Numbers]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., images: _Optional[_Iterable[bytes]] = ..., rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ..., fit: _Optional[str] = ..., array: _Optional[_Union[Array, _Mapping]] = ..., inputs: _Optional[_Mapping[str, Numbers]] = ...) -> None: ...

class ImputeRequest(_message.Message):
    __slots__ = ("model", "version", "rows", "condition", "seed", "first", "images", "masks", "fit", "candidates", "temperature", "encoding", "array", "conditions", "inputs", "steps", "guidance")
    class ConditionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Condition
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Condition, _Mapping]] = ...) -> None: ...
    class InputsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Numbers
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Numbers, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    CLASS_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    MASKS_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    ARRAY_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    condition: Array
    seed: int
    first: int
    images: _containers.RepeatedScalarFieldContainer[bytes]
    masks: _containers.RepeatedScalarFieldContainer[bytes]
    fit: str
    candidates: int
    temperature: float
    encoding: str
    array: Array
    conditions: _containers.MessageMap[str, Condition]
    inputs: _containers.MessageMap[str, Numbers]
    steps: int
    guidance: Numbers
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ..., condition: _Optional[_Union[Array, _Mapping]] = ..., seed: _Optional[int] = ..., first: _Optional[int] = ..., images: _Optional[_Iterable[bytes]] = ..., masks: _Optional[_Iterable[bytes]] = ..., fit: _Optional[str] = ..., candidates: _Optional[int] = ..., temperature: _Optional[float] = ..., encoding: _Optional[str] = ..., array: _Optional[_Union[Array, _Mapping]] = ..., conditions: _Optional[_Mapping[str, Condition]] = ..., inputs: _Optional[_Mapping[str, Numbers]] = ..., steps: _Optional[int] = ..., guidance: _Optional[_Union[Numbers, _Mapping]] = ..., **kwargs) -> None: ...

class ScoreFileRequest(_message.Message):
    __slots__ = ("request", "chunk", "kind")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    request: ScoreRequest
    chunk: bytes
    kind: str
    def __init__(self, request: _Optional[_Union[ScoreRequest, _Mapping]] = ..., chunk: _Optional[bytes] = ..., kind: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class SampleResponse(_message.Message):
    __slots__ = ("model", "version", "request_id", "timing", "seed", "first", "images", "data", "rows", "latents", "codes", "classes", "condition", "reproducible", "named_latents", "conditions", "items")
    class NamedLatentsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Array
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Array, _Mapping]] = ...) -> None: ...
    class ConditionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Condition
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Condition, _Mapping]] = ...) -> None: ...
    class ItemsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: MadeItems
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[MadeItems, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    REPRODUCIBLE_FIELD_NUMBER: _ClassVar[int]
    NAMED_LATENTS_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    request_id: str
    timing: Timing
    seed: int
    first: int
    images: _containers.RepeatedScalarFieldContainer[bytes]
    data: Array
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    latents: Array
    codes: Array
    classes: _containers.RepeatedCompositeFieldContainer[ClassChoice]
    condition: Array
    reproducible: bool
    named_latents: _containers.MessageMap[str, Array]
    conditions: _containers.MessageMap[str, Condition]
    items: _containers.MessageMap[str, MadeItems]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., request_id: _Optional[str] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., seed: _Optional[int] = ..., first: _Optional[int] = ..., images: _Optional[_Iterable[bytes]] = ..., data: _Optional[_Union[Array, _Mapping]] = ..., rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ..., latents: _Optional[_Union[Array, _Mapping]] = ..., codes: _Optional[_Union[Array, _Mapping]] = ..., classes: _Optional[_Iterable[_Union[ClassChoice, _Mapping]]] = ..., condition: _Optional[_Union[Array, _Mapping]] = ..., reproducible: _Optional[bool] = ..., named_latents: _Optional[_Mapping[str, Array]] = ..., conditions: _Optional[_Mapping[str, Condition]] = ..., items: _Optional[_Mapping[str, MadeItems]] = ...) -> None: ...

class EncodeResponse(_message.Message):
    __slots__ = ("model", "version", "request_id", "timing", "seed", "first", "mean", "log_variance", "latents", "codes", "fitted", "reproducible", "posteriors")
    class PosteriorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Posterior
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Posterior, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    LOG_VARIANCE_FIELD_NUMBER: _ClassVar[int]
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    FITTED_FIELD_NUMBER: _ClassVar[int]
    REPRODUCIBLE_FIELD_NUMBER: _ClassVar[int]
    POSTERIORS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    request_id: str
    timing: Timing
    seed: int
    first: int
    mean: Array
    log_variance: Array
    latents: Array
    codes: Array
    fitted: _containers.RepeatedCompositeFieldContainer[Fitted]
    reproducible: bool
    posteriors: _containers.MessageMap[str, Posterior]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., request_id: _Optional[str] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., seed: _Optional[int] = ..., first: _Optional[int] = ..., mean: _Optional[_Union[Array, _Mapping]] = ..., log_variance: _Optional[_Union[Array, _Mapping]] = ..., latents: _Optional[_Union[Array, _Mapping]] = ..., codes: _Optional[_Union[Array, _Mapping]] = ..., fitted: _Optional[_Iterable[_Union[Fitted, _Mapping]]] = ..., reproducible: _Optional[bool] = ..., posteriors: _Optional[_Mapping[str, Posterior]] = ...) -> None: ...

class ReconstructResponse(_message.Message):
    __slots__ = ("model", "version", "request_id", "timing", "seed", "first", "images", "data", "rows", "errors", "fitted", "reproducible", "items")
    class ItemsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: MadeItems
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[MadeItems, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    FITTED_FIELD_NUMBER: _ClassVar[int]
    REPRODUCIBLE_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    request_id: str
    timing: Timing
    seed: int
    first: int
    images: _containers.RepeatedScalarFieldContainer[bytes]
    data: Array
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    errors: _containers.RepeatedScalarFieldContainer[float]
    fitted: _containers.RepeatedCompositeFieldContainer[Fitted]
    reproducible: bool
    items: _containers.MessageMap[str, MadeItems]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., request_id: _Optional[str] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., seed: _Optional[int] = ..., first: _Optional[int] = ..., images: _Optional[_Iterable[bytes]] = ..., data: _Optional[_Union[Array, _Mapping]] = ..., rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ..., errors: _Optional[_Iterable[float]] = ..., fitted: _Optional[_Iterable[_Union[Fitted, _Mapping]]] = ..., reproducible: _Optional[bool] = ..., items: _Optional[_Mapping[str, MadeItems]] = ...) -> None: ...

class InterpolateResponse(_message.Message):
    __slots__ = ("model", "version", "request_id", "timing", "seed", "first", "images", "data", "rows", "latents", "fitted", "reproducible", "named_latents", "items")
    class NamedLatentsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Array
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Array, _Mapping]] = ...) -> None: ...
    class ItemsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: MadeItems
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[MadeItems, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    LATENTS_FIELD_NUMBER: _ClassVar[int]
    FITTED_FIELD_NUMBER: _ClassVar[int]
    REPRODUCIBLE_FIELD_NUMBER: _ClassVar[int]
    NAMED_LATENTS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    request_id: str
    timing: Timing
    seed: int
    first: int
    images: _containers.RepeatedScalarFieldContainer[bytes]
    data: Array
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    latents: Array
    fitted: _containers.RepeatedCompositeFieldContainer[Fitted]
    reproducible: bool
    named_latents: _containers.MessageMap[str, Array]
    items: _containers.MessageMap[str, MadeItems]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., request_id: _Optional[str] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., seed: _Optional[int] = ..., first: _Optional[int] = ..., images: _Optional[_Iterable[bytes]] = ..., data: _Optional[_Union[Array, _Mapping]] = ..., rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ..., latents: _Optional[_Union[Array, _Mapping]] = ..., fitted: _Optional[_Iterable[_Union[Fitted, _Mapping]]] = ..., reproducible: _Optional[bool] = ..., named_latents: _Optional[_Mapping[str, Array]] = ..., items: _Optional[_Mapping[str, MadeItems]] = ...) -> None: ...

class Part(_message.Message):
    __slots__ = ("value", "p_value")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    value: float
    p_value: float
    def __init__(self, value: _Optional[float] = ..., p_value: _Optional[float] = ...) -> None: ...

class ColumnReason(_message.Message):
    __slots__ = ("column", "value", "nats", "excess", "share", "expected", "direction")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    NATS_FIELD_NUMBER: _ClassVar[int]
    EXCESS_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    column: str
    value: Value
    nats: float
    excess: float
    share: float
    expected: Value
    direction: str
    def __init__(self, column: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ..., nats: _Optional[float] = ..., excess: _Optional[float] = ..., share: _Optional[float] = ..., expected: _Optional[_Union[Value, _Mapping]] = ..., direction: _Optional[str] = ...) -> None: ...

class Neighbour(_message.Message):
    __slots__ = ("distance", "row", "image")
    DISTANCE_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    distance: float
    row: Row
    image: bytes
    def __init__(self, distance: _Optional[float] = ..., row: _Optional[_Union[Row, _Mapping]] = ..., image: _Optional[bytes] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("map", "columns", "latent_share", "neighbours")
    MAP_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    LATENT_SHARE_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    map: bytes
    columns: _containers.RepeatedCompositeFieldContainer[ColumnReason]
    latent_share: float
    neighbours: _containers.RepeatedCompositeFieldContainer[Neighbour]
    def __init__(self, map: _Optional[bytes] = ..., columns: _Optional[_Iterable[_Union[ColumnReason, _Mapping]]] = ..., latent_share: _Optional[float] = ..., neighbours: _Optional[_Iterable[_Union[Neighbour, _Mapping]]] = ...) -> None: ...

class ScoredItem(_message.Message):
    __slots__ = ("score", "p_value", "is_anomaly", "band", "risk", "state", "warnings", "parts", "explanation", "id", "passed")
    class PartsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Part
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Part, _Mapping]] = ...) -> None: ...
    class PassedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: PassedValue
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[PassedValue, _Mapping]] = ...) -> None: ...
    SCORE_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    IS_ANOMALY_FIELD_NUMBER: _ClassVar[int]
    BAND_FIELD_NUMBER: _ClassVar[int]
    RISK_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    score: float
    p_value: float
    is_anomaly: bool
    band: str
    risk: int
    state: str
    warnings: _containers.RepeatedScalarFieldContainer[str]
    parts: _containers.MessageMap[str, Part]
    explanation: Explanation
    id: PassedValue
    passed: _containers.MessageMap[str, PassedValue]
    def __init__(self, score: _Optional[float] = ..., p_value: _Optional[float] = ..., is_anomaly: _Optional[bool] = ..., band: _Optional[str] = ..., risk: _Optional[int] = ..., state: _Optional[str] = ..., warnings: _Optional[_Iterable[str]] = ..., parts: _Optional[_Mapping[str, Part]] = ..., explanation: _Optional[_Union[Explanation, _Mapping]] = ..., id: _Optional[_Union[PassedValue, _Mapping]] = ..., passed: _Optional[_Mapping[str, PassedValue]] = ...) -> None: ...

class ThresholdInfo(_message.Message):
    __slots__ = ("score", "p_value", "false_positive_rate", "interval", "block_p_value", "measured", "shift")
    SCORE_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    FALSE_POSITIVE_RATE_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    BLOCK_P_VALUE_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    SHIFT_FIELD_NUMBER: _ClassVar[int]
    score: float
    p_value: float
    false_positive_rate: float
    interval: _containers.RepeatedScalarFieldContainer[float]
    block_p_value: float
    measured: MeasuredRate
    shift: str
    def __init__(self, score: _Optional[float] = ..., p_value: _Optional[float] = ..., false_positive_rate: _Optional[float] = ..., interval: _Optional[_Iterable[float]] = ..., block_p_value: _Optional[float] = ..., measured: _Optional[_Union[MeasuredRate, _Mapping]] = ..., shift: _Optional[str] = ...) -> None: ...

class MeasuredRate(_message.Message):
    __slots__ = ("requested", "measured", "n", "interval")
    REQUESTED_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    requested: float
    measured: float
    n: int
    interval: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, requested: _Optional[float] = ..., measured: _Optional[float] = ..., n: _Optional[int] = ..., interval: _Optional[_Iterable[float]] = ...) -> None: ...

class CalibrationInfo(_message.Message):
    __slots__ = ("id", "n", "created")
    ID_FIELD_NUMBER: _ClassVar[int]
    N_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    id: str
    n: int
    created: str
    def __init__(self, id: _Optional[str] = ..., n: _Optional[int] = ..., created: _Optional[str] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("model", "version", "request_id", "timing", "seed", "first", "items", "threshold", "calibration", "fitted", "reproducible", "warnings")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    FITTED_FIELD_NUMBER: _ClassVar[int]
    REPRODUCIBLE_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    request_id: str
    timing: Timing
    seed: int
    first: int
    items: _containers.RepeatedCompositeFieldContainer[ScoredItem]
    threshold: ThresholdInfo
    calibration: CalibrationInfo
    fitted: _containers.RepeatedCompositeFieldContainer[Fitted]
    reproducible: bool
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., request_id: _Optional[str] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., seed: _Optional[int] = ..., first: _Optional[int] = ..., items: _Optional[_Iterable[_Union[ScoredItem, _Mapping]]] = ..., threshold: _Optional[_Union[ThresholdInfo, _Mapping]] = ..., calibration: _Optional[_Union[CalibrationInfo, _Mapping]] = ..., fitted: _Optional[_Iterable[_Union[Fitted, _Mapping]]] = ..., reproducible: _Optional[bool] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class ClassifiedItem(_message.Message):
    __slots__ = ("probabilities",)
    class ProbabilitiesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    CLASS_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    probabilities: _containers.ScalarMap[str, float]
    def __init__(self, probabilities: _Optional[_Mapping[str, float]] = ..., **kwargs) -> None: ...

class ClassificationInfo(_message.Message):
    __slots__ = ("by", "class_prior", "temperature", "calibration_error")
    class ClassPriorEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    BY_FIELD_NUMBER: _ClassVar[int]
    CLASS_PRIOR_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_ERROR_FIELD_NUMBER: _ClassVar[int]
    by: str
    class_prior: _containers.ScalarMap[str, float]
    temperature: float
    calibration_error: float
    def __init__(self, by: _Optional[str] = ..., class_prior: _Optional[_Mapping[str, float]] = ..., temperature: _Optional[float] = ..., calibration_error: _Optional[float] = ...) -> None: ...

class ClassifyResponse(_message.Message):
    __slots__ = ("model", "version", "request_id", "timing", "seed", "first", "items", "classification", "fitted", "reproducible")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    CLASSIFICATION_FIELD_NUMBER: _ClassVar[int]
    FITTED_FIELD_NUMBER: _ClassVar[int]
    REPRODUCIBLE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    request_id: str
    timing: Timing
    seed: int
    first: int
    items: _containers.RepeatedCompositeFieldContainer[ClassifiedItem]
    classification: ClassificationInfo
    fitted: _containers.RepeatedCompositeFieldContainer[Fitted]
    reproducible: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., request_id: _Optional[str] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., seed: _Optional[int] = ..., first: _Optional[int] = ..., items: _Optional[_Iterable[_Union[ClassifiedItem, _Mapping]]] = ..., classification: _Optional[_Union[ClassificationInfo, _Mapping]] = ..., fitted: _Optional[_Iterable[_Union[Fitted, _Mapping]]] = ..., reproducible: _Optional[bool] = ...) -> None: ...

class CategoryProbabilities(_message.Message):
    __slots__ = ("probabilities",)
    class ProbabilitiesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    probabilities: _containers.ScalarMap[str, float]
    def __init__(self, probabilities: _Optional[_Mapping[str, float]] = ...) -> None: ...

class ImputedColumns(_message.Message):
    __slots__ = ("columns",)
    class ColumnsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: CategoryProbabilities
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[CategoryProbabilities, _Mapping]] = ...) -> None: ...
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    columns: _containers.MessageMap[str, CategoryProbabilities]
    def __init__(self, columns: _Optional[_Mapping[str, CategoryProbabilities]] = ...) -> None: ...

class ImputeResponse(_message.Message):
    __slots__ = ("model", "version", "request_id", "timing", "seed", "first", "rows", "probabilities", "images", "data", "classes", "fitted", "reproducible", "items")
    class ItemsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: MadeItems
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[MadeItems, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    FITTED_FIELD_NUMBER: _ClassVar[int]
    REPRODUCIBLE_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    request_id: str
    timing: Timing
    seed: int
    first: int
    rows: _containers.RepeatedCompositeFieldContainer[Row]
    probabilities: _containers.RepeatedCompositeFieldContainer[ImputedColumns]
    images: _containers.RepeatedScalarFieldContainer[bytes]
    data: Array
    classes: _containers.RepeatedScalarFieldContainer[str]
    fitted: _containers.RepeatedCompositeFieldContainer[Fitted]
    reproducible: bool
    items: _containers.MessageMap[str, MadeItems]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., request_id: _Optional[str] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., seed: _Optional[int] = ..., first: _Optional[int] = ..., rows: _Optional[_Iterable[_Union[Row, _Mapping]]] = ..., probabilities: _Optional[_Iterable[_Union[ImputedColumns, _Mapping]]] = ..., images: _Optional[_Iterable[bytes]] = ..., data: _Optional[_Union[Array, _Mapping]] = ..., classes: _Optional[_Iterable[str]] = ..., fitted: _Optional[_Iterable[_Union[Fitted, _Mapping]]] = ..., reproducible: _Optional[bool] = ..., items: _Optional[_Mapping[str, MadeItems]] = ...) -> None: ...

class ConditionSummary(_message.Message):
    __slots__ = ("kind", "names", "data", "optional")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    OPTIONAL_FIELD_NUMBER: _ClassVar[int]
    kind: str
    names: _containers.RepeatedScalarFieldContainer[str]
    data: str
    optional: bool
    def __init__(self, kind: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ..., data: _Optional[str] = ..., optional: _Optional[bool] = ...) -> None: ...

class NumberInput(_message.Message):
    __slots__ = ("name", "task", "kind", "default", "minimum", "maximum", "choices")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    name: str
    task: str
    kind: str
    default: float
    minimum: float
    maximum: float
    choices: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, name: _Optional[str] = ..., task: _Optional[str] = ..., kind: _Optional[str] = ..., default: _Optional[float] = ..., minimum: _Optional[float] = ..., maximum: _Optional[float] = ..., choices: _Optional[_Iterable[float]] = ...) -> None: ...

class ModelSummary(_message.Message):
    __slots__ = ("name", "version", "family", "description", "tasks", "endpoints", "state", "reason", "device", "note", "classes", "data", "default", "conditions", "reproducible", "items", "conditioned", "inputs", "dataset", "figures", "featured", "versions", "files", "temperature")
    class ItemsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class ConditionedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: ConditionSummary
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[ConditionSummary, _Mapping]] = ...) -> None: ...
    class FilesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    REPRODUCIBLE_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    CONDITIONED_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    FEATURED_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    family: str
    description: str
    tasks: _containers.RepeatedScalarFieldContainer[str]
    endpoints: _containers.RepeatedScalarFieldContainer[str]
    state: str
    reason: str
    device: str
    note: str
    classes: _containers.RepeatedScalarFieldContainer[str]
    data: str
    default: bool
    conditions: _containers.RepeatedScalarFieldContainer[str]
    reproducible: bool
    items: _containers.ScalarMap[str, str]
    conditioned: _containers.MessageMap[str, ConditionSummary]
    inputs: _containers.RepeatedCompositeFieldContainer[NumberInput]
    dataset: str
    figures: _containers.RepeatedCompositeFieldContainer[Figure]
    featured: int
    versions: _containers.RepeatedScalarFieldContainer[int]
    files: _containers.ScalarMap[str, str]
    temperature: bool
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., family: _Optional[str] = ..., description: _Optional[str] = ..., tasks: _Optional[_Iterable[str]] = ..., endpoints: _Optional[_Iterable[str]] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., device: _Optional[str] = ..., note: _Optional[str] = ..., classes: _Optional[_Iterable[str]] = ..., data: _Optional[str] = ..., default: _Optional[bool] = ..., conditions: _Optional[_Iterable[str]] = ..., reproducible: _Optional[bool] = ..., items: _Optional[_Mapping[str, str]] = ..., conditioned: _Optional[_Mapping[str, ConditionSummary]] = ..., inputs: _Optional[_Iterable[_Union[NumberInput, _Mapping]]] = ..., dataset: _Optional[str] = ..., figures: _Optional[_Iterable[_Union[Figure, _Mapping]]] = ..., featured: _Optional[int] = ..., versions: _Optional[_Iterable[int]] = ..., files: _Optional[_Mapping[str, str]] = ..., temperature: _Optional[bool] = ...) -> None: ...

class Figure(_message.Message):
    __slots__ = ("text", "better")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    BETTER_FIELD_NUMBER: _ClassVar[int]
    text: str
    better: str
    def __init__(self, text: _Optional[str] = ..., better: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("summary", "manifest")
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    summary: ModelSummary
    manifest: str
    def __init__(self, summary: _Optional[_Union[ModelSummary, _Mapping]] = ..., manifest: _Optional[str] = ...) -> None: ...

class TaskStats(_message.Message):
    __slots__ = ("runs", "rows", "requests", "failed", "seconds", "rows_a_run")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    ROWS_A_RUN_FIELD_NUMBER: _ClassVar[int]
    runs: int
    rows: int
    requests: int
    failed: int
    seconds: float
    rows_a_run: float
    def __init__(self, runs: _Optional[int] = ..., rows: _Optional[int] = ..., requests: _Optional[int] = ..., failed: _Optional[int] = ..., seconds: _Optional[float] = ..., rows_a_run: _Optional[float] = ...) -> None: ...

class Stats(_message.Message):
    __slots__ = ("model", "version", "state", "device", "queued_rows", "queued_bytes", "expected_wait_ms", "tasks")
    class TasksEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: TaskStats
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[TaskStats, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    QUEUED_ROWS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_BYTES_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    state: str
    device: str
    queued_rows: int
    queued_bytes: int
    expected_wait_ms: float
    tasks: _containers.MessageMap[str, TaskStats]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., state: _Optional[str] = ..., device: _Optional[str] = ..., queued_rows: _Optional[int] = ..., queued_bytes: _Optional[int] = ..., expected_wait_ms: _Optional[float] = ..., tasks: _Optional[_Mapping[str, TaskStats]] = ...) -> None: ...

class PageFile(_message.Message):
    __slots__ = ("content", "media_type", "checksum")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    media_type: str
    checksum: str
    def __init__(self, content: _Optional[bytes] = ..., media_type: _Optional[str] = ..., checksum: _Optional[str] = ...) -> None: ...

class Preview(_message.Message):
    __slots__ = ("png",)
    PNG_FIELD_NUMBER: _ClassVar[int]
    png: bytes
    def __init__(self, png: _Optional[bytes] = ...) -> None: ...

class ScoreFileResponse(_message.Message):
    __slots__ = ("lines",)
    LINES_FIELD_NUMBER: _ClassVar[int]
    lines: bytes
    def __init__(self, lines: _Optional[bytes] = ...) -> None: ...

class ModelList(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelSummary]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelSummary, _Mapping]]] = ...) -> None: ...
