"""Puts SE into a finished plain network by wrapping children of its residual blocks (paper, sections 3.3 and 6.5).

Blocks of torchvision, timm and our own are known by their classes (`blocks.py`), others by what they compute
(`structure.py`). A network without such blocks says itself where its gates go (`se_places`), or its user does
(`where=`, `named.py`), at the standard position only.

Wrapping is what makes a study fair: every row starts from the same network with the same initial weights, and only the
gates are new. Deleting `.body` from the keys of a state dict gives the plain network's keys, and with its gates at 1
the network computes the plain one's outputs and gradients bit for bit. There are no hooks: copies and exports keep SE.
"""

from __future__ import annotations

import dataclasses
import warnings
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from senet_lab.config import SE, reduction_number
from senet_lab.models.blocks import BASIC, channels_in, channels_out, is_known, slots_of
from senet_lab.models.gated import Gated, GatedCall, takes_one
from senet_lab.models.gates import SEBlock, check_known
from senet_lab.models.named import matches, widths_of
from senet_lab.models.present import se_modules
from senet_lab.models.proving import called_with_input_alone, check_not_written_out
from senet_lab.models.stages import said_places, stage_of
from senet_lab.models.structure import Residual, residual_blocks
from senet_lab.models.trying import checked_width


class Target(NamedTuple):
    """What takes one gate: a block of `BLOCKS`, one that was found by structure, or a module that is named.

    Attributes:
        path: of the block or module.
        stage: in the paper's numbering; None where nothing tells.
        residual: what was found, of a block found by structure.
        width: channels that a gate after it has, of a module that is named.
    """

    path: str
    stage: int | None
    residual: Residual | None = None
    width: int | None = None


class Place(NamedTuple):
    """Where one gate goes, however it was found.

    Attributes:
        path: of the module that is wrapped.
        side: whether the gate is `before` or `after` it.
        stage: in the paper's numbering; None where nothing tells.
        channels: how many are gated.
        block: path of the block that it belongs to, which its weights are drawn from; `path` where there is no block.
    """

    path: str
    side: str
    stage: int | None
    channels: int
    block: str


POSITIONS = tuple(BASIC)
WRAPPERS = {"DataParallel": "module", "OptimizedModule": "_orig_mod"}  # class → where it keeps the network, unchanged
STANDARD = SE()  # the paper's block, where nothing else is asked for


@dataclasses.dataclass(frozen=True)
class Inserted:
    """One gate that was put into a network.

    Attributes:
        name: path of the module that was wrapped, e.g. `layer1.0.bn3`.
        side: whether the gate is `before` or `after` it.
        stage: in the paper's numbering; None where nothing tells.
        channels: how many are gated.
        hidden: width between the two fully connected layers.
    """

    name: str
    side: str
    stage: int | None
    channels: int
    hidden: int


def add_se(
    model: nn.Module,
    se: SE | Mapping[str, Any] | None = STANDARD,
    *,
    where: str | Sequence[str] | None = None,
    seed: int = 0,
    **fields: Any,
) -> list[Inserted]:
    """Put SE into `model`, in place.

    The weights of a gate depend on `seed` and on the block's path alone: two designs that both gate a block draw its
    gate from the same numbers, and neither touches the global generators nor the plain network's weights.

    Stages are known where the network names them (`stage_of`). Elsewhere all gates have one reduction, and designs that
    tell stages apart are refused.

    Args:
        model: any CNN of 2-D maps, on any device; `DataParallel` and compiled ones are changed inside. Without `where`
            gates go into its residual blocks, which are found by what they compute (`structure.py`): torchvision's
            ResNet, ResNeXt and Wide ResNet, timm's resnet*, resnext* and resnetv2* (whose shortcut has no place for
            `identity` where it is plain), and blocks of your own; or after the modules that the network itself names.
        se: the design, or a mapping of its fields; what is left out has the defaults of `SE`. None leaves it plain.
        where: patterns of the paths of the modules after each of which a gate goes, in any network: `features.*.conv`.
            A `*` stands for anything within one name, `**` for any number of names.
        seed: what the weights of the gates are drawn from.
        fields: single fields of the design, on top of `se`: `add_se(model, reduction=8, identity_start=True)`.

    Returns:
        What was wrapped where, in the network's order. Empty for None and for a design without stages.

    Raises:
        ValueError: if the model has SE already, by name or by what it computes (`present.py`), has no block that SE can
            go into or no module that `where` names, or lacks a stage; if a gate would change anything but what it
            should, or is not asked once when the network runs (`proving.py`); for unknown words, and networks that
            cannot be changed. The model is then unchanged.

    Warns:
        UserWarning: for modules that add something or cannot be looked into, and get no gate: they are named, with the
            reason; and for a network that does not run on an image, whose gates can be tried in its parts only.
    """
    if se is None and not fields:
        return []
    inside = WRAPPERS.get(type(model).__name__)
    if inside is not None:
        done = add_se(model.get_submodule(inside), se, where=where, seed=seed, **fields)
        return [dataclasses.replace(each, name=f"{inside}.{each.name}") for each in done]
    check_changeable(model)
    try:
        wraps = planned(model, se, fields, where, seed)
    except ValueError:
        check_not_written_out(model)
        raise
    alone = called_with_input_alone(model, {gate.name: gated for gate, gated in wraps}) if wraps else set()
    for gate, gated in wraps:
        if gate.name not in alone:
            gated.__class__ = GatedCall
    return put(model, wraps)


