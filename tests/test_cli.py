"""The command line: what is wrong is answered in one line, with nothing written; what is right is understood."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from launching import ROOT, TINY, WORDS, Ended, Lab, one_line

from senet_lab.__main__ import main as commands
from senet_lab.compose import choices, compose
from senet_lab.config import Config, Search, Study, UserError, flat
from senet_lab.run import main
from senet_lab.studies.database import parse
from senet_lab.studies.store import Store

RATIO = "+ablation=ratio"
NOT_BETWEEN = "is not between"

# What was typed, the exit code, and words that the one line must have.
SEEDS = {"x": "x", "1.5": "1.5", "true": "True", "": ""}  # words, and how they are read
BAD: list[tuple[str, str]] = [
    # words that are none
    ("ratio", "'ratio' is not of the form key=value; for a study write +ablation=NAME"),
    ("-m", "--multirun is not for this lab"),
    ("--multirun", "--multirun is not for this lab"),
    ("--foo", "there is no option '--foo'; there are --help, --cfg job"),
    ("--cfg", "--cfg takes the word job"),
    ("--cfg hydra", "--cfg takes the word job"),
    ("=3", "there is no key ''; there are backbone, "),
    ("se..reduction=3", "'se..reduction=3' cannot be read"),
    ("storage=sqlite:///a?b=c", """quotes: "storage='sqlite:///a?b=c'\""""),
    ("~foo", "there is no key 'foo'"),
    ("~recipe", "there is no recipe"),
    # keys
    ("se.reductoin=8", "there is no key 'se.reductoin' (did you mean reduction?); se has reduction, squeeze"),
    ("recipe.epoch=3", "did you mean epochs?"),
    ("foo=3", "there is no key 'foo'; there are backbone, stride, init"),
    ("+foo=3", "there is no key 'foo'"),
    ("hydra.run.dir=x", "there is no key 'hydra.run.dir'"),
    ("se.reduction@x=3", "se.reduction"),
    ("+se.reduction=3", "se.reduction"),
    ("se={foo:3}", "se.foo: Key 'foo' not in 'SE'"),
    # choices
    ("+ablation=nope", "there is no study 'nope'; there are attention, "),
    ("+ablation=", "there is no study ''"),
    ("ablation=null", "there is no study"),
    (f"{RATIO} {RATIO}", "one study at a time: ratio and ratio were asked for"),
    (f"{RATIO} +ablation=position", "one study at a time: ratio and position were asked for"),
    ("+ablation=ratio,position", "one value at a time"),
    ("+ablation=[ratio]", "there is no study"),
    ("data=imagenet", "there is no data 'imagenet'; there are cifar10, cifar100, digits, folder"),
    ("data=digits,cifar10", "one value at a time"),
    ("recipe=foo", "there is no recipe 'foo'; there are cifar, "),
    ("data.name=foo", "there is no data set 'foo'; there are digits, "),
    ("backbone=resnet9", "'resnet9' is not one of resnet8, resnet20"),
    ("backbone=resnt20", "package.module:function (did you mean resnet20?)"),
    ("recipe.schedule=cosin", "recipe.schedule: there is no 'cosin' (did you mean cosine?); there are"),
    ("+ablation=ratios", "there is no study 'ratios' (did you mean ratio?); there are"),
    ("backbone=", "'' is not one of resnet8"),
    ("backbone=null", "backbone"),
    ("backbone=nowhere:make", "cannot import nowhere"),
    ("backbone=os:getcwd", "os:getcwd cannot be called with num_classes alone"),
    ("stride=foo", "stride: there is no 'foo'; there are paper, torchvision"),
    ("tracking=foo", "tracking: there is no 'foo'; there are offline, online, off"),
    ("training.device=tpu", "there is no device 'tpu'; there are auto, cpu, cuda"),
    ("training.keep=all", "training.keep: there is no 'all'; there are none, last"),
    ("training.precision=8", "training.precision: there is no '8'; there are 32-true"),
    # the design
    ("se=3", "se: "),
    *((f"se.reduction={word}", "is not a whole number of at least 1") for word in ("0", "-1", "x", "1.5", "true")),
    *((f"se.reduction={word}", "is not a whole number of at least 1") for word in ("null", "", "[4]", "{2:0}")),
    ("se.reduction={7:4}", "the network has no stage 7; it has 2, 3, 4"),
    ("se.reduction={x:4}", "'x' is not the number of a stage"),
    ("+se.reduction.2=4", "'2' is not the number of a stage"),
    ("se.stages=[7]", "the network has no stage 7; it has 2, 3, 4"),
    ("se.stages=7", "se.stages: 7 is not "),
    ("se.stages=[x]", "'x' is not the number of a stage"),
    ("se.stages=null", "se.stages: None is not "),
    ("se.stages=2,3", "one value at a time; a list stands in brackets"),
    ("se.position=side", "'side' is not one of standard, pre, post, identity, conv3x3"),
    ("se.squeeze=median", "'median' is not one of avg, max, none"),
    ("se.excitation=swish", "'swish' is not one of sigmoid, softmax, tanh, relu"),
    ("se.kind=sa", "se.kind: 'sa' is not one of se, constant, static, simam, timm:se"),
    ("se.kind=constant se.args.value=x", "the value of a constant gate is a number, not 'x'"),
    ("se.kind=constant se.args={val:1}", "se.args of constant: 'val' is not one of value"),
    # numbers
    *((f"seeds={word}", f"seeds={word} {NOT_BETWEEN} 1 and 10000") for word in ("0", "-1", "10001", "1" + 20 * "0")),
    *(
        (f"seeds={word}", f"seeds={said}: there are a number of seeds, a list of seeds such as [3,4], and settle")
        for word, said in SEEDS.items()
    ),
    ("seeds=settle", "seeds=settle is for an ablation"),
    (f"{RATIO} seeds=settle settle.min=2", "settle.min=2 settle.max=20: a row has at least 3 seeds"),
    (f"{RATIO} seeds=settle settle.max=2", "settle.min=3 settle.max=2: "),
    *((f"{RATIO} margin={word}", f"margin={word}.0 is not between 1e-09 and 100") for word in ("0", "-1", "101")),
    (f"{RATIO} metric=accuracy", "metric: there is no 'accuracy'; there are error, loss"),
    ("data.size=-1", NOT_BETWEEN),
    ("data.size=x", "data.size: Value 'x'"),
    ("data.validation=1", "data.validation: 1 is not a share between 0 and 1"),
    ("data.validation=nan", "data.validation"),
    ("data.validation=0.0001", "leaves an empty split"),
    ("data.subset=0", "data.subset: 0 is not a number of images"),
    ("data.test_subset=-1", "data.test_subset: -1"),
    ("data.augment=imagenet", "digits has no augmentation 'imagenet'; it has none, crop, cifar"),
    ("recipe.epochs=0", NOT_BETWEEN),
    ("recipe.epochs=1.5", "recipe.epochs: Value '1.5'"),
    ("recipe.batch_size=0", NOT_BETWEEN),
    *((f"recipe.lr={word}", f"recipe.lr={float(word)} {NOT_BETWEEN}") for word in ("0", "-1", "nan", "inf")),
    ("recipe.momentum=2", NOT_BETWEEN),
    ("recipe.nesterov=true recipe.momentum=0", "recipe.nesterov=true needs"),
    ("recipe.label_smoothing=-0.1", NOT_BETWEEN),
    ("recipe.milestones=x", "recipe.milestones: "),
    ("recipe.milestones=[3,x]", "recipe.milestones[1]: Value 'x'"),
    ("recipe.milestones=[3,-1]", "recipe.milestones[1]=-1 is not between"),
    ("recipe.schedule=foo", "recipe.schedule: there is no 'foo'; there are constant, cosine, step"),
    ("executor.workers=-1", f"executor.workers=-1 {NOT_BETWEEN} 0 and"),
    ("executor.workers=x", "executor.workers: Value 'x'"),
    ("executor.threads=0", NOT_BETWEEN),
    ("plan=maybe", "plan: Value 'maybe'"),
    # the study
    ("study.title=x", "study.title: there is no study to change; +ablation=NAME chooses one"),
    ("+study.name=x", "study.name: there is no study to change"),
    ("+study={name:x}", "study: there is no study to change"),
    (f"{RATIO} study=null", "ablation=ratio: it says nothing of a study"),
    (f"{RATIO} ~study", "ablation=ratio: it says nothing of a study"),
    (f"{RATIO} se=null", "study.rows.r = 2: se.reduction cannot be set, because se is null"),
    ("+ablation=stages backbone=nope", "row 'no SE': backbone: 'nope' is not one of resnet8, "),
    (f"{RATIO} study.foo=3", "there is no key 'study.foo'; study has name, title"),
    (f"{RATIO} study.rows=3", "study.rows"),
    (f"{RATIO} study.rows=null", "study.rows"),
    (f"{RATIO} ~study.rows", "study.rows"),
    (f"{RATIO} +study.rows.x=3", "study.rows.x: 3 is not a mapping"),
    (f"{RATIO} +study.rows.x={{se.position:pre}}", "row 'x' changes more than se.reduction"),
    (f"{RATIO} study.baseline=foo", "there is no row 'foo' in ratio; there are r = 2, r = 4"),
    (f"{RATIO} study.factor=foo", "study.factor: 'foo' cannot be varied"),
    *((f"{RATIO} study.name={word}", f"study.name: '{word}' is not a word") for word in ("", "..", "a/b")),
    # places
    ("data=cifar10", "cifar10: there is no folder data/cifar-10-batches-py"),
    ("data=folder", "data.root=data: there is no folder data/train"),
    ("results=", "results is empty"),
    ("results=null", "results"),
    ("results=${foo}", "results: Interpolation key 'foo' not found"),
    ("results=/proc/nothing", "results=/proc/nothing cannot be written"),
    ("results=/dev/null", "results=/dev/null cannot be written"),
    ("storage=", "storage= is not a database URL"),
    ("storage=lab.db", "storage=lab.db is not a database URL such as sqlite:///"),
    ("storage=sqlite://", "keeps nothing"),
    ("storage=nosuch://host/lab", "there is no database 'nosuch' here"),
    ("storage=sqlite:////proc/nothing/lab.db", "storage=sqlite:////proc/nothing/lab.db: "),
    ("storage=sqlite:////etc/passwd", "is damaged, or no database"),
]


