"""The use cases of the service, one module each: request, response, handling, and a description for every surface.

REST, gRPC, OpenAPI, the command line and the page read `every`. To add an endpoint, add its module here, the module of its operation in
runtime.operations, and its messages in proto/manifold.proto.
"""

from __future__ import annotations

import importlib
import pkgutil

from manifold.runtime.operations.capabilities import capabilities
from manifold.service.core.use_cases.base import UseCase


def _load() -> dict[str, UseCase]:
    """Import every module of this package, and return the use cases that they define, in the order of the endpoints."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    defined = {module.USE_CASE.name: module.USE_CASE for module in modules if hasattr(module, "USE_CASE")}
    return {name: defined[name] for name in capabilities() if name in defined}


every: dict[str, UseCase] = _load()
