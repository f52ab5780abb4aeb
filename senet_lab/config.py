"""The typed configuration of the lab: every default stands here, once.

The YAML files in `conf/` and `sweeps/` hold differences from these dataclasses only, and a key that is not a field here
is refused. This module imports nothing of the lab (and no torch), so that `--help` and a typo are answered at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class SE:
    """A squeeze-and-excitation design: which block, and where it sits in the plain network (paper, sections 3 and 6).

    Attributes:
        reduction: r, the ratio of a block's channels C to its hidden width max(1, C // r). One number for all stages,
            or a mapping from stage to number; a stage that the mapping leaves out has no SE (sections 3.2 and 6.1).
        squeeze: how H × W is pooled to one descriptor a channel: `avg`, `max`, or `none` (6.2, 7.1).
        excitation: the gate's non-linearity: `sigmoid`, `softmax`, `tanh` or `relu` (6.3).
        position: where in the residual unit: `standard`, `pre`, `post`, `identity` or `conv3x3` (6.5).
        stages: `all`, `all_but_last`, or a list in the paper's numbering, 2 to 5 (torchvision's layer1 to layer4; 6.4).
            Networks with three stages have 2 to 4; VGG, Inception and mobile networks number theirs by resolution. An
            empty list is the plain network.
        bias: whether the two fully connected layers have biases. The paper's section 6 leaves them out.
        identity_start: whether every gate starts at exactly 1, so that a pretrained network gives at first what it gave
            without SE: for fine-tuning. The gates then reach from 0 to 2 (sigmoid, tanh), to C (softmax; they sum to C)
            or without bound (ReLU).
    """

    reduction: Any = 16
    squeeze: str = "avg"
    excitation: str = "sigmoid"
    position: str = "standard"
    stages: Any = "all"
    bias: bool = False
    identity_start: bool = False

    def by_stage(self, available: Sequence[int]) -> dict[int, int]:
        """The one form that every spelling comes down to: stage → reduction, for the stages that get SE.

        Args:
            available: the stages that the network has, e.g. (2, 3, 4, 5).

        Returns:
            A dict ordered by stage; empty if no stage gets SE.

        Raises:
            ValueError: for a stage that the network lacks or a reduction that is not a whole number of at least 1.
        """
        if isinstance(self.reduction, Mapping):
            ratios = {stage_number(stage): reduction_number(r) for stage, r in self.reduction.items()}
        else:
            ratios = dict.fromkeys(available, reduction_number(self.reduction))
        if self.stages == "all":
            wanted = list(ratios)
        elif self.stages == "all_but_last":
            wanted = [stage for stage in ratios if stage != max(available)]
        elif isinstance(self.stages, Sequence) and not isinstance(self.stages, str):
            wanted = [stage_number(stage) for stage in self.stages]
        else:
            raise ValueError(f"se.stages: {self.stages!r} is not all, all_but_last or a list such as [3,4]")
        for key, stages in (("reduction", ratios), ("stages", wanted)):
            for stage in stages:
                if stage not in available:
                    has = ", ".join(map(str, available))
                    raise ValueError(f"se.{key}: the network has no stage {stage}; it has {has}")
        return {stage: ratios[stage] for stage in sorted(set(wanted)) if stage in ratios}


def reduction_number(value: Any) -> int:
    """`value` as a reduction ratio; a ValueError unless it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"se.reduction: {value!r} is not a whole number of at least 1")
    return value


