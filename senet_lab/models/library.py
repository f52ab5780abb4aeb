"""Networks of timm and torchvision by name: `timm:mobilenetv2_050`, `torchvision:regnet_y_400mf`.

A network comes as its library builds it, without weights, and is then a plain one as any other here: SE that it was
built with is taken out, so that `se=null` is the network without it, and its stages are numbered by resolution. Gates
go where `slots.py` finds a place.
"""

from __future__ import annotations

import difflib
import inspect
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torchvision.models
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from senet_lab.config import first_line
from senet_lab.models.copies import WithoutValues, dtype_of, shadow_of
from senet_lab.models.existing_se import se_modules
from senet_lab.models.gate_proof import check_not_written_out
from senet_lab.models.library_blocks import WITHOUT_BLOCKS, relu_places
from senet_lab.models.slots import class_path, targets_of
from senet_lab.models.stages import declare_stages
from senet_lab.models.structure import is_inside

LIBRARIES = ("timm", "torchvision")
PIXELS = 224  # of images whose way through a network tells its stages, where its library names no other size


def library_of(backbone: str) -> str:
    """`timm` or `torchvision` for the name of a network of theirs; empty for others."""
    library = backbone.partition(":")[0]
    return library if ":" in backbone and library in LIBRARIES else ""


def is_users_code(backbone: str) -> bool:
    """Whether a network is `package.module:function`, which is imported to build it."""
    return ":" in backbone and not library_of(backbone)


def network_names(library: str) -> list[str]:
    """Every network that classifies images."""
    if library == "torchvision":
        return list(torchvision.models.list_models(module=torchvision.models))
    import timm

    names: list[str] = timm.list_models()
    return names


def check_name(key: str, library: str, name: str, names: Sequence[str]) -> None:
    """A ValueError for a name that a library does not have, with those that are like it."""
    if name not in names:
        near = difflib.get_close_matches(name, names, n=4, cutoff=0.5)
        hint = f"near are {', '.join(near)}" if near else f"it has {len(names)} others, such as {names[0]}"
        raise ValueError(f"{key}: {library} has no network '{name}'; {hint}")


def build_library(backbone: str, num_classes: int, in_channels: int = 3) -> nn.Module:
    """The plain network of that name.

    Raises:
        ValueError: for a name that the library does not have, and for a network whose attention cannot be taken out.
    """
    library, _, name = backbone.partition(":")
    check_name("backbone", library, name, network_names(library))
    try:
        net = made(library, name, num_classes, in_channels)
    except NotImplementedError:  # it computes its widths with tensors, which have no values on the meta device
        with torch.device("cpu"):
            net = made(library, name, num_classes, in_channels)
        net = net.to("meta")
    take_out_se(net, backbone)
    number_stages(net)
    return net


def made(library: str, name: str, num_classes: int, in_channels: int) -> nn.Module:
    """The network as its library builds it."""
    if library == "timm":
        import timm

        return timm.create_model(name, num_classes=num_classes, in_chans=in_channels)
    builder = torchvision.models.get_model_builder(name)
    words: dict[str, Any] = {"weights": None, "num_classes": num_classes}
    if name in ("googlenet", "inception_v3"):  # their auxiliary classifiers answer in training
        words |= {"aux_logits": False, "init_weights": True}
    net: nn.Module = builder(**words)
    if in_channels != 3:
        replace_first(net, in_channels)
    return net


def replace_first(net: nn.Module, in_channels: int) -> None:
    """Replace the first convolution by one that takes images of other channels."""
    path, conv = next((path, each) for path, each in net.named_modules() if isinstance(each, nn.Conv2d))
    words = {name: getattr(conv, name) for name in inspect.signature(nn.Conv2d).parameters if name in vars(conv)}
    holder, _, child = path.rpartition(".")
    words |= {"in_channels": in_channels, "bias": conv.bias is not None}
    setattr(net.get_submodule(holder), child, nn.Conv2d(**words))


# ---------------------------------------------------------------------------------------------------------------------
# SE that a network is built with


