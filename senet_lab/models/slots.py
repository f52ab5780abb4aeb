"""Where gates may go in a network, at each position of the paper (section 6.5): what takes one gate, and its slots.

Blocks of torchvision, timm and our own are known by their classes (`BLOCKS`), others by what they compute
(`structure.py`). A network without such blocks says itself where its gates go (`se_places`), or its user does
(`where=`, `module_paths.py`), at the standard position only.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import NamedTuple

from torch import Tensor, nn

from senet_lab.models.depthwise import after_grouped
from senet_lab.models.library_blocks import LIBRARY_BLOCKS
from senet_lab.models.module_paths import matches, widths_of
from senet_lab.models.shake import Branches
from senet_lab.models.site_check import Slot, checked_width
from senet_lab.models.stages import declared_places, stage_of
from senet_lab.models.structure import Residual, residual_blocks

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
POSITIONS = tuple(BASIC)  # of residual blocks
DEPTHWISE = "depthwise"  # in any network: found by what it runs (`depthwise.py`)

# The kinds of block whose slots are known. Exactly these classes: a subclass may compute something else, and is looked
# into as any other block is. They go by their names, so that timm, which takes long, is imported where it is used only.
BLOCKS: dict[str, dict[str, Slot]] = {
    "torchvision.models.resnet.BasicBlock": BASIC,
    "torchvision.models.resnet.Bottleneck": BOTTLENECK,
    "timm.models.resnet.Bottleneck": BOTTLENECK,
    "senet_lab.models.cifar.PreactBasic": PREACT_BASIC,
    "senet_lab.models.cifar.PreactBottleneck": PREACT_BOTTLENECK,
    "senet_lab.models.shake.ShakeBlock": SHAKE,
    **LIBRARY_BLOCKS,
}


class Target(NamedTuple):
    """What takes one gate: a block or a module.

    Attributes:
        path: of it.
        stage: in the paper's numbering; None where nothing tells.
        slots: position → where its gate goes.
        width: position → channels of a gate there; a ValueError where nothing tells them.
        called: what errors call it, and what it has.
    """

    path: str
    stage: int | None
    slots: Mapping[str, Slot]
    width: Callable[[str], int]
    called: tuple[str, str]


def class_path(kind: type[nn.Module]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def is_known(block: nn.Module) -> bool:
    """Whether it is of one of the kinds in `BLOCKS`."""
    return class_path(type(block)) in BLOCKS


def slots_of(block: nn.Module) -> dict[str, Slot]:
    """The slots of one block of a known kind, by position."""
    slots = BLOCKS[class_path(type(block))]
    if getattr(block, "shares_norm", False):  # a gate before that norm would gate the projection, too
        return slots | {"pre": Slot("conv1", "before")}
    return slots


def targets_of(model: nn.Module, where: str | Sequence[str] | None = None, position: str = "standard") -> list[Target]:
    """What takes one gate each, by stage and in the network's order: the modules that `where` names, or else those of
    `se_places` where the network has that, or else its residual blocks; for `depthwise` the convolutions behind
    depthwise and grouped ones.

    Raises:
        ValueError: if there is nothing that takes a gate.
    """
    declared = declared_places(model)
    if where is not None:
        targets = [target_after(model, path, width) for path, width in widths_of(model, matches(model, where)).items()]
    elif position == DEPTHWISE:
        targets = [target_before(model, path) for path in after_grouped(model)]
    elif declared is not None:
        present = [path for path, _ in model.named_modules() if path in declared]
        missing = [path for path in declared if path not in present]
        if missing:
            raise ValueError(f"se_places: the model has no module {', '.join(missing)}")
        targets = [target_after(model, path, declared[path]) for path in present]
        check_stages(model, targets)
    else:
        targets = block_targets(model)
    stages = [target.stage for target in targets]
    return targets if None in stages else sorted(targets, key=lambda target: target.stage or 0)


def target_after(model: nn.Module, path: str, width: int) -> Target:
    """A module that is named, with a gate after it."""
    slots, called = {"standard": Slot("", "after")}, ("the network", f"standard, after {path}")
    return Target(path, stage_of(model, path), slots, lambda position: width, called)


def target_before(model: nn.Module, path: str) -> Target:
    """A convolution behind a depthwise one, with a gate before it."""
    conv = model.get_submodule(path)
    assert isinstance(conv, nn.Conv2d)
    slots, called = {DEPTHWISE: Slot("", "before")}, ("the network", f"depthwise, before {path}")
    return Target(path, stage_of(model, path), slots, lambda position: conv.in_channels, called)


def block_targets(model: nn.Module) -> list[Target]:
    """The residual blocks of a network."""
    blocks, reasons = residual_blocks(model, is_known)
    library = {
        path: slots_of(block) for path, block in model.named_modules() if class_path(type(block)) in LIBRARY_BLOCKS
    }
    shown = cache(partial(shown_widths_at, model, library))
    tried: dict[tuple[int, str], int] = {}
    targets = []
    for path, block in model.named_modules():
        kind, stage = type(block).__name__, stage_of(model, path)
        if is_known(block):
            slots, width = slots_of(block), partial(width_of, block)
            if path in library:
                width = partial(library_width, shown, path)
            targets.append(Target(path, stage, slots, width, (f"a {kind}", ", ".join(slots))))
        elif path in blocks:
            slots = {position: site.slot for position, site in blocks[path].sites.items()}
            called = f"a {kind} ({path or 'the model'})", f"{', '.join(slots)}; where= takes any module"
            width = partial(tried_width, blocks[path], f"{path or 'the model'} ({kind})", tried)
            targets.append(Target(path, stage, slots, width, called))
    if not targets:
        raise ValueError(no_target_message(model, reasons))
    if reasons:  # perhaps nothing that anybody takes for a block, but not to be passed over in silence
        without = "; ".join(f"{kind}: {why}" for kind, why in reasons.items())
        warnings.warn(
            f"no SE goes into what is no residual block, though it may look like one: {without}", stacklevel=5
        )
    return targets


def no_target_message(model: nn.Module, reasons: Mapping[str, str]) -> str:
    """What to say of a model in which nothing takes a gate; `reasons` why a class that might be a block is none."""
    kinds = ", ".join(kind for kind, _ in Counter(type(module).__name__ for module in model.modules()).most_common(8))
    nearly = "".join(f"; {kind} is none: {why}" for kind, why in list(reasons.items())[:2])
    return (
        "found nowhere to put SE: looked for residual blocks, modules that compute shortcut(x) + branch(x) with "
        f"convolutions on the branch; the model is made of {kinds}{nearly}. Name the modules that a gate goes after: "
        "add_se(model, where='features.*')"
    )


def check_stages(model: nn.Module, targets: Sequence[Target]) -> None:
    """A ValueError that names what is in no stage."""
    for target in targets:
        if target.stage is None:
            kind = type(model.get_submodule(target.path)).__name__
            raise ValueError(
                f"{target.path or 'the model'} is a {kind} outside layer1, layer2, … and any stages that the network "
                "names in stage_roots"
            )


# ---------------------------------------------------------------------------------------------------------------------
# How many channels a gate has.


def tried_width(found: Residual, called: str, tried: dict[tuple[int, str], int], position: str) -> int:
    """Of a block that was found by what it computes, once its slot has been `tried`, in one of those built alike."""
    key = (id(found), position)
    if key not in tried:
        try:
            tried[key] = checked_width(found.block, found.sites[position], found.width)
        except ValueError as error:
            raise ValueError(f"{called} looks like a residual block, but {error}: name modules by where=") from error
    return tried[key]


def shown_widths_at(model: nn.Module, blocks: Mapping[str, Mapping[str, Slot]], position: str) -> dict[str, int]:
    """Path of a library's block → channels of a gate at a position; of all at once, because the network is run for it.
    Before a convolution it is what that takes, and elsewhere what comes out of the gated module."""
    widths: dict[str, int] = {}
    after: dict[str, str] = {}  # path of a gated module → of its block
    for path, slots in blocks.items():
        slot = slots.get(position)
        if slot is None:
            continue
        child = ".".join(filter(None, (path, slot.child)))
        if slot.side == "after":
            after[child] = path
        else:
            convs = (each for each in model.get_submodule(child).modules() if isinstance(each, nn.Conv2d))
            widths[path] = next(convs).in_channels
    return widths | {after[child]: width for child, width in widths_of(model, list(after)).items()}


def library_width(shown: Callable[[str], Mapping[str, int]], path: str, position: str) -> int:
    """Of a library's block at that path."""
    return shown(position)[path]


def width_of(block: nn.Module, position: str) -> int:
    """Of a known block: what the layer behind the gate takes, or what the layer gives that ends its branch.

    Raises:
        ValueError: where nothing tells it, as where a block has an identity for its last norm.
    """
    slots = slots_of(block)
    before = slots[position].side == "before"
    layer = getattr(block, (slots[position] if before else slots["standard"]).child)
    if isinstance(layer, (nn.Conv2d, Branches)):
        return layer.in_channels if before else layer.out_channels
    for name in ("num_features", "num_channels"):  # a norm of any kind: batch, group, frozen, …
        width = getattr(layer, name, None)
        if isinstance(width, int):
            return width
    weight = getattr(layer, "weight", None)
    if isinstance(weight, Tensor) and weight.dim() == 1:
        return len(weight)
    raise ValueError(f"{type(layer).__name__} stands where a block has its last layer or norm: name modules by where=")