def put_se(model: nn.Module, se: SE | Mapping[str, Any] | None, *, seed: int = 0) -> list[Inserted]:
    """As `add_se`, for a network of our own, which is not run: tests prove that its gates are where they should be."""
    if se is None:
        return []
    check_changeable(model)
    return put(model, planned(model, se, {}, None, seed))


def put(model: nn.Module, wraps: Sequence[tuple[Inserted, Gated]]) -> list[Inserted]:
    """Put the gates of a plan in place."""
    for gate, gated in wraps:
        parent, _, child = gate.name.rpartition(".")
        setattr(model.get_submodule(parent), child, gated)
    return [gate for gate, _ in wraps]


def planned(
    model: nn.Module,
    se: SE | Mapping[str, Any] | None,
    fields: Mapping[str, Any],
    where: str | Sequence[str] | None,
    seed: int,
) -> list[tuple[Inserted, Gated]]:
    """What will be put where; all is made before the first is in place, so that mistakes leave the model as it was."""
    design = as_design(se, fields)
    check_known("se.position", design.position, POSITIONS)
    targets = targets_of(model, where)
    ratios = ratios_of(design, targets)
    return [
        wrap(model, place_of(model, target, design.position), design, ratios[target.path], seed)
        for target in targets
        if target.path in ratios
    ]


def check_changeable(model: nn.Module) -> None:
    """A ValueError for a network that nothing can be put into, whose maps are not 2-D, or that has SE."""
    kind = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(f"the model is a {kind} of torch.jit, which cannot be changed: add SE before script or trace")
    if kind in ("DistributedDataParallel", "FullyShardedDataParallel"):
        raise ValueError(f"the model is wrapped in {kind}, which would not train the gates with it: add SE before")
    convs = [type(module) for module in model.modules() if isinstance(module, _ConvNd)]
    if convs and not any(issubclass(each, (nn.Conv2d, nn.ConvTranspose2d)) for each in convs):
        kinds = ", ".join(sorted({each.__name__ for each in convs}))
        raise ValueError(f"the model's convolutions are {kinds}: SE is for 2-D networks (Conv2d) only")
    there = [f"{path or 'the model'} is a {type(module).__name__}" for path, module in se_modules(model).items()]
    if there:
        more = f", …: {len(there)} in all" if len(there) > 2 else ""
        raise ValueError(f"the model has SE already: {', '.join(there[:2])}{more}")


def ratios_of(design: SE, targets: Sequence[Target]) -> dict[str, int]:
    """Path → reduction, of those that get a gate.

    Raises:
        ValueError: for stages that the network lacks or does not tell, and as `SE.by_stage`.
    """
    mute = [target.path for target in targets if target.stage is None]
    if mute and design.stages in ("all", [], ()) and not isinstance(design.reduction, Mapping):
        reduction = reduction_number(design.reduction)
        return {target.path: reduction for target in targets} if design.stages else {}
    if mute:
        raise ValueError(
            f"se.{'reduction' if design.stages == 'all' else 'stages'}: nothing tells the stage of "
            f"{mute[0] or 'the model'}; call the stages layer1, layer2, …, or name them in an attribute stage_roots of "
            "the network, or take one reduction for all"
        )
    ratios = design.by_stage(sorted({target.stage for target in targets if target.stage is not None}))
    if not ratios and design.stages and design.reduction != {}:
        raise ValueError(
            f"se.stages: {design.stages!r} and the stages of se.reduction {design.reduction!r} have none in common"
        )
    return {target.path: ratios[target.stage] for target in targets if target.stage in ratios}


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


def targets_of(model: nn.Module, where: str | Sequence[str] | None = None) -> list[Target]:
    """What takes one gate each, by stage and in the network's order: the modules that `where` names, or else those of
    `se_places` where the network has that, or else its residual blocks.

    Raises:
        ValueError: if there is nothing that takes a gate.
    """
    said = said_places(model)
    if where is not None:
        paths = matches(model, where)
        widths = widths_of(model, paths)
        targets = [Target(path, stage_of(model, path), width=widths[path]) for path in paths]
    elif said is not None:
        there = [path for path, _ in model.named_modules() if path in said]
        gone = [path for path in said if path not in there]
        if gone:
            raise ValueError(f"se_places: the model has no module {', '.join(gone)}")
        targets = [Target(path, stage_of(model, path), width=said[path]) for path in there]
        check_stages(model, targets)
    else:
        found, reasons = residual_blocks(model, is_known)
        targets = [
            Target(path, stage_of(model, path), found.get(path))
            for path, module in model.named_modules()
            if is_known(module) or path in found
        ]
        if not targets:
            raise ValueError(nowhere(model, reasons))
        if reasons:  # perhaps nothing that anybody takes for a block, but not to be passed over in silence
            without = "; ".join(f"{kind}: {why}" for kind, why in reasons.items())
            warnings.warn(
                f"no SE goes into what is no residual block, though it may look like one: {without}", stacklevel=4
            )
    stages = [target.stage for target in targets]
    return targets if None in stages else sorted(targets, key=lambda target: target.stage or 0)


