"""Object detection on our networks (paper, section 5.3 and table 7): torchvision's Faster R-CNN with a feature pyramid.

The paper trains Faster R-CNN in Detectron, with ResNet-50 and -101 and their SE twins pretrained on ImageNet. As there,
the norms are frozen, and so are the stem and the first stage; whether it used a pyramid is not said.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from senet_lab.models.weights import classifier_of, load_weights

LAYERS = ("layer1", "layer2", "layer3", "layer4")  # strides 4, 8, 16 and 32


def faster_rcnn(
    net: nn.Module,
    num_classes: int = 91,
    *,
    weights: Mapping[str, Any] | str | Path | None = None,
    trainable_layers: int = 3,
    frozen_norms: bool = True,
    **options: Any,
) -> FasterRCNN:
    """A detector with `net` as its backbone, whose modules are taken over, not copied.

    Args:
        net: a ResNet, ResNeXt or SENet-154 of ours, plain or with SE: `create("resnet50", se=…)`.
        num_classes: what boxes may show, the background included: 91 by the numbers of COCO's categories.
        weights: what `load_weights` takes, to begin with, whatever the number of classes; None keeps those of `net`.
        trainable_layers: how many stages are trained, from the last; of the others weights and gates stay as they are.
            5 trains the stem, too.
        frozen_norms: whether norms keep their statistics and affine weights, as detection's small batches need. That
            is for pretrained networks: with the statistics of a new one it would normalise nothing.
        options: of torchvision's `FasterRCNN`, such as `min_size` and `max_size` of the images.

    Raises:
        ValueError: for a network without the four stages layer1 to layer4, another number of layers, and as
            `load_weights`.
    """
    if not all(isinstance(getattr(net, name, None), nn.Sequential) for name in LAYERS):
        raise ValueError(f"backbone: the {type(net).__name__} has no stages {', '.join(LAYERS)} to detect with")
    if trainable_layers not in range(6):
        raise ValueError(f"trainable_layers: {trainable_layers!r} is not a whole number from 0 to 5")
    if weights is not None:
        load_weights(net, weights, classifier=False)
    features = classifier_of(net)[1].in_features
    trained = LAYERS[len(LAYERS) - trainable_layers :] if trainable_layers < 5 else ("",)
    for path, weight in net.named_parameters():
        weight.requires_grad_(path.startswith(trained))
    if frozen_norms:
        from timm.layers.norm_act import freeze_batch_norm_2d

        freeze_batch_norm_2d(net)  # type: ignore[no-untyped-call]
    backbone = BackboneWithFPN(
        net,
        return_layers={name: str(level) for level, name in enumerate(LAYERS)},
        in_channels_list=[features // 8, features // 4, features // 2, features],
        out_channels=256,
    )
    return FasterRCNN(backbone, num_classes, **options)
