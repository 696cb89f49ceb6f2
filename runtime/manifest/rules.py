"""The rules for tasks: the inputs and outputs that each must have, so that the endpoints can use it."""

from __future__ import annotations

from manifold.runtime.manifest.tensors import CONDITIONS, NUMBERS, RANDOM, Source

TASKS = (
    "decode",
    "decode_codes",
    "encode",
    "sample",
    "score",
    "score_codes",
    "translate",
    "features",
    "neighbours",
    "impute",
    "predict",
    "predict_row",
    "predict_pixel",
    "predict_part",
    "denoise",
)
# The steps of lossless compression, and the network of a sampler. They have no endpoint and are not served over /v2, as one image takes
# hundreds of runs.
INTERNAL = ("predict_row", "predict_pixel", "predict_part", "denoise")

# Outputs with several equally good values, on which two runtimes need not agree: two items at the same distance may come in either order.
# Only their distances are compared.
TIED = ("nearest", "known")

# The outputs and inputs that each task must have: the endpoints in runtime.operations need them.
REQUIRED_OUTPUTS: dict[str, tuple[tuple[str, ...], ...]] = {  # any one of the alternatives
    "decode": (("data",),),
    "decode_codes": (("data",),),
    "sample": (("data",),),
    "impute": (("data",),),
    "encode": (("mean",), ("codes",), ("latent",)),
    "features": (("features",), ("logits",)),
    "neighbours": (("nearest", "distance"),),
    "predict": (("logits",),), "predict_row": (("links", "next_embedded", "next_vertical"),),
    "predict_pixel": (("logits", "features", "next_embedded", "next_horizontal"),), "predict_part": (("logits",),),
    "denoise": (("prediction",),),
}  # fmt: skip

REQUIRED_SOURCES: dict[str, Source] = {
    "decode": "latent", "decode_codes": "codes", "score_codes": "codes", "encode": "data", "score": "data", "features": "data", "neighbours": "data",
    "impute": "mask",
}  # fmt: skip

STATED: tuple[Source, ...] = (*CONDITIONS, *NUMBERS)  # the inputs that a request states in addition to its items
# The inputs that endpoints fill, each once. Tasks that are not listed take any input that a seed or a default fills.
FILLED: dict[str, tuple[Source, ...]] = {
    "encode": ("data", "normal", *STATED), "score": ("data", *STATED), "features": ("data", *NUMBERS), "neighbours": ("data", *NUMBERS),
    "impute": ("data", "mask", *RANDOM, "temperature", *STATED),
}  # fmt: skip

# The inputs that may have free axes. Noise gets the length of the inputs that a request states. Latents and codes always have their full shape.
FREE: tuple[Source, ...] = ("tokens", "token_mask", "data", "mask", "condition", "normal", "uniform")

# The roles with a fixed meaning. No item may have one of these names.
MEANINGS = (
    "target",
    "latent",
    "codes",
    "values",
    "mean",
    "log_variance",
    "draw",
    "features",
    "logits",
    "nearest",
    "distance",
    "known",
)

# The outputs that endpoints return. The outputs of a score task are the terms of `scoring`, its surprise, and the logits that the golden
# sampler compares. A sampler over real values has `values` instead of codes; golden vectors hold them.
RETURNED: dict[str, tuple[str, ...]] = {
    "decode": ("data",), "decode_codes": ("data",), "sample": ("data", "codes", "latent", "values"), "impute": ("data", "codes", "values"),
    "encode": ("mean", "log_variance", "draw", "latent", "codes"), "features": ("features", "logits"),
    "neighbours": ("nearest", "distance", "known"), "score_codes": ("nll", "logits"),
}  # fmt: skip
