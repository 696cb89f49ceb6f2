"""Invalid manifests in their long forms: each problem gives one line, which names the field and says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manifold.runtime import manifest
from manifold.runtime.errors import ArtifactError
from manifold.runtime.manifest import figures
from manifold.runtime.manifest.file import text_of
from tests import forms
from tests.conftest import SHIPPED
from tests.tabled import COLUMNS

Content = dict[str, Any]


def problems(root: Path, content: Content) -> list[str]:
    """Return the problems of a manifest, one line each."""
    folder = forms.write(root, content)
    with pytest.raises(ArtifactError) as caught:
        manifest.read(folder)
    head, *lines = caught.value.message.splitlines()
    assert head == f"{folder / manifest.FILE}: {'1 field is' if len(lines) == 1 else f'{len(lines)} fields are'} wrong:"
    return [line.strip() for line in lines]


def inputs(content: Content, task: str = "decode") -> dict[str, Any]:
    """Return the inputs of a task by role."""
    return {tensor["role"]: tensor for tensor in content["tasks"][task]["inputs"]}


def replaced(value: Any, old: str, new: str) -> Any:
    """Return a manifest with one name replaced by another."""
    if isinstance(value, dict):
        return {replaced(name, old, new): replaced(each, old, new) for name, each in value.items()}
    if isinstance(value, list):
        return [replaced(each, old, new) for each in value]
    return new if value == old else value


Change = Callable[[Content], object]
WRONG: list[tuple[Callable[[], Content], Change, str]] = [
    # items
    (forms.named, lambda m: m["data"].update(depth=forms.IMAGE), "data.depth: no task has an output with this role"),
    (forms.named, lambda m: m["data"].pop("facts"), "tasks.decode.facts: no endpoint returns this output; those of decode return picture; remove it"),
    (forms.named, lambda m: m.update(replaced(m, "facts", "codes")), "data.codes: 'codes' is the name of another output; choose another name"),
    (forms.named, lambda m: m.update(replaced(m, "facts", "texture")), "data.texture: 'texture' is the name of a latent; choose another name"),
    (forms.named, lambda m: m["data"].update(facts={**forms.TABLE, "columns": COLUMNS[:2]}), "tasks.decode.facts: shape [4], but its section says [3]"),
    (forms.named, lambda m: m["tasks"]["decode"]["outputs"].pop(0), "tasks.decode: has no output with the role 'picture'"),
    (forms.named, lambda m: m["tasks"].pop("translate"), "target: the task translate has no output with the role 'target'"),
    (forms.named, lambda m: m.pop("target"), "tasks.translate.target: shape [1, 4, 6], but its section says [1, 2, 3]"),
    (forms.named, lambda m: m.update(data={}), "data: "),
    (forms.captioned, lambda m: m.update(data={"height": 2, "width": 3, "channels": 1}), "data: its 'kind' is missing; add it"),
    (forms.named, lambda m: m.update(data={"a b": forms.IMAGE}), "data.a b: the name 'a b' does not match the pattern"),
    (
        forms.numbered, lambda m: inputs(m, "impute")["mask"].update(example=[[[5] * 3] * 2]),
        "tasks.impute.mask.example: its numbers go from 5 to 5; use numbers from 0 to 1",
    ),
    (
        forms.several, lambda m: inputs(m)["label"].update(example=[-1, 1, 1]),
        "tasks.decode.label.example: its numbers go from -1 to 1; use numbers from 0 to inf",
    ),
    (
        forms.several, lambda m: inputs(m)["look"].update(example=[[[2] * 3] * 2]),
        "tasks.decode.look.example: its numbers go from 2 to 2; use numbers from 0 to 1",
    ),
    # latents
    (forms.named, lambda m: m["latent"].update(mood={"size": 2}), "latent.mood: no task has an input or an output with this role"),
    (forms.named, lambda m: m["latent"]["place"].update(shape=[2]), "latent.place: size, shape: both are given; give exactly one of them"),
    (
        forms.named, lambda m: m["latent"]["texture"].update(shape=[2, 2]),
        "latent.texture: priors.two: its means and factors do not have the size of the latent; give 4 values",
    ),
    (forms.named, lambda m: m["latent"]["place"].update(size=3), "tasks.decode.place: shape [2], but its section says [3]"),
    (forms.named, lambda m: m.update(latent={"priors": {"normal": {"kind": "normal"}}}), "latent: size, shape: neither is given; give exactly one of them"),
    (forms.named, lambda m: m["latent"]["place"].update(size=None, shape=[300, 300]), "latent.place: shape: [300, 300] has 90000 values; the limit is 65536"),
    (
        forms.named, lambda m: m["latent"]["place"].update(default_prior="two"),
        "latent.place: default_prior: 'two' is not among the priors; use one of ['normal']",
    ),
    (
        forms.named, lambda m: m["latent"]["place"].update(priors={"fitted": {"kind": "gaussian"}}),
        "latent.place.priors.fitted: the numbers of the prior are missing; give mean, cholesky, or a file",
    ),
    (
        forms.named,
        lambda m: m["latent"]["place"].update(priors={"fitted": {"kind": "gaussian", "file": "p.npz", "mean": [0, 0]}}),
        "latent.place.priors.fitted: file: 'p.npz' is given together with mean; give one of them",
    ),
    # conditions
    (forms.several, lambda m: m.update(classes=["a"]), "condition: classes is given too, but a model takes classes or real values"),
    (forms.shaped, lambda m: m.update(classes=["a"]), "condition: given twice, also as classes or conditions; keep one of them"),
    (
        forms.shaped, lambda m: m["condition"].update(priors=[1, 0, 0]),
        "condition: the field priors is missing or unknown; classes have `names` and optionally `prior`",
    ),
    (forms.shaped, lambda m: m["condition"].pop("names"), "condition: the field names is missing or unknown; classes have `names` and optionally `prior`"),
    (
        forms.several, lambda m: m["condition"]["parts"].pop("pose"),
        "tasks.decode.pose: the section `condition` describes label, caption, look, not this input; add a part with its role",
    ),
    (
        forms.several, lambda m: m["condition"]["parts"].update(mood={"kind": "text", "examples": ["a"]}),
        "condition.parts.mood: no task has an input with the source 'tokens' and the role 'mood'",
    ),
    (
        forms.several, lambda m: m["condition"]["parts"]["label"].update(prior=[1, 1, 1]),
        "condition.parts.label.class_prior: the weights add up to 3; they must be at least 0 and add up to 1",
    ),
    (forms.several, lambda m: m["condition"]["parts"]["label"].update(names=["a", "b"]), "tasks.decode.label: shape [3], but there are 2 classes"),
    (
        forms.several, lambda m: inputs(m)["caption"].update(source="condition", dtype="float32", free=None),
        "tasks.decode.caption: the source is 'condition', but a condition of kind 'text' needs inputs with the source tokens and token_mask",
    ),
    (forms.several, lambda m: inputs(m)["look"].update(shape=[1, 2, 2]), "tasks.decode.look: shape [1, 2, 2], but the condition has the shape [1, 2, 3]"),
    (
        forms.several, lambda m: inputs(m)["caption"].update(dtype="float32"),
        "tasks.decode.caption: the type is float32, but the service sends tokens as int64; state the graph's type as in_graph.dtype",
    ),
    (forms.captioned, lambda m: m["condition"].update(examples=[]), "condition.examples: has 0 entries; at least 1 are needed"),
    (
        forms.captioned, lambda m: m["condition"].update(examples=["x" * 17]),
        "condition.examples: a text has 17 bytes, but tasks.decode.tokens takes at most 16; shorten the text",
    ),
    (forms.captioned, lambda m: m.pop("condition"), "tasks.decode.tokens: the section `condition` describes nothing, not this input; add a part with its role"),
    (
        forms.captioned, lambda m: inputs(m)["token_mask"].update(shape=[8]),
        "tasks.decode.token_mask: shape [8]; the mask of tokens must have the shape [16] and the free axes of the tokens",
    ),
    (
        forms.captioned, lambda m: m["tasks"]["decode"]["inputs"].pop(1),
        "tasks.decode.token_mask: this mask has no tokens; add an input with the source 'tokens'",
    ),
    (forms.captioned, lambda m: inputs(m)["tokens"].update(shape=[4, 4]), "tasks.decode.tokens: shape [4, 4]; tokens are a row, so the shape must be [T]"),
    # numbers
    (
        forms.numbered, lambda m: inputs(m)["guidance"].pop("default"),
        "tasks.decode.guidance: has neither a default nor an example; give a default, or an example if every request must state the number",
    ),
    (forms.numbered, lambda m: inputs(m)["guidance"].update(default=21), "tasks.decode.inputs[2]: default: 21 is out of range; give a number from 0 to 20"),
    (forms.numbered, lambda m: inputs(m)["guidance"].update(minimum=30), "tasks.decode.inputs[2]: minimum: 30 is above the maximum 20; exchange them"),
    (
        forms.numbered, lambda m: inputs(m)["steps"].update(default=2.5),
        "tasks.decode.inputs[3]: default, minimum, maximum: not all are whole numbers; an integer needs whole numbers",
    ),
    (
        forms.numbered, lambda m: inputs(m)["steps"].update(dtype="float32"),
        "tasks.decode.steps: the type is float32, but the service sends integer as int64; state the graph's type as in_graph.dtype",
    ),
    (
        forms.numbered, lambda m: inputs(m)["guidance"].update(shape=[1]),
        "tasks.decode.guidance: shape [1]; a number is one number per item, so its shape must be []",
    ),
    (
        forms.numbered, lambda m: inputs(m)["latent"].update(default=1),
        "tasks.decode.inputs[0]: default: only inputs with the source number or integer can have it, not latent; remove it",
    ),
    (
        forms.numbered, lambda m: inputs(m, "encode")["spread"].update(example=-1),
        "tasks.encode.inputs[1]: example: -1 is out of range; give a number from 0 to inf",
    ),
    (
        forms.numbered, lambda m: inputs(m, "encode")["spread"].update(example=[1, 2]),
        "tasks.encode.inputs[1]: example: its shape is [2]; it must be the shape of the input, []",
    ),
    (
        forms.numbered, lambda m: inputs(m, "encode")["data"].update(example=[[1]]),
        "tasks.encode.inputs[0]: example: its shape is [1, 1]; it must be the shape of the input, [1, 2, 3]",
    ),
    # lengths
    (
        lambda: forms.captioned(free=True), lambda m: inputs(m)["tokens"].update(free=[1]),
        "tasks.decode.inputs[1]: free: [1] are not all axes of the shape [",
    ),
    (
        lambda: forms.captioned(free=True), lambda m: m["tasks"]["decode"]["outputs"].append({"role": "other", "shape": [8], "free": [0]}),
        "tasks.decode: free: the free axes have the sizes [8, 16]; all free axes of a task must have the same size",
    ),
    (
        forms.captioned, lambda m: m["tasks"]["decode"]["outputs"].append({"role": "other", "shape": [8], "free": [0]}),
        "tasks.decode: free: an output has a free axis, but no input has one",
    ),
    (
        lambda: forms.captioned(free=True), lambda m: m["tasks"]["decode"].update(buckets=[4, 8]),
        "tasks.decode: buckets: [4, 8] is not valid; list the lengths in ascending order and end with the size of the free axes",
    ),
    (
        forms.captioned, lambda m: m["tasks"]["decode"].update(buckets=[16]),
        "tasks.decode: buckets: [16] is not valid; list the lengths in ascending order and end with the size of the free axes",
    ),
    (
        lambda: forms.captioned(free=True), lambda m: inputs(m)["token_mask"].update(free=None),
        "tasks.decode.token_mask: shape [16]; the mask of tokens must have the shape [16] and the free axes of the tokens",
    ),
    (
        forms.named, lambda m: inputs(m)["texture"].update(free=[0]),
        "tasks.decode.texture.free: an input with the source 'latent' cannot have free axes; only tokens",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "change", "said"), WRONG)
def test_each_problem_is_one_line(tmp_path: Path, make: Callable[[], Content], change: Change, said: str) -> None:
    content = make()
    change(content)
    lines = problems(tmp_path, content)
    assert any(line.startswith(said) for line in lines), lines
    assert len(lines) <= 4  # the same problem in another task, or a consequence of it


def test_several_problems_are_several_lines(tmp_path: Path) -> None:
    content = forms.named()
    content["data"]["depth"], content["latent"]["mood"] = forms.IMAGE, {"size": 1}
    inputs(content)["place"]["shape"] = [7]
    assert problems(tmp_path, content) == [
        "data.depth: no task has an output with this role; add the output, or remove the item",
        "latent.mood: no task has an input or an output with this role; add one, or remove the latent",
        "tasks.decode.place: shape [7], but its section says [2]; make them equal",
    ]


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*/*/manifest.json")), ids=lambda path: path.parent.parent.name)
def test_manifests_in_short_forms_are_written_as_they_were_read(path: Path) -> None:
    stated = json.loads(path.read_text())
    current = {**stated, "metrics": figures.renamed(stated["metrics"])}  # earlier figures get their present names
    assert manifest.dumps(manifest.read(path)) == text_of(current)


def test_manifests_in_long_forms_are_written_as_they_were_read(tmp_path: Path) -> None:
    forms.all_forms(tmp_path)
    for folder in tmp_path.glob("*/*"):
        first = manifest.read(folder)
        (folder / manifest.FILE).write_text(manifest.dumps(first))
        assert manifest.read(folder) == first
        assert manifest.dumps(manifest.read(folder)) == manifest.dumps(first)
