"""Networks of HtFLlib's model groups that the zoo does not have otherwise; its code was read, and none of it is here.

HtFLlib's resnet4, resnet6, resnet8 and resnet10 are ResNet-18 with one block a stage, of which they keep 1 to 4 stages.
Its groups HtC put heads with a hidden layer on ResNet-34. Here this layer is the last of the body, since a head is one
linear layer, and it is followed by a ReLU, as there; the ReLU that HtFLlib puts behind the logits is left out.

torchvision is imported where it is used: that takes a second.
"""

from torch import nn

from fd_flower.models.body import Body, Shape, check_full_width, check_image
from fd_flower.models.vision import resnet34, without_head

STAGES = {"htfl_resnet4": 1, "htfl_resnet6": 2, "htfl_resnet8": 3, "htfl_resnet10": 4}
"""How many stages these networks have, of 64, 128, 256 and 512 channels."""
HIDDEN = {"resnet34_h512": 512, "resnet34_h256": 256, "resnet34_h128": 128}
"""Sizes of the hidden layer behind ResNet-34."""


def _of_stages(name: str, stages: int) -> Body:
    def body(shape: Shape, width: float) -> tuple[nn.Module, int]:
        """Return a residual network with one block a stage, and its number of features."""
        from torchvision.models.resnet import BasicBlock, ResNet

        check_image(name, shape)
        check_full_width(name, width)
        net, _ = without_head(ResNet(BasicBlock, [1, 1, 1, 1]), shape[0])
        for stage in range(stages + 1, 5):
            setattr(net, f"layer{stage}", nn.Identity())
        return net, 64 * 2 ** (stages - 1)

    return body


def _with_hidden(name: str, hidden: int) -> Body:
    def body(shape: Shape, width: float) -> tuple[nn.Module, int]:
        """Return ResNet-34 with a hidden layer, and its number of features."""
        check_image(name, shape)
        check_full_width(name, width)
        net, features = resnet34(shape, width)
        return nn.Sequential(net, nn.Linear(features, hidden), nn.ReLU(inplace=True)), hidden

    return body


BODIES: dict[str, Body] = {
    **{name: _of_stages(name, stages) for name, stages in STAGES.items()},
    **{name: _with_hidden(name, hidden) for name, hidden in HIDDEN.items()},
}
EIGHT = ("pfllib_cnn", "googlenet", "mobilenet_v2", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
GROUPS = {
    "htfe2": ("pfllib_cnn", "resnet18"),
    "htfe3": ("htfl_resnet10", "resnet18", "resnet34"),
    "htfe4": ("pfllib_cnn", "googlenet", "mobilenet_v2", "resnet18"),
    "htfe5": ("googlenet", "mobilenet_v2", "resnet18", "resnet34", "resnet50"),
    "htfe8": EIGHT,
    "htfe9": (*STAGES, "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    "htm10": (*EIGHT, "vit_b_16", "vit_b_32"),
    "htc4": ("resnet34", *HIDDEN),
}
"""HtFLlib's groups for images: HtFE-img-2 to -9, HtM-img-10 and Res34-HtC-img-4."""
