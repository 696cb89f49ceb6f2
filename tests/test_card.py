"""The model card that `manifold push` writes beside the versions of a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifold.runtime import manifest as manifests
from manifold.runtime import repository
from manifold.runtime.sharing import card
from tests.conftest import SHIPPED
from tests.pushed import artifact, front_of, run


def test_the_card_is_made_from_the_manifest(tmp_path: Path) -> None:
    made = artifact(tmp_path)
    run("push", made, tmp_path / "share")
    text = (tmp_path / "share/own/README.md").read_text()
    fields = front_of(text)
    assert fields["license"] == "mit" and fields["library_name"] == "manifold"
    assert fields["pipeline_tag"] == "unconditional-image-generation"
    assert {"manifold", "onnx", "image", "sample"} <= set(fields["tags"])
    assert fields["metrics"] == ["fid", "kid"]
    assert [each["value"] for each in fields["model-index"][0]["results"][0]["metrics"]] == [12.5, 0.5]
    assert "![samples of own](1/preview.png)" in text and (tmp_path / "share/own/1/preview.png").exists()
    assert f"manifold pull {tmp_path}/share/own/1\n" in text
    assert "Protocol: data made; n 100; extractor e/1." in text
    assert "| fid | 12.5 ± 0.25 |  |  |" in text and "| kid | 0.5 |  | blocks 20 |" in text
    assert "Made | for tests." in text and "/home/me" not in text


@pytest.mark.parametrize("name", ["mnist-vae", "transactions-vae", "fashion-cgan", "digits-classifier", "mnist-vae-ts"])
def test_the_cards_of_shipped_models_have_valid_metadata(name: str) -> None:
    manifest = manifests.read(repository.find(name, SHIPPED))
    text = card.build(manifest, f"hf://me/{name}/1", [manifest.version])
    fields = front_of(text)
    assert fields["license"] == "other" and manifest.license in text  # the licence of the data is not that of the model
    assert len(fields["model-index"][0]["results"][0]["metrics"]) == len(manifest.metrics)
    for metric in manifest.metrics:
        assert f"| {metric.name} | {metric.value:.6g}" in text
    expected = {"transactions-vae": None, "digits-classifier": "image-classification"}
    assert fields.get("pipeline_tag") == expected.get(name, "unconditional-image-generation")
    assert front_of(card.build(manifest, "x", [1], "cc0-1.0"))["license"] == "cc0-1.0"


def test_odd_texts_stay_in_their_place(tmp_path: Path) -> None:
    text = 'a: "b"\n---\n| c | <img src=x> # é \x7f\u2028 é'
    odd = [{"name": text, "value": 1.0, "protocol": {text: text}}]
    made = artifact(tmp_path, description=text, license=text, metrics=odd, family=text)
    run("push", made, tmp_path / "share")
    written = (tmp_path / "share/own/README.md").read_text()
    fields = front_of(written)
    assert fields["license"] == "other" and len(fields["metrics"]) == 1 and fields["library_name"] == "manifold"
    assert "<img" not in written.partition(card.BEGIN)[2]
    assert written.count("\n---\n") == 1


def test_the_card_describes_the_latest_version_and_keeps_what_users_add(tmp_path: Path) -> None:
    path = tmp_path / "share/own/README.md"
    run("push", artifact(tmp_path, 2), tmp_path / "share")
    path.write_text(path.read_text() + "\n## My notes\n\nKept.\n")
    run("push", artifact(tmp_path, 1, seed=1), tmp_path / "share")
    assert "own/2\n" in path.read_text()
    run("push", artifact(tmp_path, 3, seed=3), tmp_path / "share")
    text = path.read_text()
    assert "share/own/3\n" in text and "versions here: 1, 2, 3" in text and text.endswith("\n## My notes\n\nKept.\n")
    assert text.count(card.END) == 1


def test_a_card_by_a_user_is_kept_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    made, path = artifact(tmp_path), tmp_path / "share/own/README.md"
    path.parent.mkdir(parents=True)
    path.write_text("# Mine\n")
    assert "is kept; --replace-card replaces it" in run("push", made, tmp_path / "share")
    assert path.read_text() == "# Mine\n"
    run("push", made, tmp_path / "share", "--replace-card", "--license", "apache-2.0")
    assert front_of(path.read_text())["license"] == "apache-2.0"


def test_figures_that_were_recorded_later_are_pushed_again(tmp_path: Path) -> None:
    made = artifact(tmp_path)
    run("push", made, tmp_path / "share")
    repository.save_metrics(made, [manifests.Metric(name="fid", value=9.75)])
    assert "its figures there were replaced" in run("push", made, tmp_path / "share")
    assert manifests.read(tmp_path / "share/own/1").metrics[0].value == 9.75
    assert "| fid | 9.75 |" in (tmp_path / "share/own/README.md").read_text()
    run("pull", tmp_path / "share", "--models", tmp_path / "here")
    repository.save_metrics(made, [])
    assert "those in the folder are kept" in run("pull", made, "--models", tmp_path / "here")


def test_paths_of_this_machine_in_the_manifest_are_named(tmp_path: Path) -> None:
    made = artifact(tmp_path, provenance={"data": {"data": "/home/me/payments.csv", "test": "10 rows"}})
    said = run("push", made, tmp_path / "share")
    assert "paths of your machine" in said and "provenance.data.data: /home/me/payments.csv" in said
    text = (tmp_path / "share/own/README.md").read_text()
    assert "| data | payments.csv |" in text and "/home/me" not in text
