"""The names of weights: ours, timm's (torchvision's, too) and the released models'."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Beginnings of our keys → of the released models' keys, which number the stem's layers from 1.
LEGACY_STEM = {"conv1.": "layer0.conv1.", "bn1.": "layer0.bn1."}
LEGACY_DEEP_STEM = {
    "conv1.0.": "layer0.conv1.",
    "conv1.1.": "layer0.bn1.",
    "conv1.3.": "layer0.conv2.",
    "conv1.4.": "layer0.bn2.",
    "conv1.6.": "layer0.conv3.",
    "bn1.": "layer0.bn3.",
}


def key_mapping(keys: Iterable[str]) -> list[dict[str, str]]:
    """Our keys → ours, timm's (torchvision's, too) and the released models'.

    Only gates at the standard position have a name of timm's; others keep ours, which no file of timm's has.
    """
    ours = list(keys)
    stem = LEGACY_DEEP_STEM if "conv1.0.weight" in ours else LEGACY_STEM
    timms = {key: re.sub(r"\.bn[23]\.se\.", ".se.", re.sub(r"\.(bn[23])\.body\.", r".\1.", key)) for key in ours}
    released = {}
    for key, name in timms.items():
        name = name.replace(".se.", ".se_module.")
        for beginning, theirs in {**stem, "fc.": "last_linear."}.items():
            if name.startswith(beginning):
                name = theirs + name.removeprefix(beginning)
                break
        released[key] = name
    return [{key: key for key in ours}, timms, released]
