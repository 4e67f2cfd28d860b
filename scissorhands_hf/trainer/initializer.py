"""How the modules of a model of transformers get their first weights."""

from collections.abc import Callable

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


def initializer_of(model: nn.Module) -> Callable[[nn.Module], None]:
    """How the modules of `model` get their first weights: the `_init_weights` of the nearest `PreTrainedModel` around each.

    Modules outside any `PreTrainedModel` are left to their own `reset_parameters`, but transformers' `Conv1D`, which has none,
    is drawn as its constructor does.
    """
    keeper: dict[nn.Module, PreTrainedModel] = {}
    for module in model.modules():  # parents come before their children, so the nearest one is written last
        if isinstance(module, PreTrainedModel):
            keeper.update(dict.fromkeys(module.modules(), module))

    def initialize(module: nn.Module) -> None:
        if module in keeper:
            # Private by name (as of transformers 5.23), but the hook that every model of transformers fills in and that its
            # guide to new models asks for; the public `init_weights` would draw all weights of the model.
            keeper[module]._init_weights(module)
        elif isinstance(module, Conv1D):
            nn.init.normal_(module.weight, std=0.02)

    return initialize
