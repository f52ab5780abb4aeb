"""Folders of images of one's own: which images they are, and inputs that once gave a wrong result, each named."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from test_data_feeds import make_tree, picture

from senet_lab.compose import compose
from senet_lab.config import Data, RunError, UserError
from senet_lab.reports import curves
from senet_lab.studies import plan, plan_text, record_tables, search
from senet_lab.studies.export_facts import of_plan
from senet_lab.studies.export_optuna import missing_trials
from senet_lab.studies.forecast import Expectation
from senet_lab.studies.store import Store
from senet_lab.training import content_digests, feeds, folder, trial
from senet_lab.training.data import data_facts, load_splits
from senet_lab.training.feeds import FolderFeed
from senet_lab.training.images import Files, ImageIndex


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "senet_lab"


@pytest.fixture
def tree(tmp_path: Path) -> Data:
    """Three classes, with 8, 7 and 5 training images."""
    return make_tree(tmp_path / "images", {"a": 8, "b": 7, "c": 5})


def replaced(path: Path) -> None:
    """Another image of the same name, size and time of writing."""
    was = path.stat()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


def old(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock an hour later, so that no file has just changed."""
    later = content_digests.time.time_ns() + 3600 * 10**9
    monkeypatch.setattr(content_digests.time, "time_ns", lambda: later)


# ------------------------------------------------------------------------------------------- which images they are


