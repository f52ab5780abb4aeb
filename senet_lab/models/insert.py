"""Puts SE into a finished plain network by wrapping children of its residual blocks (paper, sections 3.3 and 6.5).

A network without such blocks says itself where its gates go (`se_places`), at the standard position only.

Wrapping is what makes a study fair: every row starts from the same network with the same initial weights, and only the
gates are new. Deleting `.body` from the keys of a state dict gives the plain network's keys, and with its gates at 1
the network computes the plain one's outputs and gradients bit for bit. There are no hooks: copies and exports keep SE.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import timm.models.resnet
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from senet_lab.config import SE
from senet_lab.models.cifar import PreactBasic, PreactBottleneck
from senet_lab.models.se import SEBlock, check_known
from senet_lab.models.shake import Branches, ShakeBlock


class Slot(NamedTuple):
    """A place for a gate: which child of the block is wrapped (`""` is the block itself), and on which side of it."""

    child: str
    side: str  # "before" or "after"


class Place(NamedTuple):
    """Where one gate goes, however it was found.

    Attributes:
        path: of the module that is wrapped.
        side: whether the gate is `before` or `after` it.
        stage: in the paper's numbering.
        channels: how many are gated.
        block: path of the block that it belongs to, which its weights are drawn from; `path` where there is no block.
    """

    path: str
    side: str
    stage: int
    channels: int
    block: str


BASIC = {
    "standard": Slot("bn2", "after"),
    "pre": Slot("conv1", "before"),
    "post": Slot("", "after"),
    "identity": Slot("downsample", "after"),
    "conv3x3": Slot("conv2", "before"),
}
BOTTLENECK = BASIC | {"standard": Slot("bn3", "after"), "conv3x3": Slot("conv3", "before")}
PREACT_BASIC = BASIC | {"standard": Slot("conv2", "after"), "pre": Slot("bn1", "before")}
PREACT_BOTTLENECK = BOTTLENECK | {"standard": Slot("conv3", "after"), "pre": Slot("bn1", "before")}
SHAKE = {  # gates the mix of the branches; there are two 3×3 convolutions side by side, so no place after one of them
    "standard": Slot("branch", "after"),
    "pre": Slot("branch", "before"),
    "post": Slot("", "after"),
    "identity": Slot("downsample", "after"),
}

# The kinds of block that SE can go into. Exactly these classes: a subclass may compute something else.
# Give a block of your own a line here if its children are called and used as torchvision's are.
BLOCKS: dict[type[nn.Module], dict[str, Slot]] = {
    BasicBlock: BASIC,
    Bottleneck: BOTTLENECK,
    timm.models.resnet.Bottleneck: BOTTLENECK,
    PreactBasic: PREACT_BASIC,
    PreactBottleneck: PREACT_BOTTLENECK,
    ShakeBlock: SHAKE,
}
POSITIONS = tuple(BASIC)
STANDARD = SE()  # the paper's block, where nothing else is asked for


class Gated(nn.Module):
    """`body` with its output gated by `se`, or with its input (`side` = before); in the mode that `body` is in."""

    def __init__(self, body: nn.Module, se: SEBlock, side: str) -> None:
        super().__init__()
        self.body = body
        self.se = se.train(body.training)
        self.side = side
        self.training = body.training

    def forward(self, x_BCHW: Tensor) -> Tensor:
        gated: Tensor = self.body(self.se(x_BCHW)) if self.side == "before" else self.se(self.body(x_BCHW))
        return gated

    def extra_repr(self) -> str:
        return f"side={self.side}"


@dataclasses.dataclass(frozen=True)
class Inserted:
    """One gate that was put into a network.

    Attributes:
        name: path of the module that was wrapped, e.g. `layer1.0.bn3`.
        side: whether the gate is `before` or `after` it.
        stage: in the paper's numbering.
        channels: how many are gated.
        hidden: width between the two fully connected layers.
    """

    name: str
    side: str
    stage: int
    channels: int
    hidden: int


def add_se(
    model: nn.Module, se: SE | Mapping[str, Any] | None = STANDARD, *, seed: int = 0, **fields: Any
) -> list[Inserted]:
    """Put SE into `model`, in place.

    The weights of a gate depend on `seed` and on the block's path alone: two designs that both gate a block draw its
    gate from the same numbers, and neither touches the global generators nor the plain network's weights.

    Args:
        model: a network of the blocks in `BLOCKS`, within stages called layer1, layer2, … at any depth; or one that
            says itself where its gates go.
        se: the design, or a mapping of its fields; what is left out has the defaults of `SE`. None leaves it plain.
        seed: what the weights of the gates are drawn from.
        fields: single fields of the design, on top of `se`: `add_se(model, reduction=8)`.

    Returns:
        What was wrapped where, in the network's order. Empty for None and for a design without stages.

    Raises:
        ValueError: if the model has SE already, has no block that SE can go into, or lacks a stage; for unknown words.
            The model is then unchanged.
    """
    if se is None and not fields:
        return []
    design = as_design(se, fields)
    check_known("se.position", design.position, POSITIONS)
    blocks = blocks_of(model)
    ratios = design.by_stage(tuple(blocks))
    if not ratios and design.stages and design.reduction != {}:
        raise ValueError(
            f"se.stages: {design.stages!r} and the stages of se.reduction {design.reduction!r} have none in common"
        )
    places = [place_of(model, path, stage, design.position) for stage in ratios for path in blocks[stage]]
    # All are made before the first is put in place, so that a mistake leaves the model as it was.
    wraps = [wrap(model, place, design, ratios[place.stage], seed) for place in places]
    for done, gated in wraps:
        parent, _, child = done.name.rpartition(".")
        setattr(model.get_submodule(parent), child, gated)
    return [done for done, _ in wraps]


def as_design(se: SE | Mapping[str, Any] | None, fields: Mapping[str, Any]) -> SE:
    """The design that `se` and single `fields` on top of it describe.

    Raises:
        ValueError: for a field that `SE` lacks, for fields of no SE, for anything else that is no design.
    """
    if not isinstance(se, (SE, Mapping)):
        raise ValueError(f"se: {se!r} is not a design (senet_lab.SE or a mapping of its fields)")
    given = {**(vars(se) if isinstance(se, SE) else se), **fields}
    for name in given:
        check_known("se", name, [field.name for field in dataclasses.fields(SE)])
    return SE(**given)


def blocks_of(model: nn.Module) -> dict[int, list[str]]:
    """Stage → paths of what takes one gate each, in the network's order: the modules of `se_places` where the network
    has that, otherwise its blocks of `BLOCKS`.

    Raises:
        ValueError: if there is SE already, or no such block, or one outside any stage.
    """
    blocks: dict[int, list[str]] = {}
    said = said_places(model)
    for path, module in model.named_modules():
        if isinstance(module, (Gated, SEBlock)):
            raise ValueError(f"the model has SE already: {path or 'the model'} is a {type(module).__name__}")
        if path in said if said is not None else type(module) in BLOCKS:
            stage = stage_of(model, path)
            if stage is None:
                raise ValueError(f"{path or 'the model'} is a {type(module).__name__} outside layer1, layer2, …")
            blocks.setdefault(stage, []).append(path)
    gone = [path for path in said or () if not any(path in paths for paths in blocks.values())]
    if gone:
        raise ValueError(f"se_places: the model has no module {', '.join(gone)}")
    if not blocks:
        kinds = ", ".join(
            kind for kind, _ in Counter(type(module).__name__ for module in model.modules()).most_common(8)
        )
        known = ", ".join(f"{kind.__module__}.{kind.__name__}" for kind in BLOCKS)
        raise ValueError(f"found nowhere to put SE: the model is made of {kinds}; SE goes into {known}")
    return dict(sorted(blocks.items()))


def saying(net: nn.Module, stage_roots: Mapping[int, Sequence[str]], se_places: Mapping[str, int]) -> nn.Module:
    """`net`, which from now on says itself what its stages are (`stage_of`) and where its gates go (`said_places`)."""
    vars(net).update(stage_roots=dict(stage_roots), se_places=dict(se_places))
    return net


def said_places(model: nn.Module) -> Mapping[str, int] | None:
    """Where a network says itself that its gates go, by an attribute `se_places`: path of the module after which a gate
    is → how many channels that gate has. None for a network that says nothing. The stages of these modules are what
    `stage_of` says."""
    return getattr(model, "se_places", None)


def stages_of(model: nn.Module) -> tuple[int, ...]:
    """The stages of a plain network that SE can go into, in the paper's numbering; errors as of `blocks_of`."""
    return tuple(blocks_of(model))


