"""The rules for tasks: what each must take and give for the use cases to be made of it."""

from __future__ import annotations

from manifold.runtime.manifest.tensors import CONDITIONS, NUMBERS, Source

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
)

# Outputs whose values may be any of several that are equally good, so that no two runtimes need agree: which of two items that lie equally
# near comes first. Their distances are what is compared.
TIED = ("nearest", "known")

# What each task must give and take: without these the use cases of runtime.operations could not be made of tasks.
REQUIRED_OUTPUTS: dict[str, tuple[tuple[str, ...], ...]] = {  # any one of the alternatives
    "decode": (("data",),),
    "decode_codes": (("data",),),
    "sample": (("data",),),
    "impute": (("data",),),
    "encode": (("mean",), ("codes",)),
    "features": (("features",),),
    "neighbours": (("nearest", "distance"),),
}

REQUIRED_SOURCES: dict[str, Source] = {
    "decode": "latent", "decode_codes": "codes", "score_codes": "codes", "encode": "data", "score": "data", "features": "data", "neighbours": "data",
    "impute": "mask",
}  # fmt: skip

STATED: tuple[Source, ...] = (*CONDITIONS, *NUMBERS)  # the inputs that a request states beside its items
# The inputs that use cases fill, each once. Tasks that are not named here take any that a seed or a default fills.
FILLED: dict[str, tuple[Source, ...]] = {
    "encode": ("data", *STATED), "score": ("data", *STATED), "features": ("data", *NUMBERS), "neighbours": ("data", *NUMBERS),
    "impute": ("data", "mask", "uniform", "temperature", *STATED),
}  # fmt: skip

# The inputs that may have free axes: noise has the length of what a request states. Latents and codes are always stated as a whole.
FREE: tuple[Source, ...] = ("tokens", "token_mask", "data", "mask", "condition", "normal", "uniform")

# The roles that mean something, so that no item may be called so.
MEANINGS = (
    "target",
    "latent",
    "codes",
    "values",
    "mean",
    "log_variance",
    "features",
    "logits",
    "nearest",
    "distance",
    "known",
)

# The outputs that use cases return. A score task's are the terms of `scoring`, its surprise, and what the golden sampler compares.
# `values` are what a sampler over real values has instead of codes: golden vectors hold them.
RETURNED: dict[str, tuple[str, ...]] = {
    "decode": ("data",), "decode_codes": ("data",), "sample": ("data", "codes", "latent", "values"), "impute": ("data", "codes", "values"),
    "encode": ("mean", "log_variance", "latent", "codes"), "features": ("features", "logits"),
    "neighbours": ("nearest", "distance", "known"), "score_codes": ("nll", "logits"),
}  # fmt: skip