def take_out_se(net: nn.Module, backbone: str) -> None:
    """Take out the gates that a library has built into a network.

    Raises:
        ValueError: if it does not run without them, or has some that are no module of their own.
    """
    gates = se_modules(net)
    vars(net).update(taken_out=[f"{path}.{key}" for path, gate in gates.items() for key in gate.state_dict()])
    replace_modules(net, list(gates), None)  # what blocks have that ask whether there is one
    fault = image_fault(net) if gates else ""
    if fault:
        replace_modules(net, list(gates), nn.Identity)
        fault = image_fault(net)
    if fault:
        raise ValueError(f"backbone: {backbone} does not run without the gates that it is built with: {fault}")
    try:
        check_not_written_out(net)
    except ValueError as error:
        reason = str(error).removeprefix("the model has SE already: ")
        raise ValueError(f"backbone: the attention of {backbone} cannot be taken out: {reason}") from error


def taken_out(net: nn.Module) -> Sequence[str]:
    """The keys that the weights of its library have for SE that was taken out of a network; none of other networks."""
    keys: Sequence[str] = vars(net).get("taken_out", ())
    return keys


def replace_modules(net: nn.Module, paths: Sequence[str], kind: type[nn.Module] | None) -> None:
    for path in paths:
        holder, _, child = path.rpartition(".")
        setattr(net.get_submodule(holder), child, kind() if kind else None)


def image_fault(net: nn.Module) -> str:
    """Why a network does not take an image; empty if it does."""
    try:
        output_stages(net)
    except Exception as error:  # whatever a network raises
        return first_line(error)
    return ""


# ---------------------------------------------------------------------------------------------------------------------
# Stages


def number_stages(net: nn.Module) -> None:
    """Number the stages of a network by resolution: stage s has maps 2^s times smaller than the image.

    A block belongs to the stage of its output, and so does what stands between blocks. What ends before the first block
    (the stem) or after the last one (the head) is in no stage.
    """
    features = net.features if class_path(type(net)) in WITHOUT_BLOCKS else None
    places = relu_places(features, "features") if isinstance(features, nn.Sequential) else {}
    blocks = list(places) or block_paths(net)
    stages = output_stages(net)
    ends = {path: number for number, path in enumerate(stages)}
    reached = [ends[path] for path in blocks if path in ends] or [0]
    roots: dict[int, list[str]] = {}

    def add(path: str, module: nn.Module) -> None:
        if path not in blocks and any(is_inside(block, path) for block in blocks):
            for name, child in module.named_children():
                add(f"{path}.{name}".lstrip("."), child)
        elif path in stages and min(reached) <= ends[path] <= max(reached):
            roots.setdefault(stages[path], []).append(path)

    add("", net)
    vars(net).update(stage_roots=roots)
    if places:
        declare_stages(net, roots, places)


def block_paths(net: nn.Module) -> list[str]:
    """The paths of what has a gate at the standard position; of all convolutions, if the network has no such place."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of what gets no gate: it comes when gates are put in
            return [target.path for target in targets_of(net)]
    except ValueError:
        return [path for path, module in net.named_modules() if isinstance(module, nn.Conv2d)]


def output_stages(net: nn.Module) -> dict[str, int]:
    """Path → stage of its output by resolution, of all modules that give maps, in the order in which they end."""
    shadow, stages = shadow_of(net).eval(), dict[str, int]()
    _, height, width = getattr(net, "default_cfg", {}).get("input_size", (3, PIXELS, PIXELS))  # timm's
    channels = next(module.in_channels for module in net.modules() if isinstance(module, nn.Conv2d))
    for path, module in shadow.named_modules():

        def ends(module: nn.Module, given: Any, output: Any, path: str = path) -> None:
            maps = [each for each in tree_leaves(output) if isinstance(each, Tensor) and each.dim() == 4]
            if maps:
                stages.setdefault(path, round(math.log2(height / maps[0].shape[2])))

        module.register_forward_hook(ends)
    with WithoutValues(), torch.no_grad():  # type: ignore[no-untyped-call]
        shadow(torch.empty(1, channels, height, width, dtype=dtype_of(net), device="meta"))
    return stages
