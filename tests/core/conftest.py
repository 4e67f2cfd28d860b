"""Fixtures of the algorithm's tests: every tiny model, in evaluation mode, in turn."""

from collections.abc import Callable

import pytest
import tiny_models
import torch
from torch import nn


BUILDERS = {
    "resnet": tiny_models.tiny_resnet,
    "vit": tiny_models.tiny_vit,
    "bert": tiny_models.tiny_bert,
    "llama": tiny_models.tiny_llama,
    "gpt2": tiny_models.tiny_gpt2,
    "cnn": tiny_models.tiny_cnn,
    "sequence": tiny_models.tiny_sequence,
}


@pytest.fixture(params=BUILDERS)
def build(request: pytest.FixtureRequest) -> Callable[..., tuple[nn.Module, tiny_models.Batch]]:
    """The builder of one tiny model; a test that takes it runs once for each model."""
    return BUILDERS[request.param]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(1234)