def test_other_images_of_the_same_names_and_sizes(tree: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen: the data set changes, and a record of the old one is shown for it."""
    old(Path(tree.root), monkeypatch)
    before = data_facts(tree)
    replaced(Path(tree.root) / "train" / "b" / "3.png")
    after = data_facts(tree)
    assert after.identity != before.identity
    assert after.earlier == before.earlier == data_facts(dataclasses.replace(tree, identity="names")).identity
    with pytest.raises(RunError, match="the images have changed since the study began"):
        load_splits(tree, identity=before.identity)
    assert len(load_splits(tree, identity=after.identity).train) == 15


@pytest.mark.parametrize("feed", ["files", "memory"])
def test_images_that_change_in_the_middle_of_a_study(tree: Data, feed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen: a trial is recorded for images that were replaced after it was planned."""
    if feed == "memory":
        found = folder.index

        def late(data: Data) -> ImageIndex:
            known = found(data)
            replaced(Path(tree.root) / "train" / "b" / "3.png")
            return known

        monkeypatch.setattr(folder, "index", late)
        with pytest.raises(RunError, match=r"b/3\.png has changed since the study began"):
            load_splits(dataclasses.replace(tree, validation=0), "memory")
        return
    splits = load_splits(dataclasses.replace(tree, validation=0), feed)
    assert len(list(splits.train.batches(4, 0))) == 5
    replaced(Path(tree.root) / "train" / "b" / "3.png")
    with pytest.raises(RunError, match=r"b/3\.png has changed since the study began"):
        list(splits.train.batches(4, 0))


def spellings(root: Path) -> dict[str, str]:
    (root.parent / "link").symlink_to(root)
    return {
        "absolute": str(root),
        "slash": f"{root}/",
        "dot": f"./{root.name}",
        "double": f"{root.name}//",
        "up": f"{root.name}/../{root.name}",
        "link": "link",
        "home": f"~/{root.name}",
    }


def test_however_the_root_is_spelled(tree: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen: the same images, under another id."""
    monkeypatch.chdir(Path(tree.root).parent)
    monkeypatch.setenv("HOME", str(Path(tree.root).parent))
    found = {
        name: data_facts(dataclasses.replace(tree, root=root)) for name, root in spellings(Path(tree.root)).items()
    }
    assert len(set(found.values())) == 1, found
    shutil.copytree(tree.root, "other")
    Path("other/train").rename("other/learn")
    assert data_facts(dataclasses.replace(tree, root="other", train="learn")).identity == found["slash"].identity


def test_a_second_start_reads_nothing(tree: Data, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen: a start that takes as long as the first; and a cache that is damaged, or cannot be written."""
    old(Path(tree.root), monkeypatch)
    first = data_facts(tree)
    (kept,) = cache.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(content_digests.hashlib, "file_digest", None)
        assert data_facts(tree) == first
    whole = kept.read_bytes()
    for damaged in (b"", whole[:-1], whole[:40], whole[:50] + b"x" + whole[51:], b"\0" * len(whole)):
        kept.write_bytes(damaged)
        assert data_facts(tree) == first
    assert kept.read_bytes() == whole
    kept.unlink()
    cache.rmdir()
    cache.touch()
    assert data_facts(tree) == first


def test_a_file_that_has_just_changed_is_not_kept(tree: Data, cache: Path) -> None:
    """Seen: two changes within one tick of the file system's clock."""
    assert data_facts(tree).identity
    assert not cache.exists()


# ------------------------------------------------------------------------------------------------- trees that overlap


def twins(root: Path) -> dict[str, str]:
    shutil.rmtree(root / "val")
    (root / "val").symlink_to(root / "train")
    return {}


OVERLAPS: dict[str, Callable[[Path], dict[str, str]]] = {
    "the same": lambda root: {"test": "train"},
    "spelled otherwise": lambda root: {"test": "val/../train"},
    "a link": twins,
    "inside": lambda root: {"test": "train/a"},
    "around": lambda root: {"test": "."},
}


@pytest.mark.parametrize("change", OVERLAPS.values(), ids=OVERLAPS)
def test_trees_that_overlap_are_refused(tree: Data, change: Callable[[Path], dict[str, str]]) -> None:
    """Seen: images are tested on that were trained on."""
    with pytest.raises(UserError, match=r"data\.test=.*(both are the folder|lies in).*data\.test_share=0\.2"):
        data_facts(dataclasses.replace(tree, **change(Path(tree.root))))


@pytest.mark.parametrize("identity", ["contents", "names"])
def test_test_images_that_are_training_images(tree: Data, identity: str) -> None:
    """Seen: copies of training images (or links to them) among the test images."""
    data, root = dataclasses.replace(tree, identity=identity), Path(tree.root)
    copied = shutil.copy if identity == "contents" else os.link
    copied(root / "train" / "a" / "0.png", root / "val" / "a" / "9.png")
    assert data_facts(data).remarks == ("1 of 9 test images are training images, too",)
    shutil.rmtree(root / "val")
    shutil.copytree(root / "train", root / "val", copy_function=copied)
    with pytest.raises(UserError, match="each of the 20 test images is a training image, too"):
        data_facts(data)


def test_a_share_of_the_only_tree(tree: Data) -> None:
    """Seen: there is no test tree. A fifth of every class is tested on, always the same images."""
    shutil.rmtree(Path(tree.root) / "val")
    with pytest.raises(UserError, match=r"no folder .*val .*data\.test_share=0\.2"):
        data_facts(tree)
    shared = dataclasses.replace(tree, test_share=0.2)
    _, tested, _ = folder.list_folder(shared)
    assert sorted(label for _, label in tested) == [0, 0, 1, 2]
    known, splits = data_facts(shared), load_splits(shared)
    assert (known.train, known.validation, known.test) == (12, 4, 4)
    fed = [{path for path, _ in part.files} for part in (splits.train, splits.validation, splits.test)]  # type: ignore[union-attr]
    assert not fed[0] & fed[2]
    assert not fed[1] & fed[2]


# ---------------------------------------------------------------------------------------------------------- levels


def opened(path: Path, mode: str) -> Image.Image:
    image: Image.Image = Files([str(path)], np.zeros(1, int), mode).picture(0)
    return image


def made_image(path: Path, levels: np.ndarray) -> Path:
    Image.fromarray(levels).save(path)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    """Seen: every level above 255 became white."""
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16)
    path = made_image(tmp_path / f"x.{suffix}", eight.astype(np.uint16) * 257)
    assert np.array_equal(np.asarray(opened(path, "L")), eight)
    assert np.array_equal(np.asarray(opened(path, "RGB")), np.stack([eight] * 3, 2))


def test_levels_that_need_not_be_multiples(tmp_path: Path) -> None:
    path = made_image(tmp_path / "x.png", np.array([[0, 128, 129, 385, 386, 65535]], np.uint16))
    assert np.asarray(opened(path, "L")).tolist() == [[0, 0, 1, 1, 2, 255]]


@pytest.mark.parametrize(("dtype", "mode"), [(np.float32, "F"), (np.int32, "I")])
def test_levels_of_no_known_range_are_refused(tmp_path: Path, dtype: type, mode: str) -> None:
    """Seen: numbers whose black and white are not known, clipped in silence."""
    path = made_image(tmp_path / "x.tif", np.ones((4, 4), dtype))
    with pytest.raises(RunError, match=rf"x\.tif cannot be read: its mode is {mode}:"):
        opened(path, "RGB")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA", "RGB", "YCbCr"])
def test_eight_bits_are_as_they_were(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.jpg" if mode in ("CMYK", "YCbCr") else "x.png")
    picture(2, mode=mode).save(path)
    with Image.open(path) as image:
        for wanted in ("L", "RGB"):
            assert np.array_equal(np.asarray(opened(path, wanted)), np.asarray(image.convert(wanted)))


def test_an_empty_file_is_named_before_training(tree: Data) -> None:
    """Seen: an image of 0 bytes among the test images, found when the training has ended."""
    (Path(tree.root) / "val" / "b" / "0.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"val/b/0\.png is empty"):
        data_facts(tree)


# ------------------------------------------------------------------------------------------------- names and links


def test_names_that_are_no_utf8(tree: Data) -> None:
    """Seen: a traceback, for a file, and for a class, from an archive that was made on Windows."""
    plain, root = data_facts(tree).identity, os.fsencode(tree.root)
    shutil.move(root + b"/train/a/0.png", root + b"/train/a/caf\xe9.png")
    for part in (b"train", b"val"):
        shutil.move(root + b"/" + part + b"/c", root + b"/" + part + b"/\xe9t\xe9")
    known = data_facts(tree)
    assert known.identity != plain
    assert os.fsencode(known.classes[2]) == b"\xe9t\xe9"
    assert len(list(load_splits(tree).train.batches(64))) == 1


@pytest.mark.parametrize("name", [".ipynb_checkpoints/x.png", "a/.ipynb_checkpoints/x.png", "a/._0.png"])
def test_names_that_begin_with_a_dot_are_no_data(tree: Data, name: str) -> None:
    """Seen: a class, or an image, that a tool has left."""
    before = data_facts(tree)
    hidden = Path(tree.root) / "train" / name
    hidden.parent.mkdir(exist_ok=True)
    hidden.write_bytes(b"\0")
    assert data_facts(tree) == before


@pytest.mark.parametrize("target", ["..", ".", "../..", "../a"])
def test_a_link_that_leads_back_up_is_named(tree: Data, target: str) -> None:
    """Seen: a walk that does not end, or takes images again and again."""
    (Path(tree.root) / "train" / "a" / "loop").symlink_to(target)
    with pytest.raises(UserError, match=r"a/loop.* leads back up to .*images"):
        data_facts(tree)


@pytest.mark.parametrize("name", ["d", "a/deeper", "a/x.png"])
def test_a_link_that_leads_nowhere_is_named(tree: Data, name: str) -> None:
    """Seen: a class or images that are missing in silence."""
    (Path(tree.root) / "train" / name).symlink_to("/nowhere/at/all")
    with pytest.raises(UserError, match=rf"train/{name} leads nowhere \(to /nowhere/at/all\)"):
        data_facts(tree)


def test_a_class_without_an_image_in_a_part_is_named(tree: Data) -> None:
    """Seen: a subset in which a rare class has no image."""
    shutil.rmtree(Path(tree.root) / "val" / "c")
    assert data_facts(tree).remarks == ("no image tests of 1 of the 3 classes: c",)
    said = data_facts(dataclasses.replace(tree, subset=2, test_subset=1)).remarks
    assert [line.split(":")[0] for line in said] == [
        "no image trains of 1 of the 3 classes",
        "no image validates of 2 of the 3 classes",
        "no image tests of 2 of the 3 classes",
    ]


# -------------------------------------------------------------------------------------------------------- feeding


def test_an_image_that_is_drawn_twice_is_augmented_twice(tree: Data) -> None:
    """Seen: balanced sampling shows a rare class's images again, the same crops each time. One that is drawn once is
    what it is in a uniform epoch."""
    root = Path(tree.root)
    for path in sorted((root / "train" / "a").iterdir())[1:]:
        path.unlink()
    feed = load_splits(dataclasses.replace(tree, validation=0)).train
    assert isinstance(feed, FolderFeed)
    uniform = {x.numpy().tobytes() for xs, _ in feed.batches(4, 3) for x in xs}
    of_a = [
        x.numpy().tobytes()
        for xs, ys in feed.batches(4, 3, 0, "balanced")
        for x, y in zip(xs, ys, strict=True)
        if not y
    ]
    assert len(of_a) == len(set(of_a)) >= 4
    assert len(uniform & set(of_a)) == 1


def test_processes_without_shared_memory_are_no_fault_of_the_network(
    tree: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen: a container's tiny /dev/shm kills them, and the trial is recorded as failed."""
    feed = load_splits(dataclasses.replace(tree, workers=1)).train

    def killed(items: object) -> None:
        os.kill(os.getpid(), signal.SIGBUS)

    monkeypatch.setattr(feeds, "collate", killed)
    with pytest.raises(RunError, match=r"^the processes that decode images cannot go on: DataLoader worker.*$"):
        list(feed.batches(4, 0))


# ------------------------------------------------------------------------------------------------ without validation


def test_all_of_the_training_images_are_trained_on(tmp_path: Path) -> None:
    """Seen: a tenth of the images was held out although nothing was selected. Without them everything works, from the
    training to its record, its curves and Optuna's copy."""
    words = [f"storage=sqlite:///{tmp_path}/lab.db", "recipe.ema=0.5", "recipe.epochs=2", "data.validation=0"]
    composed = compose([*words, "data.test_subset=100"])
    made = plan.make_plan(composed)
    assert (made.facts.train, made.facts.validation, made.facts.test) == (898, 0, 100)
    (cell,) = made.cells
    told: list[dict[str, float]] = []
    record = trial.run_trial(cell.spec, tmp_path / "x.ckpt", told.append)
    assert [sorted(epoch) for epoch in told] == [["epoch", "train_error", "train_loss", "train_top5_error"]] * 2
    assert {"test_error", "train_error"} <= record["metrics"].keys()
    record.pop("outputs", None)  # stands beside the record
    store = Store(made.config.storage)
    assert store.claim(cell.trial_id)
    rest = {"label": cell.row.label, "seed": 0, "params": 1, "macs": 1, "attempts": 1}
    assert store.finish(cell.trial_id, "done", {**record, **rest})
    records = store.read([cell.trial_id])
    trials = record_tables.trials_frame(made, records)
    assert trials["val_error"].isna().all()
    (tmp_path / "curves.csv").write_bytes(curves.curves_csv(record_tables.curves_frame(trials, records)))
    read = curves.read_curves(tmp_path / "curves.csv")
    assert read["val_error"].isna().all()
    assert read["train_error"].notna().all()
    ((_, shown),) = missing_trials(of_plan(made, composed), store)
    assert len(shown.values) == 2


def test_a_search_needs_validation_images(tmp_path: Path) -> None:
    """Seen: a search that would select by nothing."""
    composed = compose(["+search=tabular", "data.validation=0", "plan=true", f"results={tmp_path}"])
    with pytest.raises(UserError, match=r"data\.validation=0: a search chooses designs by their validation images"):
        search.SearchDesign(composed)


def test_the_plan_says_how_many_images_are_trained_on() -> None:
    """Seen: the paper's recipes on fewer images than the paper's, unsaid."""
    for words, expected in ((["data=cifar10"], True), (["data=cifar10", "data.validation=0"], False)):
        console = Console(record=True, width=200)
        made = plan.make_plan(compose([*words, "recipe=cifar", "backbone=resnet20"]))
        plan_text.show_total(
            dataclasses.replace(made, recorded={key: {"state": "done"} for key in made.trials}),
            Expectation({}, False),
            1,
            console,
        )
        said = "45,000 of 50,000 training images are trained on; data.validation=0 trains on all"
        assert (said in console.export_text()) == expected