def stage_number(value: Any) -> int:
    """`value` as a stage's number; a ValueError unless it is a whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"se.stages: {value!r} is not the number of a stage")
    return value


@dataclass
class Data:
    """Which images, how they are split, and how they are fed.

    Attributes:
        name: `digits`, `cifar10`, `cifar100` or `folder`.
        root: the folder that holds the data set (torchvision's layout for CIFAR; `train/` and `test` for `folder`).
        train: name of the training tree below `root` (`folder` only).
        test: name of the test tree below `root` (`folder` only; ImageNet calls it val).
        test_share: share of the training tree that is tested on, where there is no test tree (`folder` only): of every
            class in proportion, the same images for every row and seed, none of which trains or validates. 0 has a
            test tree.
        identity: by what a trial knows the images of a `folder`: their `contents`, or `names` and sizes alone, as in
            earlier versions, which other images under the same names may share. The contents are read once; what they
            were is kept in the user's cache.
        size: height and width of the images that the network sees, in pixels.
        resize: short side that test images are resized to before the centre crop, in pixels (`folder` only); 0 takes
            the paper's 256 for 224 and 352 for 299, else size × 256 / 224.
        crops: what is cut out of a test image: 1 (the centre) or 10 (corners and centre, and their mirror images), over
            which predicted probabilities are averaged (`folder` only). Validation sees the centre.
        scales: short sides in pixels that test images are resized to, one after the other, averaged over likewise
            (`folder` only); empty takes `resize`.
        mean: of each colour channel of the training images, in units of the full range (`folder` only). One number
            has the images read as grey ones of one channel; empty takes ImageNet's three.
        std: their standard deviations, likewise.
        augment: `none`, `crop` (pad an eighth, crop), `cifar` (flip, pad 4 of 32, crop) or `imagenet` (random resized
            crop, flip; `folder` only).
        cutout: side of the square that is blanked in each training image after its augmentation (DeVries and Taylor
            2017), in pixels; 16 is for CIFAR-10, 8 for CIFAR-100, 0 is none.
        validation: share of the training images held out for validation, the same images for every row and seed. A
            search selects by them; where nothing is selected, 0 trains on all images, as the paper does.
        subset: train on at most this many images, balanced over classes, and validate on fewer in proportion; null
            takes all.
        test_subset: likewise for the test images.
        download: fetch CIFAR where it is not below `root`. Changes no result.
        workers: processes that decode images (`folder` only), or threads where that is done once. Changes no result.
    """

    name: str = "digits"
    root: str = "data"
    train: str = "train"
    test: str = "val"
    test_share: float = 0.0
    identity: str = "contents"
    size: int = 8
    resize: int = 0
    crops: int = 1
    scales: list[int] = field(default_factory=list)
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    augment: str = "none"
    cutout: int = 0
    validation: float = 0.1
    subset: int | None = None
    test_subset: int | None = None
    download: bool = False
    workers: int = 0


@dataclass
class Recipe:
    """How every network of a study is trained: SGD and its schedule, fixed across rows.

    Attributes:
        name: what the recipe is called in tables and folders.
        epochs: passes over the training images.
        batch_size: images a step.
        lr: learning rate at the start (after warm-up).
        momentum: of SGD.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: L2, on all weights unless `decay_norm` is off.
        decay_norm: whether normalisation parameters and biases are decayed, too.
        schedule: `constant`, `cosine` (to zero) or `step` (times `factor` at each of `milestones`).
        milestones: epochs at which `step` cuts.
        factor: what `step` multiplies by.
        warmup_steps: optimiser steps at `warmup_lr` before the schedule begins.
        warmup_lr: learning rate of the warm-up.
        label_smoothing: weight of the uniform distribution in the training targets.
        sampling: `uniform` shows every image once an epoch; `balanced` as many, but every class equally often, as the
            paper's first versions did (after Shen et al. 2016).
        ema: decay of an exponential moving average of the weights, which is validated, tested and kept in place of the
            last ones; 0 is none.
    """

    name: str = "custom"
    epochs: int = 30
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay_norm: bool = True
    schedule: str = "cosine"
    milestones: list[int] = field(default_factory=list)
    factor: float = 0.1
    warmup_steps: int = 0
    warmup_lr: float = 0.01
    label_smoothing: float = 0.0
    sampling: str = "uniform"
    ema: float = 0.0


@dataclass
class Training:
    """Where and how a training runs, and what it leaves behind.

    What is `auto` is plain on a CPU, where the numbers of a training have always been those of the plain way, and the
    fast way on a GPU. What is not plain may change last digits, and is a part of a trial's name.

    Attributes:
        device: `auto` (a GPU if there is one), `cpu` or `cuda`.
        precision: Lightning's word: `32-true`, `bf16-mixed` or `16-mixed`; `auto` is `bf16-mixed` on a GPU that
            computes in bfloat16, and `32-true` elsewhere.
        path: `auto`, or `plain` to have all below that is `auto` the plain way on a GPU, too.
        feed: whether a tree of images is read from its `files` by the DataLoader, each image when it is needed (plain),
            or is decoded once into the `memory` of the device and augmented there in whole batches. `auto` on a GPU is
            memory up to 8 GiB. All other data sets always lie in the device's memory.
        layout: of the tensors: `contiguous` (plain) or `channels_last` (`auto` on a GPU).
        optimiser: `plain`, or `fused` into one kernel (`auto` on a GPU).
        compile: by torch.compile: `off` (plain, and `auto`), `blocks` (each block, those alike once), `whole`, or
            `graphs` (whole, launched as CUDA graphs; a GPU only).
        devices: GPUs (or processes, on a CPU) that train each trial together. Each takes its part of every batch of
            `recipe.batch_size` images, so that the learning rate stays right; batch norms have the statistics of their
            own part, as in the paper's training.
        sync_batchnorm: whether they have those of the whole batch (PyTorch's SyncBatchNorm; GPUs only).
        keep: `none`, or `last` to keep each trial's final weights under `<results>/checkpoints/`.
        outputs: `on` keeps, beside each trial's record, what the network made of each test image (right or wrong, and
            −log p of the right class: some 21 kB for 10,000 images); `off` does not. Changes no result.
    """

    device: str = "auto"
    precision: str = "32-true"
    path: str = "auto"
    feed: str = "auto"
    layout: str = "auto"
    optimiser: str = "auto"
    compile: str = "auto"
    devices: int = 1
    sync_batchnorm: bool = False
    keep: str = "none"
    outputs: str = "on"


@dataclass
class Executor:
    """Who trains. Changes no result, but for the `threads`.

    Attributes:
        name: `local` (processes on this machine) or `ray` (a cluster; needs the extra `ray`).
        workers: trials that are trained side by side; 0 takes one a core, or `per_gpu` a GPU (with `training.devices`,
            that many fewer); on Ray, as many as there is room for, also on nodes that join later.
        per_gpu: trials that share each GPU of this machine, where `workers` does not say how many there are in all (on
            Ray, see `gpus_per_trial`). 1, because a network that fills a GPU is not trained faster beside another, and
            two may not fit; small networks on small images leave most of a GPU idle.
        threads: CPU threads of each local process; a trial on Ray has as many as CPUs, at least one. More than one add
            up in another order, which changes last digits: on a CPU, they are a part of a trial's name. On a GPU they
            only decode images, and change no result.
        address: of a Ray cluster that this machine is a node of, `host:port` or `auto`; empty has Ray start an instance
            of its own here, which ends with the study. Every node needs the lab's libraries (its code is sent along,
            and so is the working directory where a backbone is your own), and the data set where this machine has it.
            Checkpoints go to `results` where a node shares that folder; elsewhere a trial whose node is lost starts
            again.
        cpus_per_trial: CPUs that Ray sets aside for a trial; fewer than one share it.
        gpus_per_trial: GPUs likewise, 0 to 1: 0.25 has four trials share one. Above 0 trials are trained on GPUs, also
            where this machine has none; null takes 1 if this machine has a GPU, else 0.
        time_limit: minutes that a trial may train; null is without limit. One that takes longer is ended, even if it
            hangs, and recorded as failed; the study goes on. Each attempt has its own clock, which starts when the
            worker has imported its libraries: what was trained before an interruption does not count.
        memory_limit: GiB of this machine's, or its node's, memory that each of a trial's processes may have at any
            moment; likewise. With the libraries alone one has about 0.9.
    """

    name: str = "local"
    workers: int = 0
    per_gpu: int = 1
    threads: int = 1
    address: str = ""
    cpus_per_trial: float = 1.0
    gpus_per_trial: float | None = None
    time_limit: float | None = None
    memory_limit: float | None = None

    @property
    def threads_of_a_trial(self) -> int:
        """CPU threads that a trial has, wherever it is trained."""
        return max(1, int(self.cpus_per_trial)) if self.name == "ray" else self.threads


@dataclass
class Study:
    """An ablation: rows that each change one factor.

    A row may name a `baseline` of its own. Rows with the same baseline are one comparison: they differ in the factor
    and in nothing else, while another comparison of the same table may be of another network (`backbone`), trained by
    another recipe (`recipe: wrn`, a file of `conf/recipe`), at another `data.size`.

    Attributes:
        name: word by which the study is called; the YAML file's name.
        title: heading of its table.
        paper: the paper's table that it regenerates (`table10` …); empty if there is none.
        factor: the one key that compared rows may differ in (`se.reduction`), or `se`: with SE or without. A row may
            also switch SE off (`se: null`).
        baseline: label of the row that rows are compared with that name none themselves.
        only: the rows to train, by label or backbone, with the rows that they are compared with; empty takes all. p
            values are corrected for all rows of the study in any case.
        rows: label → the row's overrides and, as `paper`, the name of the paper's row.
    """

    name: str = ""
    title: str = ""
    paper: str = ""
    factor: str = ""
    baseline: str = ""
    only: list[str] = field(default_factory=list)
    rows: dict[str, Any] = field(default_factory=dict)

    def baselines(self) -> dict[str, str]:
        """Row → the row that it is compared with: the one that it names, itself if others name it, else the study's."""
        own = {
            label: str(row["baseline"])
            for label, row in self.rows.items()
            if isinstance(row, dict) and "baseline" in row
        }
        named = set(own.values())
        return {label: own.get(label, label if label in named else self.baseline) for label in self.rows}


