"""The weights that timm and torchvision publish for their networks: by name, from their caches or the network.

Nothing in a file is executed, and nothing is fetched without consent.
"""

from __future__ import annotations

import difflib
import logging
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision.models
from torch import Tensor, nn

from senet_lab.config import first_line
from senet_lab.models.library import check_name, network_names
from senet_lab.models.state_dicts import state_dict_in

HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # what timm looks for in a repository, in this order
# Keys of torchvision's DenseNets, which are older than its rule that no name of a module has a dot.
DENSE = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


class NotHereError(ValueError):
    """Weights are not in their library's cache, and were not to be fetched."""


@dataclass(frozen=True)
class Published:
    """Weights of a library.

    Attributes:
        library: `timm` or `torchvision`.
        network: its name there.
        tag: which of the weights of this network.
    """

    library: str
    network: str
    tag: str

    def __str__(self) -> str:
        return f"{self.library}:{self.network}.{self.tag}".rstrip(".")


def published(library: str, name: str, key: str = "init") -> Published:
    """The weights of a name: timm's `resnet50.a1_in1k`, torchvision's `resnet50.IMAGENET1K_V2` or
    `ResNet50_Weights.IMAGENET1K_V2`; without a tag, those that the library takes by default.

    Raises:
        ValueError: there is no such network, or it has no such weights; the line begins with `key` and says what there
            is.
    """
    network, _, tag = name.partition(".")
    if library == "torchvision" and network.endswith("_Weights"):
        kinds = {torchvision.models.get_model_weights(each).__name__: each for each in network_names(library)}
        if network not in kinds:
            near = difflib.get_close_matches(network, kinds, n=3)
            raise ValueError(f"{key}: torchvision has no weights '{network}'; near are {', '.join(near) or 'none'}")
        network = kinds[network]
    check_name(key, library, network, network_names(library))
    tags = tags_of(library, network)
    if not tags:
        raise ValueError(f"{key}: {library} has no weights for {network}; give a file of them")
    if tag and tag not in tags:
        raise ValueError(f"{key}: {library}:{network} has no weights '{tag}'; there are {', '.join(tags)}")
    return Published(library, network, tag or tags[0])


def tags_of(library: str, network: str) -> list[str]:
    """What the weights of a network are called; the library's default comes first."""
    if library == "torchvision":
        kind = torchvision.models.get_model_weights(network)
        return sorted((each.name for each in kind), key=lambda name: (name != kind.DEFAULT.name, name))
    import timm

    names = [network, *timm.list_pretrained(f"{network}.*")]
    tags = [name.partition(".")[2] for name in names if timm.is_model_pretrained(name)]
    default = timm.get_pretrained_cfg(network)
    first = default.tag if default else ""
    return sorted({*tags} - {""} or {*tags}, key=lambda tag: (tag != first, tag))


def names_and_shapes(of: Published) -> dict[str, Tensor]:
    """The weights without their values, on the meta device: nothing is read or fetched."""

    def make() -> nn.Module:
        if of.library == "torchvision":
            classes = len(torchvision_weights(of).meta["categories"])
            net: nn.Module = torchvision.models.get_model(of.network, weights=None, num_classes=classes)
            return net
        import timm

        return timm.create_model(timm_name(of), pretrained=False)

    return {key: tensor.to("meta") for key, tensor in without_values(make).state_dict().items()}


def without_values(make: Callable[[], nn.Module]) -> nn.Module:
    """A network on the meta device, where it can be built there."""
    with warnings.catch_warnings(action="ignore"):  # torchvision's, of initialisations that it will change
        try:
            with torch.device("meta"):
                return make()
        except NotImplementedError:  # it computes its widths with tensors
            return make()


def read_published(of: Published, download: bool, key: str = "init") -> Mapping[str, Tensor]:
    """The weights, from the library's cache, or else fetched.

    Raises:
        NotHereError: they are not in its cache, and `download` is false.
        ValueError: they cannot be fetched, or their file is damaged or holds other things than weights.
    """
    file = cached(of)
    if file is None and not download:
        raise NotHereError(f"{key}: the weights of {of} are not in the cache of {of.library}")
    try:
        return torchvision_state(of) if of.library == "torchvision" else timm_state(of, file)
    except (pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{key}: the file of {of} in the cache is damaged, or holds more than weights") from error
    except Exception as error:  # what a network that cannot be reached makes of the libraries has no common class
        what = "read" if file else "fetched"
        raise ValueError(f"{key}: the weights of {of} cannot be {what}: {first_line(error)}") from error


def cached(of: Published) -> Path | None:
    """The file of the weights in the library's cache; None if it is not there."""
    if of.library == "torchvision":
        return in_cache_of_torch(torchvision_weights(of).url)
    import timm
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(timm_name(of))
    assert config is not None  # it has weights
    if not config.hf_hub_id:
        return in_cache_of_torch(str(config.url))
    repository, _, revision = config.hf_hub_id.partition("@")
    files = [config.hf_hub_filename] if config.hf_hub_filename else HUB_FILES
    found = (try_to_load_from_cache(repository, file, revision=revision or None) for file in files)
    return next((Path(file) for file in found if isinstance(file, str)), None)


def in_cache_of_torch(url: str) -> Path | None:
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    return file if file.is_file() else None


def timm_name(of: Published) -> str:
    return f"{of.network}.{of.tag}".rstrip(".")


def timm_state(of: Published, file: Path | None) -> Mapping[str, Tensor]:
    """timm's weights, as its network of that name has them: its files may have other keys."""
    import timm
    from huggingface_hub.utils import logging as hub_logging

    found = {"state_dict": dict(state_dict_in(file)[0])} if file else {}
    level = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)  # it would say twelve times that there is no network
    try:
        net = timm.create_model(timm_name(of), pretrained=True, pretrained_cfg_overlay=found)
    finally:
        hub_logging.set_verbosity(level)
    state: Mapping[str, Tensor] = net.state_dict()
    return state


def torchvision_weights(of: Published) -> Any:
    return torchvision.models.get_model_weights(of.network)[of.tag]


def torchvision_state(of: Published) -> Mapping[str, Tensor]:
    # Its hash is compared when a file is fetched, and not when it lies in the cache.
    state = torchvision_weights(of).get_state_dict(progress=False, check_hash=True, weights_only=True)
    return {DENSE.sub(r"\1\2", key): tensor for key, tensor in state.items()}