def stage_of(model: nn.Module, path: str) -> int | None:
    """The stage that a module or parameter of `model` is in, in the paper's numbering; None outside the stages.

    A network may say itself what its stages are, by an attribute `stage_roots`: stage → paths of the modules that make
    it up. Otherwise names tell: layer1 (torchvision's, and ours) and stages.0 (timm's) are stage 2.
    """
    roots: Mapping[int, Sequence[str]] | None = getattr(model, "stage_roots", None)
    if roots is not None:
        inside = (stage for stage, paths in roots.items() if any(f"{path}.".startswith(f"{root}.") for root in paths))
        return next(inside, None)
    found = re.search(r"(?:^|\.)(layer|stages\.)(\d+)(?:\.|$)", path)
    return None if found is None else int(found[2]) + (1 if found[1] == "layer" else 2)


def place_of(model: nn.Module, path: str, stage: int, position: str) -> Place:
    """The place of the gate of what `blocks_of` found at `path`.

    Raises:
        ValueError: if it has none for that position.
    """
    said = said_places(model)
    if said is not None:
        if position != "standard":
            raise ValueError(f"se.position: the network has no place for {position}; it has standard")
        return Place(path, "after", stage, said[path], path)
    block = model.get_submodule(path)
    slots = slots_of(block)
    if position not in slots:
        kind = type(block).__name__
        raise ValueError(f"se.position: a {kind} has no place for {position}; it has {', '.join(slots)}")
    slot = slots[position]
    gated = getattr(block, slot.child) if slot.child else block
    channels = channels_in(gated) if slot.side == "before" else channels_out(block, slots)
    return Place(f"{path}.{slot.child}" if slot.child else path, slot.side, stage, channels, path)