def words_of(line: str) -> list[str]:
    """A line split at spaces, but not at those of a row's label."""
    return line.split(" ") if "study.rows" not in line else [*line.split(" ", 1)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("line", "words"), BAD, ids=[line for line, _ in BAD])
def test_bad_input_is_one_line_and_nothing_is_written(
    here: Path, capsys: pytest.CaptureFixture[str], line: str, words: str
) -> None:
    code = main(words_of(line))
    seen = capsys.readouterr()
    assert code == 2
    assert one_line(seen.err, words), seen.err
    assert seen.err.startswith("error: ")
    assert seen.out == ""
    assert list(here.iterdir()) == []


def test_a_position_that_a_network_lacks_is_named(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "flat.py").write_text(
        "from torch import nn\n"
        "def make(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), "
        "nn.Linear(4, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(here))
    assert main(["backbone=flat:make", "plan=true"]) == 2
    seen = capsys.readouterr()
    assert one_line(seen.err, "error: "), seen.err
    assert main(["backbone=flat:make", "plan=true", "se=null"]) == 0


# --------------------------------------------------------------------------------------------------------- the process


def command(folder: Path, *words: str, **changes: str) -> tuple[Ended, float]:
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "senet_lab.run", *words],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONPATH": str(ROOT), **changes},
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr), time.perf_counter() - begun


