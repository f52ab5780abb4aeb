"""Puts gates into a finished plain network by wrapping children of its residual blocks (paper, sections 3.3 and 6.5).

Wrapping is what makes a study fair: every row starts from the same network with the same initial weights, and only the
gates are new. Deleting `.body` from the keys of a state dict gives the plain network's keys, and with its gates at 1
the network computes the plain one's outputs and gradients bit for bit. There are no hooks: copies and exports keep SE.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from senet_lab.config import SE, reduction_number
from senet_lab.models.existing_se import se_modules
from senet_lab.models.gate_proof import attribute, called_with_input_alone, check_not_written_out
from senet_lab.models.gated import Inserted, Planned, put
from senet_lab.models.gates import check_known
from senet_lab.models.kinds import check, hidden_width, made
from senet_lab.models.seeding import seeded
from senet_lab.models.slots import DEPTHWISE, POSITIONS, Target, check_stages, targets_of

WRAPPERS = {"DataParallel": "module", "OptimizedModule": "_orig_mod"}  # class → where it keeps the network, unchanged
STANDARD = SE()  # the paper's block, where nothing else is asked for


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
        ValueError: if the model has SE already, by name or by what it computes (`existing_se.py`), has no block that SE
            can go into or no module that `where` names, or lacks a stage; if a gate would change anything but what it
            should, or is not run once when the network runs (`gate_proof.py`); for unknown words, and networks that
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
        plan = plan_gates(model, se, fields, where, seed)
    except ValueError:
        check_not_written_out(model)
        raise
    return put(model, plan, called_with_input_alone(model, plan) if plan else ())


def put_se(model: nn.Module, se: SE | Mapping[str, Any] | None, *, seed: int = 0) -> list[Inserted]:
    """As `add_se`, for a network of our own, which is not run: tests prove that its gates are where they should be."""
    if se is None:
        return []
    check_changeable(model)
    plan = plan_gates(model, se, {}, None, seed)
    return put(model, plan, [gate.name for gate, _ in plan])


def plan_gates(
    model: nn.Module,
    se: SE | Mapping[str, Any] | None,
    fields: Mapping[str, Any],
    where: str | Sequence[str] | None,
    seed: int,
) -> list[Planned]:
    """What will be put where; all is made before the first is in place, so that mistakes leave the model as it was."""
    design = as_design(se, fields)
    check(design)
    check_known("se.position", design.position, [*POSITIONS, DEPTHWISE])
    targets = targets_of(model, where, design.position)
    ratios = ratios_of(design, targets)
    return [gate_of(model, target, design, ratios[target.path], seed) for target in targets if target.path in ratios]


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
    present = [f"{path or 'the model'} is a {type(module).__name__}" for path, module in se_modules(model).items()]
    if present:
        more = f", …: {len(present)} in all" if len(present) > 2 else ""
        raise ValueError(f"the model has SE already: {', '.join(present[:2])}{more}")


def ratios_of(design: SE, targets: Sequence[Target]) -> dict[str, int]:
    """Path → reduction, of those that get a gate.

    Raises:
        ValueError: for stages that the network lacks or does not tell, and as `SE.by_stage`.
    """
    without_stage = [target.path for target in targets if target.stage is None]
    if without_stage and design.stages in ("all", [], ()) and not isinstance(design.reduction, Mapping):
        reduction = reduction_number(design.reduction)
        return {target.path: reduction for target in targets} if design.stages else {}
    if without_stage:
        raise ValueError(
            f"se.{'reduction' if design.stages == 'all' else 'stages'}: nothing tells the stage of "
            f"{without_stage[0] or 'the model'}; call the stages layer1, layer2, …, or name them in an attribute "
            "stage_roots of the network, or take one reduction for all"
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
    values = {**(vars(se) if isinstance(se, SE) else se), **fields}
    for name in values:
        check_known("se", name, [field.name for field in dataclasses.fields(SE)])
    return SE(**values)


def stages_of(model: nn.Module, position: str = STANDARD.position) -> tuple[int, ...]:
    """The stages of a plain network that gates at a position can go into, in the paper's numbering; errors as of
    `targets_of`, and for what is in no stage."""
    check_changeable(model)
    targets = targets_of(model, position=position)
    check_stages(model, targets)
    return tuple(sorted({target.stage for target in targets if target.stage is not None}))


def gate_of(model: nn.Module, target: Target, design: SE, reduction: int, seed: int) -> Planned:
    """The gate of a target, and where it goes; changes nothing yet.

    Raises:
        ValueError: if it has no place for the design's position, or not surely.
    """
    if design.position not in target.slots:
        called, has = target.called
        raise ValueError(f"se.position: {called} has no place for {design.position}; it has {has}")
    slot = target.slots[design.position]
    path = ".".join(filter(None, (target.path, slot.child)))
    if not path:
        kind = type(model).__name__
        raise ValueError(
            f"se.position: the model is a {kind} itself, and nothing holds it that could hold a gate as well"
        )
    body = attribute(model, path)
    channels = target.width(design.position)
    if body is not None and sum(child is body for module in model.modules() for child in module._modules.values()) > 1:
        raise ValueError(f"{path} is in the model under another name, too, where it would be without its gate")
    weight = next(model.get_submodule(target.path).parameters(), next(model.parameters()))
    # On the CPU whatever the default device, so that the seed gives the same gates everywhere; and all generators are
    # put back, because the network's owner did not ask for them to move on.
    own = zlib.crc32(f"{seed} {target.path}".encode())
    with torch.device("meta" if weight.is_meta else "cpu"), seeded(own):
        se = made(design, channels, reduction, torch.Generator("cpu").manual_seed(own))
    se.to(weight.device, weight.dtype)
    args = f" {dict(design.args)}" if design.args else ""
    kind, hidden = f"{design.kind}{args}", hidden_width(design.kind, channels, reduction)
    return Inserted(path, slot.side, target.stage, channels, hidden, kind), se