@dataclass
class Search:
    """A search: which SE design buys the most accuracy for what it costs.

    Attributes:
        name: word by which the search is called; the YAML file's name.
        title: heading of its front.
        space: what may vary, each with its levels: `se.reduction` (`off` or r; one list for every stage, or a mapping
            from stage to list, in which a stage left out has no SE), `se.squeeze`, `se.excitation`, `se.position`. What
            is not there stays as `se` says.
        objectives: what is to be small (or, of accuracy, large): `val_error` or `val_accuracy`, `val_loss`, `params`,
            `macs`, `latency`.
        sampler: who proposes designs: `nsga2`, `tpe`, `gp`, `random`; `local` for neighbours of the front, which differ
            from it in one level; or `enumerate` for every one. A known proposal is replaced by such a neighbour, too.
        trials: how many designs are trained at most, whatever is asked for twice or is over the budget. A space with
            fewer is enumerated.
        seed: of the sampler.
        pending: how many designs may be in training before the sampler hears of the first of them. It, and not the
            number of workers, decides what a search proposes, so that a search repeats itself on any number of them.
        rungs: epochs at which trainings stop, to go on only if their design is among the best (successive halving);
            none trains every design to its end.
        keep: share of the designs at a rung that goes on.
        strata: how many classes of cost are compared apart, so that cheap designs are not starved.
        confirm: fresh seeds that the designs on and near the front, no SE and the paper's default are trained with once
            the search has ended; their test errors are the front's intervals.
    """

    name: str = ""
    title: str = ""
    space: dict[str, Any] = field(default_factory=dict)
    objectives: list[str] = field(default_factory=lambda: ["val_error", "params"])
    sampler: str = "nsga2"
    trials: int = 100
    seed: int = 0
    pending: int = 4
    rungs: list[int] = field(default_factory=list)
    keep: float = 1 / 3
    strata: int = 3
    confirm: int = 0