def test_help_and_typos_are_answered_at_once(tmp_path: Path) -> None:
    done, seconds = command(tmp_path, "--help")
    assert (done.code, done.err) == (0, "")
    assert seconds < 3
    for word in (
        "usage: python -m senet_lab.run",
        "+ablation=attention|",
        "data=cifar10|",
        "se.reduction=16",
        "factor",
        "lab.db",
    ):
        assert word in done.out
    done, seconds = command(tmp_path, "se.reductoin=8")
    assert done.code == 2
    assert one_line(done.err, "did you mean reduction?")
    assert seconds < 3
    assert list(tmp_path.iterdir()) == []


def test_the_reference_of_keys_is_what_is_declared(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands(["keys"]) == 0
    said = capsys.readouterr().out
    assert said == (ROOT / "docs/keys.md").read_text(), "python -m senet_lab keys > docs/keys.md"
    for key in (
        *flat(Config()),
        *(f"study.{key}" for key in flat(Study())),
        *(f"search.{key}" for key in flat(Search())),
    ):
        assert f"| `{key}` | " in said or key in ("study", "search"), key


def test_torch_is_not_imported_before_it_is_needed(tmp_path: Path) -> None:
    code = "import sys; from senet_lab.run import main; main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_output_that_nobody_reads_is_no_error(tmp_path: Path) -> None:
    line = f"{sys.executable} -m senet_lab.run --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True
    )
    assert done.stdout.strip() in ("0", "1")
    assert done.stderr == ""


