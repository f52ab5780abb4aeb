"""What determines the result of a training, and its name: the trial id.

Two trainings with the same id are the same training and end with the same numbers (on the same machine), so that one is
never done twice, in whichever study it appears.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from senet_lab.config import SE, Data, Recipe

# Fields that change no result, and so are no part of a trial's name.
IDLE_DATA = {"root", "train", "test", "identity", "download", "workers"}  # `Spec.identity` tells the images
IDLE_RECIPE = {"name"}
IDLE = {"init"}  # `Spec.weights` tells them
# Fields that records of earlier versions have, too → the way that was left out of their names.
REMOVED_FIELDS = {"fused_blocks": False}


@dataclass(frozen=True, kw_only=True)
class Step:
    """How the training steps of a trial are carried out; the defaults are the plain way."""

    feed: str = "files"  # whether a tree of images is read from its `files`, or lies in `memory`
    layout: str = "contiguous"  # of the tensors, or `channels_last`
    fused: bool = False  # whether the optimiser is one kernel
    # `off`, `blocks` (each block is compiled, those alike once; a network without blocks is compiled whole), `whole`,
    # or `graphs` (whole, and its kernels are launched as CUDA graphs).
    compile: str = "off"
    devices: int = 1  # how many each take a part of every batch
    sync_batchnorm: bool = False  # whether the statistics of batch norms are of the whole batch, not of a device's part
    freeze: str = ""  # patterns of the parts that do not train (`parts`), in order, with spaces between them


STEP = dataclasses.asdict(Step())  # field → the plain way


@dataclass(frozen=True, kw_only=True)
class Spec(Step):
    """One training, completely. What has a default is left out of its name where it is that."""

    backbone: str  # name of the plain network
    network: str  # structural fingerprint of the network that is built
    se: SE | None  # the SE design with its reductions by stage; None is the plain network
    hidden: dict[int, tuple[int, ...]]  # hidden widths of its gates by stage, as this network realises the reductions
    data: Data
    identity: str  # what the images are (`DataFacts.identity`)
    classes: int  # how many
    channels: int  # colour channels of the images
    recipe: Recipe
    seed: int  # of the initial weights and of the order of the images
    stride: str = "paper"  # the ImageNet ResNets' stride, or `torchvision`
    device: str = "cpu"  # or `cuda`; the kinds do not agree to the last digit
    precision: str = "32-true"  # Lightning's word for it
    # CPU threads, which divide sums otherwise and so change last digits; on a GPU always 1, because there they decode
    # images only.
    threads: int = 1
    # What tells the code of the network and its gates from other code of the same names (`identity.code`); empty where
    # it is what the lab has released under them.
    code: str = ""
    # Where its gates are, by the paths of the modules that they are put after or before; empty for SE, whose hidden
    # widths tell it.
    places: str = ""
    # What tells the source of a loss, and of an optimiser, of the user's own; empty for the lab's and PyTorch's.
    loss_code: str = ""
    optimizer_code: str = ""
    # Weights that it starts from: where they are, and their digest, which alone names the trial (`models.starting`).
    init: str | None = None
    weights: str = ""

    @property
    def step(self) -> Step:
        """How its steps are carried out."""
        return Step(**{name: getattr(self, name) for name in STEP})

    def determinants(self) -> dict[str, Any]:
        """Everything that the trial's name depends on; fields at their default are left out, so that a field that is
        added to the lab later renames no trial that is recorded already."""
        values: dict[str, Any] = {
            "backbone": self.backbone,
            "identity": self.identity,
            "seed": self.seed,
            "se": self.gates(),
            "data": non_defaults(self.data, drop=IDLE_DATA, keep={"name"}),
            "recipe": non_defaults(self.recipe, drop=IDLE_RECIPE),
        }
        if ":" in self.backbone:  # the user's own code may change under the same name; its structure tells
            values["network"] = self.network
        return values | {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in IDLE and field.default not in (dataclasses.MISSING, getattr(self, field.name))
        }

    def gates(self) -> dict[str, Any] | None:
        """The SE design as it is built: hidden widths instead of reductions, so that two reductions which a narrow
        network cannot tell apart (max(1, C // r) is the same in every block) are one training. Of another kind than
        SE it is not known what it makes of a reduction."""
        if self.se is None:
            return None
        drop = {"stages", "reduction"} if self.se.kind == SE().kind else {"stages"}
        return {**non_defaults(self.se, drop=drop), "hidden": self.hidden}

    def as_recorded_earlier(self, identity: str) -> Spec:
        """The same training as earlier versions told it, who did not look at code and threads, and knew the images by
        an identity of their own (empty where it is the same)."""
        return replace(self, code="", threads=1, identity=identity or self.identity)

    @property
    def trial_id(self) -> str:
        """Sixteen hexadecimal digits of the determinants' SHA-256."""
        text = json.dumps(self.determinants(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def config(self) -> dict[str, Any]:
        """The whole of it as plain values, for the record."""
        return dataclasses.asdict(self)


def non_defaults(value: Any, *, drop: Collection[str] = (), keep: Collection[str] = ()) -> dict[str, Any]:
    """Fields of a dataclass that differ from their defaults (or are in `keep`), less those in `drop`."""
    default = type(value)()
    return {
        field.name: getattr(value, field.name)
        for field in dataclasses.fields(value)
        if field.name not in drop and (field.name in keep or getattr(value, field.name) != getattr(default, field.name))
    }
