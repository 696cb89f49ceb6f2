"""The extras of the package and the modules that they hold. The table comes from the package's own metadata."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterable, Sequence
from importlib import metadata
from importlib.util import find_spec

DISTRIBUTION = "manifold"
BACKENDS = ("cpu", "gpu")  # extras with ONNX Runtime, of which one is installed
GPU_RUNTIME = "onnxruntime-gpu"
# distributions whose module has another name than theirs, with dashes as underscores
MODULES = {
    "grpcio": "grpc",
    "grpcio-health-checking": "grpc_health",
    "grpcio-reflection": "grpc_reflection",
    "grpcio-status": "grpc_status",
    "grpcio-tools": "grpc_tools",
    "nvidia-ml-py": "pynvml",
    "onnxruntime-gpu": "onnxruntime",
    "opentelemetry-exporter-otlp-proto-http": "opentelemetry",
    "opentelemetry-sdk": "opentelemetry",
    "pillow": "PIL",
    "pytest-xdist": "xdist",
    "python-multipart": "python_multipart",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "myst-parser": "myst_parser",
}
REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")


def module_of(requirement: str) -> str:
    """Return the top module of a requirement, such as sklearn of scikit-learn>=1.5."""
    match = REQUIREMENT.match(requirement)
    name = match.group().lower() if match else requirement
    return MODULES.get(name, re.sub(r"[-.]", "_", name))


def requirements() -> list[str]:
    """Return the requirements of the installed package, each with its extra as a marker; an empty list if the package has no metadata."""
    try:
        return metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []


def _modules(required: Iterable[str]) -> dict[str, list[str]]:
    """Return the modules that each extra holds."""
    held: dict[str, list[str]] = {}
    for requirement in required:
        if match := EXTRA.search(requirement):
            held.setdefault(match[1], []).append(module_of(requirement))
    return held


def required_modules(required: Iterable[str]) -> set[str]:
    """Return the modules of the requirements that belong to no extra."""
    return {module_of(requirement) for requirement in required if not EXTRA.search(requirement)}


def extras_with(module: str, required: Iterable[str]) -> list[str]:
    """Return the extras that hold a module, the one with the fewest requirements first."""
    held = _modules(required)
    top = module.partition(".")[0]
    return sorted((extra for extra, modules in held.items() if top in modules), key=lambda extra: len(held[extra]))


def check(*extras: str) -> None:
    """Raise ModuleNotFoundError for the first module of these extras that is not installed. Nothing is imported.

    ONNX Runtime, the module of the extras cpu and gpu, has one name in both.
    """
    required = requirements()
    for extra in extras:
        for module in _modules(required).get(extra, ()):
            if find_spec(module) is None:
                raise ModuleNotFoundError(f"No module named {module!r}", name=module)


def advice(module: str, preferred: Sequence[str] = (), required: Iterable[str] | None = None) -> str:
    """Return what to do about a missing module: the command that installs the extra that holds it.

    `preferred` are the extras that the failed command needs as a whole. If one of them holds the module it is named first, otherwise the
    smallest extra that does.
    """
    known = extras_with(module, requirements() if required is None else required)
    if not known:
        return f"{module} is not installed. It belongs to no extra of Manifold; repeat the installation: {command()}"
    first = next((extra for extra in preferred if extra in known), known[0])
    others = [extra for extra in known if extra != first and extra != "dev"]
    also = f" (also in: {', '.join(others)})" if others else ""
    return f"{module} is not installed. It is part of the extra {first}{also}; install it with: {command(first)}"


def command(*extras: str) -> str:
    """Return the command that installs extras beside the extra with ONNX Runtime that this machine has."""
    own = [extra for extra in extras if extra not in BACKENDS]
    backend = next((extra for extra in extras if extra in BACKENDS), "gpu" if version(GPU_RUNTIME) else "cpu")
    wanted = f"[{','.join([backend, *own])}]"
    source = _source()
    return f"pip install -e '.{wanted}'" if source is None else f"pip install '{DISTRIBUTION}{wanted}{source}'"


def _source() -> str | None:
    """Return where the package was installed from, as the end of a requirement; None for a source folder (`pip install -e`).

    pip records it in direct_url.json (PEP 610); the file is absent if the package came from an index. In a source folder, Python finds the
    metadata that setuptools left there (.egg-info) before those that pip wrote.
    """
    known = list(metadata.distributions(name=DISTRIBUTION))
    stated = [text for each in known if (text := each.read_text("direct_url.json"))]
    if not stated:
        return "" if any(each.read_text("METADATA") for each in known) else None
    found = json.loads(stated[0])
    if found.get("dir_info", {}).get("editable"):
        return None
    vcs = found.get("vcs_info")
    return f" @ {vcs['vcs']}+{found['url']}@{vcs['commit_id']}" if vcs else f" @ {found['url']}"


def version(distribution: str) -> str | None:
    """Return the installed version of a distribution, None if it is not installed. Nothing is imported."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def surroundings(backend: str, device: str) -> str:
    """Return what a graph runs with here, on which the last bits of its outputs can depend: library, device and type of CPU, and Pillow."""
    library = "torch" if backend == "torchscript" else "onnxruntime"
    installed = version(library) or version(GPU_RUNTIME)
    return f"{library} {installed}, device {device}, CPU {platform.machine()}, pillow {version('pillow')}"


def versions() -> list[str]:
    """Return lines with the versions of this package and of the libraries that run models."""
    runtime = version("onnxruntime") or version(GPU_RUNTIME)
    return [
        f"manifold {version(DISTRIBUTION) or 'of a source folder, not installed'}",
        f"onnxruntime {runtime or 'not installed'}",
        f"torch {version('torch') or 'not installed'}",
    ]