def test_a_terminal_without_the_letters_is_no_error(tmp_path: Path) -> None:
    done, _ = command(tmp_path, "se.position=é×Δ", PYTHONIOENCODING="ascii")
    assert done.code == 2
    assert one_line(done.err, "error: ")


def test_the_screen_of_a_study(finished: Lab) -> None:
    """What was seen on a terminal of 80 columns: nothing is wrapped but sentences."""
    screen = (finished.folder / "screen").read_bytes().decode()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen).replace("\r\n", "\n")
    frames = re.split(r"[\n\r]", plain)
    long = [line for line in frames if len(line) > 80 and not line.startswith(("written: ", "open verdicts: "))]
    assert long == []
    assert re.search(r"\[6/6\] .+, seed 1: test error \d+\.\d\d%, in \d+ s$", plain, re.MULTILINE)
    assert re.search(
        r"^(r = 2|r = 8|no SE), seed \d +━*╸?╺?━*  epoch \d/8, val accuracy \d+\.\d%$", plain, re.MULTILINE
    )
    assert re.search(r"^\d of 6 trials +.+  about \d+ s left", plain, re.MULTILINE)
    assert "written: results/local/digits-subset=200/resnet8-quick-epochs=8/tiny/" in plain
    assert screen.count("\x1b[?25l") == screen.count("\x1b[?25h"), "the cursor is shown again"


# ---------------------------------------------------------------------------------------------------- what was composed


def test_the_configuration_can_be_printed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--cfg", "job", "se.reduction=8"], ["se.reduction=8", "-c", "job"]):
        assert main(words) == 0
        printed = yaml.safe_load(capsys.readouterr().out)
        assert printed["se"]["reduction"] == 8
        assert printed["data"]["name"] == "digits"
    assert list(here.iterdir()) == []


def test_a_study_of_ones_own_is_found_first(here: Path) -> None:
    place = here / "sweeps" / "ablation"
    place.mkdir(parents=True)
    (place / "mine.yaml").write_text(TINY.replace("name: tiny", "name: mine"))
    (place / "ratio.yaml").write_text(
        TINY.replace("A small study", "My own ratios").replace("name: tiny", "name: ratio")
    )
    study = compose(["+ablation=mine"]).config.study
    assert study is not None
    assert (study.name, list(study.rows)) == ("mine", ["r = 2", "r = 8", "no SE"])
    study = compose([RATIO]).config.study
    assert study is not None
    assert study.title == "My own ratios"
    assert compose(["+ablation=position"]).config.study is not None, "the lab's own are there, too"