@dataclass
class Settle:
    """How many seeds `seeds=settle` may spend on a row.

    Attributes:
        min: seeds at the first look, at least 3.
        max: seeds at the last look.
        name: of this plan. The words of a plan are kept with the records, and go on with it; other words on the same
            rows are a plan of another name, which begins with the first seed that nobody has seen.
    """

    min: int = 3
    max: int = 20
    name: str = ""


@dataclass
class Budget:
    """What a design of a search may cost at most: a number, or `1.05x` the plain network's; null is without limit.

    Attributes:
        params: trainable weights.
        macs: multiply-adds of one image.
        latency: milliseconds of one image, measured on the device at hand.
    """

    params: Any = None
    macs: Any = None
    latency: Any = None


FAILURES = ("untested", "chance")  # what a failed trial is in a table
METRICS = ("error", "loss")  # what verdicts are about


@dataclass
class Config:
    """Everything that `python -m senet_lab.run` can be told.

    Attributes:
        backbone: the plain network, by name, or `package.module:function` for one of your own.
        stride: where an ImageNet ResNet's stages halve the resolution: `paper` (first 1×1) or `torchvision` (3×3).
        se: the SE design; null is the plain network.
        study: an ablation.
        search: a search.
        budget: what a design of a search may cost.
        seeds: how many seeds (0, 1, …); null takes 3 in an ablation, and 1 in a search or for a single network.
            `settle` adds seeds to each row of an ablation until its verdict is in, and looks after each of them.
        settle: how many seeds that may take.
        metric: what verdicts are about: the `error` of the test images (percent), or their mean `loss` (−log p of the
            right class, nats), which is finer than counted errors and often settles sooner. Changes no training.
        margin: the smallest difference that matters, in points (of the loss: nats). A row that is shown to differ by
            less is *equivalent*; null has no such verdict. To be decided before training, which it does not change.
        plan: print what would be trained, and stop.
        retry: train trials again that are recorded as failed.
        max_failures: a study, or a search, of which so many trials have failed and none has ended well is stopped, with
            the first reason: it cannot work. Counted is every trial of it, whenever and by whichever driver it was
            trained; those that are in training may end. null goes on in any case.
        failures: what a failed trial (a loss that is no number, a limit exceeded) is in a table or front: `untested`,
            its row is not tested and its design not on the front, or `chance`, it errs as often as guessing does.
            Changes no training; `python -m senet_lab table … failures=chance` changes it afterwards.
        tracking: W&B `offline`, `online` or `off`; `auto` is what WANDB_MODE says, or `offline`. WANDB_MODE=disabled
            switches W&B off whatever is said here.
        results: the folder that everything is written to; `~` is the home, here and in `storage` and `data.root`.
        storage: database of records (SQLAlchemy's URL).
    """

    backbone: str = "resnet8"
    stride: str = "paper"
    se: SE | None = field(default_factory=SE)
    data: Data = field(default_factory=Data)
    recipe: Recipe = field(default_factory=Recipe)
    training: Training = field(default_factory=Training)
    executor: Executor = field(default_factory=Executor)
    study: Study | None = None
    search: Search | None = None
    budget: Budget = field(default_factory=Budget)
    seeds: Any = None
    settle: Settle = field(default_factory=Settle)
    metric: str = "error"
    margin: float | None = None
    plan: bool = False
    retry: bool = False
    max_failures: int | None = 10
    failures: str = "untested"
    tracking: str = "auto"
    results: str = "results/local"
    storage: str = "sqlite:///${results}/lab.db"