def check_stages(model: nn.Module, targets: Sequence[Target]) -> None:
    """A ValueError that names what is in no stage."""
    for target in targets:
        if target.stage is None:
            kind = type(model.get_submodule(target.path)).__name__
            raise ValueError(
                f"{target.path or 'the model'} is a {kind} outside layer1, layer2, … and any stages that the network "
                "names in stage_roots"
            )


def nowhere(model: nn.Module, reasons: Mapping[str, str]) -> str:
    """What to say of a model in which nothing takes a gate; `reasons` why a class that might be a block is none."""
    kinds = ", ".join(kind for kind, _ in Counter(type(module).__name__ for module in model.modules()).most_common(8))
    nearly = "".join(f"; {kind} is none: {why}" for kind, why in list(reasons.items())[:2])
    return (
        "found nowhere to put SE: looked for residual blocks, modules that compute shortcut(x) + branch(x) with "
        f"convolutions on the branch; the model is made of {kinds}{nearly}. Name the modules that a gate goes after: "
        "add_se(model, where='features.*')"
    )


def stages_of(model: nn.Module) -> tuple[int, ...]:
    """The stages of a plain network that SE can go into, in the paper's numbering; errors as of `targets_of`, and for
    what is in no stage."""
    check_changeable(model)
    targets = targets_of(model)
    check_stages(model, targets)
    return tuple(sorted({target.stage for target in targets if target.stage is not None}))


def place_of(model: nn.Module, target: Target, position: str) -> Place:
    """The place of the gate of a target.

    Raises:
        ValueError: if it has none for that position, or not surely.
    """
    path, stage = target.path, target.stage
    if target.width is not None:
        if position != "standard":
            raise ValueError(f"se.position: the network has no place for {position}; it has standard, after {path}")
        return Place(path, "after", stage, target.width, path)
    block = model.get_submodule(path)
    slots = {at: site.slot for at, site in target.residual.sites.items()} if target.residual else slots_of(block)
    kind = type(block).__name__
    if position not in slots:
        has = f"has no place for {position}; it has {', '.join(slots)}"
        if target.residual:
            has = f"({path or 'the model'}) {has}; where= takes any module"
        raise ValueError(f"se.position: a {kind} {has}")
    slot = slots[position]
    if not path and not slot.child:
        raise ValueError(
            f"se.position: the model is a {kind} itself, and nothing holds it that could hold a gate as well"
        )
    if target.residual:
        try:
            channels = checked_width(target.residual.block, target.residual.sites[position], target.residual.width)
        except ValueError as error:
            raise ValueError(
                f"{path or 'the model'} ({kind}) looks like a residual block, but {error}: name modules by where="
            ) from error
    else:
        gated = getattr(block, slot.child) if slot.child else block
        channels = channels_in(gated) if slot.side == "before" else channels_out(block, slots)
    return Place(".".join(filter(None, (path, slot.child))), slot.side, stage, channels, path)


def wrap(model: nn.Module, place: Place, design: SE, reduction: int, seed: int) -> tuple[Inserted, Gated]:
    """The gated replacement for the module at a place; changes nothing yet."""
    parent, _, child = place.path.rpartition(".")
    body = getattr(model.get_submodule(parent), child)
    if body is None:  # torchvision's shortcut without projection
        body = nn.Identity().train(model.get_submodule(parent).training)
    if sum(child is body for module in model.modules() for child in module._modules.values()) > 1:
        raise ValueError(f"{place.path} is in the model under another name, too, where it would be without its gate")
    weight = next(model.get_submodule(place.block).parameters(), next(model.parameters()))
    # On the CPU whatever the default device, so that the seed gives the same gates everywhere; and the generator that
    # building a layer draws from is put back, because the network's owner did not ask for it to move on.
    with torch.device("meta" if weight.is_meta else "cpu"), torch.random.fork_rng(devices=[]):
        own = torch.Generator("cpu").manual_seed(zlib.crc32(f"{seed} {place.block}".encode()))
        se = SEBlock(
            place.channels,
            reduction,
            design.squeeze,
            design.excitation,
            design.bias,
            design.identity_start,
            generator=own,
        )
    se.to(weight.device, weight.dtype)
    gated = (Gated if takes_one(body) else GatedCall)(body, se, place.side)
    return Inserted(place.path, place.side, place.stage, place.channels, se.hidden), gated