def test_what_was_composed_before_is_not_what_a_file_says_now(here: Path) -> None:
    place = here / "sweeps" / "ablation"
    place.mkdir(parents=True)
    (place / "nowhere.yaml").symlink_to(here / "gone.yaml")
    titles = []
    for text in (TINY, TINY, TINY.replace("A small study", "Other words"), None):
        (place / "tiny.yaml").unlink(missing_ok=True)
        if text is not None:
            (place / "tiny.yaml").write_text(text)
            study = compose(["+ablation=tiny"]).config.study
            assert study is not None
            titles.append(study.title)
            study.title = "changed by who asked"
    assert titles == ["A small study", "A small study", "Other words"]
    with pytest.raises(UserError, match="there is no study 'tiny'"):
        compose(["+ablation=tiny"])


STUDY = """\
# @package _global_
study:
  name: mine
  title: Title
  factor: se.reduction
  baseline: 'x'
  rows:
    LABEL: {se.reduction: 4}
    'x': {se.reduction: 16}
"""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "In 'ablation/mine': Key 'ablation' not in 'Config'; its first line should be # @package _global_"),
        (b"study:\n  name: x\n", "its first line should be # @package _global_"),
        (b"# @package _global_\n", "ablation=mine: it says nothing of a study"),
        (b"# @package _global_\nstudy: {name: x", "mine.yaml, line 2: expected ',' or '}'"),
        (b"# @package _global_\nstudy:\n  nam: x\n", "In 'ablation/mine': Key 'nam' not in 'Study'"),
        (b"# @package _global_\nstudy: 3\n", "In 'ablation/mine': "),
        (b"# @package _global_\nstudy: {name: mine, factor: se.reduction, rows: {}}\n", "the study mine is empty"),
        (b"# @package _global_\nstudy: {name: x, factor: se.reduction, rows: [a]}\n", "In 'ablation/mine': "),
        (b"# @package _global_\nstudy: {name: mine, rows: {1: {se.reduction: 2}}}\n", "study.rows"),
        (b"\xff\xfe", "can't decode byte 0xff"),
        (b"\xef\xbb\xbf" + STUDY.encode(), "mine.yaml begins with a byte order mark; save it as UTF-8 without one"),
        (STUDY.replace("Title", "T\xfcr").encode("latin-1"), "mine.yaml, line 4: this is no UTF-8"),
        (STUDY.encode("utf-16"), "mine.yaml, line 1: this is no UTF-8"),
        (STUDY.replace("Title", "T\0").encode(), "mine.yaml: special characters are not allowed"),
        *(
            (STUDY.replace("LABEL", label).encode(), f"study.rows: {read} is no name; in quotes it is one")
            for label, read in {"4": "4 (int)", "yes": "True (bool)", "null": "null", "1.5": "1.5 (float)"}.items()
        ),
        (None, "mine.yaml is a link to /nowhere/mine.yaml, which is not there"),
    ],
)
def test_a_bad_study_of_ones_own_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, words: str
) -> None:
    """The file is named, and the line that is wrong."""
    place = here / "sweeps" / "ablation" / "mine.yaml"
    place.parent.mkdir(parents=True)
    place.symlink_to("/nowhere/mine.yaml") if content is None else place.write_bytes(content)
    assert main(["+ablation=mine"]) == 2
    assert one_line(capsys.readouterr().err, "error: ", words)
    assert not (here / "results").exists()


@pytest.mark.parametrize(
    ("line", "folder"),
    [
        ("", "digits/resnet8-quick/network"),
        (RATIO, "digits/resnet8-quick/ratio"),
        (f"{RATIO} seeds=5 results=x tracking=off executor.workers=3", "digits/resnet8-quick/ratio"),
        (f"{RATIO} data.subset=100 recipe.epochs=2", "digits-subset=100/resnet8-quick-epochs=2/ratio"),
        ("se=null", "digits/resnet8-quick-se=null/network"),
        ("se.stages=[2,3]", "digits/resnet8-quick-stages=_2_3_/network"),
        ("data=cifar10 recipe=cifar backbone=resnet56", "cifar10/resnet56-cifar/network"),
        (
            "data=folder data.root=/data/imagenette backbone=own.nets:make",
            "folder-imagenette/own.nets_make-quick/network",
        ),
    ],
)
def test_results_are_filed_by_what_differs(line: str, folder: str) -> None:
    assert compose(line.split()).folder == folder


