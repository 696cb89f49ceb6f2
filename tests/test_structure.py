"""The rules of the code base: which package imports which, and which packages the service must not need."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

OURS = {"runtime", "service", "training", "evaluation", "cli", "manifold_client"}
MAY_IMPORT = {
    "runtime": set(),
    "service": {"runtime"},
    "training": {"runtime", "evaluation"},  # training may evaluate its models
    "evaluation": {"runtime"},
    "client/manifold_client": set(),
}
# the two transports of the service do not import each other, and their shared modules import neither
TRANSPORTS = {"manifold.service.http", "manifold.service.rpc"}
MAY_NOT_IMPORT = {
    "service/http": {"manifold.service.rpc"},
    "service/rpc": {"manifold.service.http"},
    "service/core": TRANSPORTS,
    "service/models": TRANSPORTS,
    "service/telemetry": TRANSPORTS,
}
ONLY_IN = {
    "PIL": {
        "runtime/imaging.py",
        "runtime/pictures.py",
        "evaluation/codecs.py",
    },  # the last one measures Pillow's codecs
    "onnxruntime": {"runtime/graphs/backends.py"},
}


MOST_BYTES = 24_000  # largest size of a source file
GENERATED = {
    "service/stubs/inference_pb2_grpc.py", "service/stubs/manifold_pb2.py", "service/stubs/manifold_pb2_grpc.py",
}  # fmt: skip


def modules(path: Path) -> set[str]:
    """Return the modules that a file imports anywhere. A name that is imported from a package may be one of its modules."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def imports(path: Path) -> set[str]:
    """Return the packages that a file imports: ours by their own names, such as runtime, others by their top-level names."""
    ours = {name.removeprefix("manifold.") for name in modules(path) - {"manifold"}}
    return {name.split(".")[0] for name in ours}


def test_the_client_comes_with_the_licence() -> None:
    """The distribution of the client is built from client/ alone."""
    assert (ROOT / "client/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_import_rules(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        own = package.split("/")[-1]
        assert imports(path) & (OURS - {own}) <= MAY_IMPORT[package], path


@pytest.mark.parametrize("room", MAY_NOT_IMPORT)
def test_rooms_of_the_service(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        for module in modules(path):
            assert not any(f"{module}.".startswith(f"{other}.") for other in MAY_NOT_IMPORT[room]), f"{path}: {module}"


def test_one_place_for_pillow_onnxruntime_and_torch() -> None:
    for package in ("runtime", "service", "training", "evaluation"):
        for path in (ROOT / package).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            for module, places in ONLY_IN.items():
                assert module not in imports(path) or name in places, name
            if package != "training":
                assert "torch" not in imports(path) or name == "runtime/graphs/backends.py", name


def test_the_service_knows_no_family() -> None:
    # "flow" is also the name of a path from noise to data, which a manifest states
    families = {path.stem for path in (ROOT / "training/families").glob("*.py")} - {"__init__", "flow"}
    for package in ("runtime", "service", "evaluation"):
        for path in (ROOT / package).rglob("*.py"):
            words = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            assert not words & families, path


def test_data_needs_neither_torch_nor_a_data_set_by_name() -> None:
    for path in (ROOT / "training/data").rglob("*.py"):
        assert "torch" not in imports(path), path
        assert not any(name.startswith("manifold.training.datasets") for name in modules(path)), path


def test_a_family_imports_another_only_to_extend_it() -> None:
    extended = {
        "aae": {"vae"},
        "cvae": {"vae"},
        "denoising": {"vae"},
        "hierarchical": {"vae"},
        "tabular_vae": {"vae"},
        "tabular_cvae": {"cvae", "tabular_vae"},
        "cgan": {"gan"},
    }
    stems = {path.stem for path in (ROOT / "training/families").glob("*.py")} - {"__init__"}
    for stem in stems:
        others = {
            name
            for name in stems
            if f"manifold.training.families.{name}" in modules(ROOT / f"training/families/{stem}.py")
        }
        assert others == extended.get(stem, set()), stem


def test_the_service_imports_neither_torch_nor_training() -> None:
    unwanted = {"torch", "training", "onnx", "sklearn", "matplotlib"}
    loaded = "{name.removeprefix('manifold.').split('.')[0] for name in sys.modules}"
    code = f"import sys, manifold.service.__main__, manifold.runtime.engine; print({unwanted} & {loaded})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_no_time_limit_depends_on_the_wall_clock() -> None:
    """The clock may be set while the service runs. Only timestamps in outputs and the ages of files use it."""
    told = {"service/telemetry/tracing.py", "service/inference/core.py", "runtime/repository.py"}
    for package in ("runtime", "service"):
        for path in (ROOT / package).rglob("*.py"):
            calls = {
                ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
            }
            assert not calls & {"time.time", "time.time_ns"} or path.relative_to(ROOT).as_posix() in told, path


def test_evaluation_needs_no_torch() -> None:
    code = (
        "import sys, manifold.evaluation.session, manifold.evaluation.report_page, manifold.training.judging; "
        "print({'torch', 'onnx', 'manifold.service'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_no_file_is_too_long_to_read() -> None:
    for package in ("runtime", "service", "training", "evaluation", "cli", "client", "benchmarks", "tests"):
        for path in (ROOT / package).rglob("*.py"):
            assert path.stat().st_size <= MOST_BYTES or path.relative_to(ROOT).as_posix() in GENERATED, path


def test_the_folders_that_must_exist() -> None:
    for name in ("service", "training", "models", "proto", "tests", "docker-compose.yml", "pyproject.toml"):
        assert (ROOT / name).exists(), name