def wrap(model: nn.Module, place: Place, design: SE, reduction: int, seed: int) -> tuple[Inserted, Gated]:
    """The gated replacement for the module at a place; changes nothing yet."""
    parent, _, child = place.path.rpartition(".")
    body = getattr(model.get_submodule(parent), child)
    if body is None:  # torchvision's shortcut without projection
        body = nn.Identity().train(model.get_submodule(parent).training)
    weight = next(model.get_submodule(place.block).parameters(), next(model.parameters()))
    # On the CPU whatever the default device, so that the seed gives the same gates everywhere; and the generator that
    # building a layer draws from is put back, because the network's owner did not ask for it to move on.
    with torch.device("meta" if weight.is_meta else "cpu"), torch.random.fork_rng(devices=[]):
        own = torch.Generator("cpu").manual_seed(zlib.crc32(f"{seed} {place.block}".encode()))
        se = SEBlock(place.channels, reduction, design.squeeze, design.excitation, design.bias, generator=own)
    se.to(weight.device, weight.dtype)
    return Inserted(place.path, place.side, place.stage, place.channels, se.hidden), Gated(body, se, place.side)


def slots_of(block: nn.Module) -> dict[str, Slot]:
    """The slots of one block, by position."""
    slots = BLOCKS[type(block)]
    if getattr(block, "shares_norm", False):  # a gate before that norm would gate the projection, too
        return slots | {"pre": Slot("conv1", "before")}
    return slots


def channels_in(layer: nn.Module) -> int:
    """The width that a convolution or norm takes."""
    assert isinstance(layer, (nn.Conv2d, Branches, nn.BatchNorm2d)), f"no width is known of {layer}"
    return layer.num_features if isinstance(layer, nn.BatchNorm2d) else layer.in_channels


def channels_out(block: nn.Module, slots: Mapping[str, Slot]) -> int:
    """The width of a block's output: that of the layer that ends its branch."""
    layer = getattr(block, slots["standard"].child)
    assert isinstance(layer, (nn.Conv2d, Branches, nn.BatchNorm2d)), f"no width is known of {layer}"
    return layer.num_features if isinstance(layer, nn.BatchNorm2d) else layer.out_channels
