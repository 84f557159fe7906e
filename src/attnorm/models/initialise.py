"""Initial weights as the authors' trainers drew them, where timm's own networks start from others.

timm's ResNets and the AOGNets here start so by themselves. Its DenseNet draws convolutions over the fan-in and its
MobileNetV2 depthwise ones over the fan-out of one group, as their own papers' code does; the released networks did not.
"""

from timm.layers.squeeze_excite import SEModule
from timm.models.efficientnet import EfficientNet
from torch import nn

from attnorm.errors import ConfigError
from attnorm.layers.attentive import AttentiveNorm

_CLASSIFIER_STD = 0.01  # of MobileNetV2's


def initialise_as_released(model: nn.Module) -> nn.Module:
    """Draw all weights of a convolutional network anew, in place, from PyTorch's global random state.

    | part | distribution |
    |---|---|
    | convolution (out, in / groups, k, k) | N(0, 2 / (out * k * k)): He et al.'s over the fan-out, groups ignored |
    | BatchNorm | weight 1, bias 0 |
    | AN | the layers' own: N(1, 0.1^2), N(0, 0.1^2), projection N(0, 2 / K), attention norm 1 and 0 |
    | norm that is zero at the moment | stays zero: the last one of a ResNet's block, both weight and bias if AN |
    | classifier of MobileNetV2 | N(0, 0.01^2), bias 0 |
    | other linear layers, squeeze-and-excitation | PyTorch's default for linear layers |

    Running statistics start anew too.

    Args:
        model: A ResNet, DenseNet, MobileNetV2 or AOGNet, or any network of the parts in the table.

    Returns:
        The model.

    Raises:
        ConfigError: A parameter belongs to a part that the table does not have; nothing is changed then.
    """
    drawn = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.Linear, AttentiveNorm))
        for parameter in module.parameters(recurse=isinstance(module, AttentiveNorm))
    }
    others = [name for name, parameter in model.named_parameters() if id(parameter) not in drawn]
    if others:
        raise ConfigError(
            "the released initialisation is for networks of convolutions, BatchNorm, AN and linear layers; "
            f"{type(model).__name__} also has {others[0]} (one of {len(others)}): use init timm"
        )
    # Squeeze-and-excitation was made of linear layers there, of 1x1 convolutions in timm.
    linear = {id(part) for se in model.modules() if isinstance(se, SEModule) for part in se.modules()}
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and id(module) not in linear:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.BatchNorm2d, AttentiveNorm)):
            _reset_norm(module)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            module.reset_parameters()
    if isinstance(model, EfficientNet):  # the class that timm builds MobileNetV2 with
        classifier = model.get_classifier()
        if isinstance(classifier, nn.Linear):
            nn.init.normal_(classifier.weight, std=_CLASSIFIER_STD)
            nn.init.zeros_(classifier.bias)
    return model


def _reset_norm(norm: nn.BatchNorm2d | AttentiveNorm) -> None:
    starts_at_zero = not norm.weight.any()
    norm.reset_parameters()
    if starts_at_zero:
        nn.init.zeros_(norm.weight)
        nn.init.zeros_(norm.bias)