def test_folders_keep_to_what_a_file_system_takes() -> None:
    names = [
        compose([f"recipe.{key}={value}" for key in ("lr", "momentum", "weight_decay", "factor", "warmup_lr")] + more)
        for value in ("0.123456789012345", "0.123456789012346")
        for more in (["recipe.label_smoothing=0.1", "recipe.batch_size=77"], [])
    ]
    folders = {part for made in names for part in made.folder.split("/")}
    assert max(map(len, folders)) < 200
    assert len({made.folder for made in names}) == len(names)


# ----------------------------------------------------------------------------------------------------- from the store


def test_a_table_is_made_again_from_the_store(
    copy: Lab, finished: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from senet_lab.studies.study import table_from_store

    monkeypatch.chdir(copy.folder)
    before = copy.bytes()
    for name in before:
        (copy.table / name).unlink()
    table_from_store(list(WORDS))
    assert copy.bytes() == before
    assert "A small study" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"has 6 of the 9 trials of digits.*; python -m senet_lab.run \+ablation=tiny"):
        table_from_store([*WORDS, "seeds=3"])


# ---------------------------------------------------------------------------------- messages that led astray


def test_hidden_files_and_folders_are_no_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen: macOS and editors leave files beside those that are meant."""
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "sweeps" / "ablation"
    (place / "folder.yaml").mkdir(parents=True)
    (place / "._mine.yaml").write_bytes(b"\0\xff")
    (place / "mine.yaml").write_text(STUDY)
    assert {"mine", "folder", "._mine"} & set(choices("ablation")) == {"mine"}


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("seeds = 3", """nothing stands around its =: "seeds=3\""""),
        (" seeds=3", """nothing stands around its =: "seeds=3\""""),
        ("seeds=3 tracking=off", "'tracking=' looks like another word: each is an argument of its own"),
        ("results=~/x", """quotes: "results='~/x'\""""),
        ("data.root=", "data.root is empty"),
        ("", "'' is not of the form key=value"),
    ],
)
def test_the_hint_of_a_word_helps(word: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Seen: what the message recommends cannot be read either, or means something else."""
    assert main([word]) == 2
    assert one_line(capsys.readouterr().err, said)


@pytest.mark.parametrize("name", ["r%20x", "r?x", "r#x", "~/r", "r%", "a b", "r@h:1"])
def test_the_records_are_in_the_folder_of_results(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen: a path becomes a URL, in which some of its characters mean something; ~ is the home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    config = compose([f"results='{name}'", "data.root='~/images'"]).config
    folder = Path(name).expanduser()
    assert (Path(config.results), config.data.root) == (folder, str(tmp_path / "home/images"))
    store = Store(config.storage)
    store.claim("a")
    assert [path.parent for path in tmp_path.rglob("lab.db")] == [tmp_path / folder]
    assert parse(store.url).database == parse(store.name).database == f"{folder}/lab.db"
    assert Store(f"sqlite:///{name}/b.db".replace("%", "%25").replace("?", "%3F")).claim("a"), "asked for as a URL"
    assert (folder / "b.db").exists()


def test_a_name_that_no_disk_takes_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen: what explains an error meets it again."""
    monkeypatch.chdir(tmp_path)
    for word in (f"results={300 * 'a'}", f"storage=sqlite:///{300 * 'a'}/lab.db"):
        assert main([word, "tracking=off"]) == 2
        assert one_line(capsys.readouterr().err, f"error: {word.partition('=')[0]}=", "File name too long")


def test_a_disk_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seen: the system says of a link that leads nowhere that the file exists."""
    monkeypatch.chdir(tmp_path)
    Path("res").symlink_to("/nowhere/disk")
    for word in ("results=res", "results=res/below", "storage=sqlite:///res/lab.db"):
        assert main([word, "tracking=off"]) == 2
        assert one_line(capsys.readouterr().err, f"error: {word}", "res is a link to /nowhere/disk, which is not there")