class UserError(ValueError):
    """Something the user asked for cannot be: one clear line that names the word and the choices (exit code 2)."""


class RunError(RuntimeError):
    """A run could not go on, through no fault of its network: a full disk, an unreadable image (exit code 1)."""


def first_line(error: object) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def at_home(path: str) -> str:
    """A path with the user's home in place of ~, which a shell does not replace behind a `=`."""
    return os.path.expanduser(path)  # noqa: PTH111  # nothing else of it changes


def storage_in(results: object) -> str:
    """URL of the database that a results folder has where nothing else is said: in that folder, whatever it is called,
    because what means something in a URL is quoted."""
    return "sqlite:///" + re.sub("[%?#]", lambda found: f"%{ord(found[0]):02X}", f"{results}/lab.db")


def fault_of(path: Path, error: OSError) -> str:
    """Why a path cannot be used. Of a link that leads nowhere (a disk that is not there) the system would say that the
    file exists."""
    with suppress(OSError):  # of a folder that may not be looked into
        for place in (path, *path.parents):
            if place.is_symlink() and not place.exists():
                return f"{place} is a link to {place.readlink()}, which is not there"
    return error.strerror or str(error)


def without_passwords(said: object) -> str:
    """A message with *** in place of the password of each URL in it, whole or malformed."""
    return re.sub(r"(://[^\s:/@]*):[^\s@]*@", r"\1:***@", str(said))
