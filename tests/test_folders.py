"""Folders of images as data sets: classes, splits, one image size, the cache, and errors."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from manifold.runtime import folders, imaging
from manifold.runtime.errors import InvalidValue
from manifold.runtime.kinds.image import ImageSpec
from manifold.training import datasets
from manifold.training.data import Arrays, Data, folder, folder_cache
from manifold.training.errors import DataError, TrainingError
from tests.pictures import saved, turned

GENERATOR = np.random.default_rng(7)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(folder_cache.CACHE_VARIABLE, str(tmp_path / "cache"))


def noise(size: tuple[int, int] = (8, 8)) -> np.ndarray:
    """Return a picture with a black border, so that the background is black."""
    pixels = np.zeros(size, np.uint8)
    pixels[1:-1, 1:-1] = GENERATOR.integers(1, 255, (size[0] - 2, size[1] - 2))
    return pixels


def write(root: Path, *names: str, pixels: np.ndarray | None = None) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(saved(noise() if pixels is None else pixels))
    return root


def many(root: Path, n: int = 60, classes: int = 3) -> Path:
    return write(root, *(f"{index % classes}/{index}.png" for index in range(n)))


def names_of(listing: folders.Listing) -> dict[str, tuple[str | None, str | None]]:
    return {entry.name: (entry.label, entry.part) for entry in listing.entries}


# --- classes and splits -------------------------------------------------------------------------------------------------------


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    write(tmp_path, "10/a.png", "9/b.png", "9/deep/c.png", ".git/d.png", "__MACOSX/9/._b.png", "9/._b.png", "9/.b.png")
    listing = folders.listed(tmp_path)
    assert names_of(listing) == {"10/a.png": ("10", None), "9/b.png": ("9", None), "9/deep/c.png": ("9", None)}
    assert listing.classes == ("9", "10")
    assert (listing.classes_by, listing.split_by) == ("sub-folders", None)


@pytest.mark.parametrize("names", [("a.png", "b.png"), ("images/a.png", "images/b.png")])
def test_one_folder_is_no_class(names: tuple[str, ...], tmp_path: Path) -> None:
    listing = folders.listed(write(tmp_path, *names))
    assert listing.classes == ()
    assert listing.classes_by is None


@pytest.mark.parametrize("held_out", ["calibration", "val", "valid", "Validation", "cal", "dev"])
def test_sub_folders_that_are_called_like_splits_are_splits(held_out: str, tmp_path: Path) -> None:
    write(tmp_path, "train/cat/a.png", "train/dog/b.png", f"{held_out}/cat/c.png", "test/dog/d.png")
    listing = folders.listed(tmp_path)
    assert {entry.name.split("/")[0]: entry.part for entry in listing.entries} == {
        "train": "train", "test": "test", held_out: "calibration",
    }  # fmt: skip
    assert listing.classes == ("cat", "dog")
    assert listing.split_by == "sub-folders"


def test_a_class_that_is_called_test_is_a_class_without_train(tmp_path: Path) -> None:
    listing = folders.listed(write(tmp_path, "test/a.png", "other/b.png"))
    assert listing.classes == ("other", "test")
    assert listing.split_by is None


@pytest.mark.parametrize(
    "text",
    [
        "file,label,split\na.png,cat,train\nb/c.png,dog,test\n",
        "\ufefffile,label,split\r\na.png,cat,train\r\nb/c.png,dog,test\r\n",
        "File;Class;Split\n./a.png; cat ;training\nb\\c.png;dog;TEST\n\n",
        "split\tfilename\tlabel\textra\ntrain\ta.png\tcat\t1\ntest\tb/c.png\tdog\t2\n",
        'file, label, split\n"a.png", "cat", train\nb/c.png, dog, test\n',
    ],
)
def test_a_csv_file_states_classes_and_splits(text: str, tmp_path: Path) -> None:
    write(tmp_path, "a.png", "b/c.png", "d.png")
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8", newline="")
    listing = folders.listed(tmp_path)
    assert names_of(listing) == {"a.png": ("cat", "train"), "b/c.png": ("dog", "test")}
    assert (listing.classes_by, listing.split_by, listing.unlisted) == ("labels.csv", "labels.csv", 1)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_file_of_labels_is_read_as_other_tables_are(
    encoding: str, form: Literal["NFC", "NFD"], tmp_path: Path
) -> None:
    write(tmp_path, unicodedata.normalize(form, "\u00e4/\u00e9.png"), "b.png")
    text = 'sep=|\n"file"|label\n"\u00e4/\u00e9.png" | Caf\u00e9 \n' + f"{tmp_path / 'b.png'}|3,5\n"
    (tmp_path / "labels.csv").write_text(text, encoding=encoding)
    assert sorted(entry.label or "" for entry in folders.listed(tmp_path).entries) == ["3,5", "Caf\u00e9"]


@pytest.mark.parametrize(
    ("name", "message"),
    [(".b.png", "is hidden"), ("b.gif", "is not in a supported image format"), ("/b.png", "is not an image file"), ("../a.png", "is not an image file")],
)  # fmt: skip
def test_a_row_of_labels_for_a_file_that_is_not_read_says_why(name: str, message: str, tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    write(root, "a.png", ".b.png")
    (root / "b.gif").write_bytes(b"GIF89a")
    (root / "labels.csv").write_text(f"file,label\na.png,1\n{name},2\n")
    with pytest.raises(InvalidValue, match=rf"row 2: {name} {message}"):
        folders.listed(root)


def test_symbolic_links_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    root, other = tmp_path / "images", tmp_path / "other"
    write(tmp_path, "images/x/a.png", "other/b.png", "c.png")
    (root / "y").symlink_to(other)
    (root / "y" / "back").symlink_to(root / "x")
    (root / "x" / "more").symlink_to(other)
    (root / "x" / "up").symlink_to(root)
    (root / "x" / "d.png").symlink_to(tmp_path / "c.png")
    (root / "x" / "broken.png").symlink_to(tmp_path / "none.png")
    names = {entry.name: entry.label for entry in folders.listed(root).entries}
    assert names == {
        "x/a.png": "x", "x/d.png": "x", "x/more/b.png": "x", "y/b.png": "y", "y/back/a.png": "y", "y/back/d.png": "y",
    }  # fmt: skip


def test_class_folders_without_images_are_told_of(tmp_path: Path) -> None:
    write(tmp_path, *(f"{name}/{index}.png" for name in "xy" for index in range(20)))
    for name in ("z", ".hidden"):
        (tmp_path / name).mkdir()
    assert folders.listed(tmp_path).empty == ("z",)
    assert "these folders contain no images and are not classes: z" in datasets.load(str(tmp_path)).notes


def test_a_csv_file_of_labels_goes_with_sub_folders_of_splits(tmp_path: Path) -> None:
    write(tmp_path, "train/a.png", "test/b.png")
    (tmp_path / "own.csv").write_text("file,label\ntrain/a.png,x\ntest/b.png,y\n")
    assert names_of(folders.listed(tmp_path, "own.csv")) == {"test/b.png": ("y", "test"), "train/a.png": ("x", "train")}


@pytest.mark.parametrize(
    ("names", "table", "message"),
    [
        ((), None, "contains no images"),
        (("train/a.png", "b.png"), None, "b.png is next to the splits train"),
        (("train/a.png", "more/b.png"), None, "more is next to the splits train"),
        (("train/a.png", "val/b.png", "valid/c.png"), None, "mean the same split"),
        (("x/a.png", "y/b.png", "c.png"), None, "c.png is next to the class folders x, y"),
        (("a.png",), "file,label\nz.png,1\n", "row 1: z.png is not an image file"),
        (("a.png",), "file,label\na.png,1\na.png,2\n", "row 2: a.png is listed twice"),
        (("a.png",), "name,label\na.png,1\n", "must name the columns file, label and split"),
        (("a.png",), "", "is empty"),
        (("a.png",), "file,label\n", "has no rows"),
        (("a.png",), "file,label\na.png\n", "row 1: 1 cells, but the header has 2"),
        (("a.png",), "file,split\na.png,later\n", "unknown split 'later'"),
        (("a.png", "b.png"), "file,label\na.png,1\nb.png,\n", "b.png has no label, but others have one"),
        (("a.png", "b.png"), "file,split\na.png,train\nb.png,\n", "b.png has no split, but others have one"),
    ],
)
def test_what_is_not_clear_is_refused(names: tuple[str, ...], table: str | None, message: str, tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    write(root, *names)
    if table is not None:
        (root / "labels.csv").write_text(table)
    with pytest.raises(InvalidValue, match=message):
        folders.listed(root)
    with pytest.raises(TrainingError, match=message):
        datasets.load(str(root))


def test_a_file_of_labels_that_is_missing_or_damaged_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    with pytest.raises(InvalidValue, match="does not exist"):
        folders.listed(tmp_path, "own.csv")
    (tmp_path / "labels.csv").write_bytes("file,label\n\u00e9.png,\n".encode() + b"a.png,\xff\n")
    with pytest.raises(InvalidValue, match=r"labels.csv: byte 26 is not valid UTF-8"):
        folders.listed(tmp_path)
    (tmp_path / "labels.csv").write_text(f"file,label\na.png,{'x' * 200_000}\n")
    with pytest.raises(InvalidValue, match=r"labels.csv: is not a CSV file: field larger"):
        folders.listed(tmp_path)
    with pytest.raises(InvalidValue, match="the folder does not exist"):
        folders.listed(tmp_path / "none")


def contents(data: Data) -> dict[str, list[bytes]]:
    parts = {"train": data.train, "calibration": data.calibration, "test": data.test}
    return {name: [item.tobytes() for item in Arrays.of(part).items] for name, part in parts.items()}


def test_the_split_does_not_depend_on_names_or_on_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(tmp_path / "one", 600, 1)
    data = datasets.load(str(tmp_path / "one"))
    assert [len(part) for part in (data.train, data.calibration, data.test)] == [480, 60, 60]
    assert data.protocol["split"] == "by the SHA-256 of the files, 80/10/10"
    walk = os.walk

    def backwards(*arguments: Any) -> Iterator[Any]:
        for where, inside, files in walk(*arguments):
            inside.sort(reverse=True)
            yield where, inside, sorted(files, reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    again = datasets.load(str(tmp_path / "one"))
    assert contents(again) == contents(data)
    assert again.protocol == data.protocol
    (tmp_path / "two").mkdir()
    for index, path in enumerate(sorted((tmp_path / "one").rglob("*.png"))):
        shutil.copy(path, tmp_path / f"two/{600 - index}.png")
    renamed = datasets.load(str(tmp_path / "two"))
    assert {part: sorted(items) for part, items in contents(renamed).items()} == {
        part: sorted(items) for part, items in contents(data).items()
    }
    assert renamed.protocol["sha256"] != data.protocol["sha256"]


def test_copies_stay_together_and_every_class_is_trained_on(tmp_path: Path) -> None:
    for index in range(40):
        pixels = noise()
        write(tmp_path, f"a/{index}.png", f"a/{index} copy.png", pixels=pixels)
    for index in range(5):
        write(tmp_path, f"rare{index}/x.png")
    data = datasets.load(str(tmp_path))
    parts = contents(data)
    assert not set(parts["train"]) & set(parts["test"])
    assert len(data.test)
    assert set(data.train.labels.tolist()) == set(range(6))
    assert "copies" not in data.protocol
    assert data.folds == 5
    assert not len(data.calibration)


def test_copies_across_stated_splits_are_reported(tmp_path: Path) -> None:
    same = noise()
    write(tmp_path, *(f"{part}/{index}.png" for part in ("train", "val", "test") for index in range(30)))
    write(tmp_path, "train/copy.png", "test/copy.png", pixels=same)
    (tmp_path / "val/copy.webp").write_bytes(saved(np.repeat(same[:, :, None], 3, axis=2), "WEBP", lossless=True))
    data = datasets.load(str(tmp_path))
    assert [len(part) for part in (data.train, data.calibration, data.test)] == [31, 31, 31]
    assert data.protocol["copies"] == {
        "calibration images that are in train": 1, "test images that are in train": 1, "test images that are in calibration": 1,
    }  # fmt: skip
    assert "exact copies: 1 test images that are in train" in data.notes
    assert data.protocol["split"] == "stated by sub-folders"


def test_a_part_that_is_not_stated_is_taken_from_train(tmp_path: Path) -> None:
    write(tmp_path, *(f"train/{index}.png" for index in range(600)), *(f"test/{index}.png" for index in range(20)))
    data = datasets.load(str(tmp_path))
    assert [len(part) for part in (data.train, data.calibration, data.test)] == [540, 60, 20]
    assert data.protocol["split"] == "stated by sub-folders; calibration from train by the SHA-256 of the files"
    shutil.rmtree(tmp_path / "test")
    data = datasets.load(str(tmp_path))
    assert [len(part) for part in (data.train, data.calibration, data.test)] == [480, 60, 60]


def test_a_class_without_training_images_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/1.png", "test/c/1.png")
    with pytest.raises(DataError, match=r"has no training image of the class c"):
        datasets.load(str(tmp_path))


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="has 29 images; at least 30 are needed"):
        datasets.load(str(many(tmp_path, 29)))


# --- reading ------------------------------------------------------------------------------------------------------------------


def test_files_of_every_kind_are_the_same_set(tmp_path: Path) -> None:
    many(tmp_path / "plain")
    for path in (tmp_path / "plain").rglob("*.png"):
        pixels = np.asarray(Image.open(path))
        other = tmp_path / "other" / path.relative_to(tmp_path / "plain")
        other.parent.mkdir(parents=True, exist_ok=True)
        made = (
            saved(Image.fromarray(pixels.astype(np.uint16) * 257)),
            saved(np.dstack([np.full_like(pixels, 255), pixels])),
            turned(np.rot90(pixels), 6),
            saved(np.repeat(pixels[:, :, None], 3, axis=2)),
        )
        other.write_bytes(made[int(path.stem) % 4])
    sets = [datasets.load(str(tmp_path / name)) for name in ("plain", "other")]
    assert sets[0].spec == sets[1].spec == ImageSpec(height=8, width=8, channels=1, background=0.0)
    every = [sorted(item for part in contents(data).values() for item in part) for data in sets]
    assert every[0] == every[1]
    assert sets[1].protocol["files"] == {
        "16 bits to 8": 15, "laid over the background": 15, "turned upright by its EXIF tag": 15, "RGB to grey": 15,
    }  # fmt: skip
    assert "15 of 60 files: turned upright by its EXIF tag" in sets[1].notes


def test_sizes_that_differ_need_a_size(tmp_path: Path) -> None:
    many(tmp_path)
    write(tmp_path, "1/odd.png", pixels=noise((20, 10)))
    with pytest.raises(TrainingError, match=r"have 2 sizes: 8x8 \(60\), 10x20 \(1\); choose .* such as --size 8x8"):
        datasets.load(str(tmp_path))
    data = datasets.load(f"{tmp_path}?size=12x8")
    assert data.spec.shape == (1, 8, 12)
    assert data.protocol["size"] == "12x8"


def test_colour_and_background_follow_from_the_files(tmp_path: Path) -> None:
    many(tmp_path / "a")
    assert datasets.load(str(tmp_path / "a")).spec == ImageSpec(height=8, width=8, channels=1, background=0.0)
    write(tmp_path / "a", "0/colour.png", pixels=GENERATOR.integers(0, 255, (8, 8, 3), np.uint8))
    assert datasets.load(str(tmp_path / "a")).spec.shape == (3, 8, 8)
    assert datasets.load(f"{tmp_path / 'a'}?colour=grey").spec.shape == (1, 8, 8)
    for index in range(60):
        write(tmp_path / "white", f"{index}.png", pixels=255 - noise())
        write(tmp_path / "any", f"{index}.png", pixels=GENERATOR.integers(0, 255, (8, 8), np.uint8))
        write(tmp_path / "black ink", f"{index}.png", pixels=np.dstack([np.zeros((8, 8), np.uint8), noise()]))
    for name, background in (("white", 1.0), ("any", None), ("black ink", 1.0)):
        spec = datasets.load(str(tmp_path / name)).spec
        assert isinstance(spec, ImageSpec)
        assert spec.background == background, name
    assert datasets.load(f"{tmp_path / 'any'}?background=0.5&invert=1").spec == ImageSpec(
        height=8, width=8, channels=1, background=0.5, invert=True
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("sizes=8x8", "unknown folder option 'sizes'; valid are size, colour"),
        ("size=8", "'8' is not a size from 1x1 to 4096x4096; write WIDTHxHEIGHT"),
        ("size=0x8", "is not a size"),
        ("size=9999x8", "is not a size"),
        ("colour=red", "unknown value 'red'; valid are grey, rgb"),
        ("background=2", "is not valid; use `none` or a number from 0 to 1"),
        ("background=white", "is not valid; use `none` or a number from 0 to 1"),
        ("background=none&invert=1", "no background colour was found in the images"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=message):
        datasets.load(f"{many(tmp_path)}?{options}")


def test_an_unreadable_file_is_named_or_left_out(tmp_path: Path) -> None:
    many(tmp_path)
    (tmp_path / "1/bad.png").write_bytes(b"no image")
    (tmp_path / "2/cut.png").write_bytes((tmp_path / "0/0.png").read_bytes()[:50])
    with pytest.raises(DataError, match=r"1/bad\.png: is not an image.* \(and 1 more files\); .*--skip-unreadable"):
        datasets.load(str(tmp_path))
    data = datasets.load(f"{tmp_path}?skip=1")
    assert data.protocol["unreadable"] == 2
    assert "skipped, as it cannot be read: 1/bad.png" in data.notes
    assert sum(len(items) for items in contents(data).values()) == 60


def test_images_of_other_formats_are_told_of(tmp_path: Path) -> None:
    many(tmp_path)
    for name in ("0/a.gif", "1/b.TIFF", ".hidden/c.bmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image")
    shutil.copy(
        tmp_path / "0/0.png", tmp_path / "0/x.jfif"
    )  # the content decides the format; the name only shows that it is an image
    data = datasets.load(str(tmp_path))
    assert data.protocol["images"] == 61
    assert any(
        note.startswith("2 files are left out, since their image format is not supported (such as 0/a.gif)")
        for note in data.notes
    )


# --- names --------------------------------------------------------------------------------------------------------------------


def test_a_name_is_never_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    many(tmp_path / "digits")
    assert datasets.load("digits").protocol["data"] == "digits"
    for name in ("./digits", "digits/", str(tmp_path / "digits")):
        data = datasets.load(name)
        assert len(data.train) == 54
        assert data.name == data.protocol["data"] == str(tmp_path / "digits")
        assert datasets.short(name) == "digits"
    with pytest.raises(TrainingError, match="the folder does not exist"):
        datasets.load("missing/")
    with pytest.raises(TrainingError, match=r"unknown data set 'missing'.* or of a folder of images"):
        datasets.load("missing")
    with pytest.raises(TrainingError, match="unknown data set ''"):
        datasets.load("")
    odd = many(tmp_path / "what?size=1x1")  # a name that looks like options
    assert datasets.load(str(odd)).spec.shape == (1, 8, 8)


def test_options_are_stated_beside_a_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    many(tmp_path / "a")
    assert datasets.stated("a?colour=rgb", {"size": "9x9", "skip": True, "invert": False}) == f"{tmp_path}/a?size=9x9&colour=rgb&skip=1"  # fmt: skip
    assert datasets.stated("digits", {"size": None, "skip": False}) == "digits"
    with pytest.raises(TrainingError, match="size: 'digits' is not a folder of images"):
        datasets.stated("digits", {"size": "9x9"})
    spec = ImageSpec(height=5, width=6, channels=3, background=1.0, invert=True, range=(-1.0, 1.0), levels=4)
    assert datasets.like("digits", spec) == "digits"
    assert datasets.like("a?skip=1", spec) == f"{tmp_path}/a?size=6x5&colour=rgb&background=1&invert=1&skip=1"
    data = datasets.load_like("a", spec)
    assert data.spec == spec
    assert data.inputs(data.test).min() >= -1


# --- the cache ----------------------------------------------------------------------------------------------------------------


def test_files_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = many(tmp_path / "a")
    first = datasets.load(str(root))
    read = imaging.read_image
    decoded: list[str] = []

    def counting(content: bytes, *arguments: Any, **options: Any) -> Any:
        decoded.append(options["field"])
        return read(content, *arguments, **options)

    monkeypatch.setattr(imaging, "read_image", counting)
    assert contents(datasets.load(str(root))) == contents(first)
    assert decoded == []
    (tmp_path / "labels.csv").write_text(
        "file,label\n" + "".join(f"{index % 3}/{index}.png,x\n" for index in range(60))
    )
    assert datasets.load(f"{root}?labels=../labels.csv").classes == ("x",)  # other classes do not change the images
    assert decoded == []
    write(root, "0/0.png")  # another image with the same name
    changed = datasets.load(str(root))
    assert changed.protocol["sha256"] != first.protocol["sha256"]
    assert len(decoded) == 60


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY nothing", None])
def test_a_damaged_cache_is_made_anew(damage: bytes | None, tmp_path: Path) -> None:
    root = many(tmp_path / "a")
    first = contents(datasets.load(str(root)))
    for path in folder_cache.cache_folder().iterdir():
        if damage is None:
            path.write_bytes(path.read_bytes()[:-20])
        else:
            path.write_bytes(damage)
    assert contents(datasets.load(str(root))) == first
    assert not [path for path in folder_cache.cache_folder().iterdir() if path.name.startswith(".")]


def test_a_large_set_is_read_from_the_cache_by_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = many(tmp_path / "a", 600)
    small = datasets.load(str(root))
    monkeypatch.setattr(folder, "IN_MEMORY", 0)
    large = datasets.load(str(root))
    assert isinstance(small.train, Arrays)
    assert not isinstance(large.train, Arrays)
    assert contents(large) == contents(small)
    assert np.array_equal(large.train.labels, small.train.labels)
    indices = np.asarray([5, 2, 2])
    assert np.array_equal(large.train.batch(indices).items, small.train.batch(indices).items)
    assert np.array_equal(large.train.batch(indices).labels, small.train.labels[indices])
