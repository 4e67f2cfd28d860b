"""What erasing does to a denoiser for the time of a run, each part by itself."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from scissorhands_hf.erasure.guard import (
    device_kept,
    gradients_kept_off,
    in_float32,
    original_state,
    weights_back_after_failure,
)
from scissorhands_hf.erasure.offloading import only_denoiser_on_device


class Denoiser(nn.Module):
    """Two layers of different dtypes and modes, and a buffer of whole numbers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3, bias=False).to(torch.bfloat16)
        self.register_buffer("count", torch.tensor(4))
        self.second.eval()
        self.first.bias.requires_grad_(False)

    @property
    def device(self):
        return self.first.weight.device


@pytest.fixture
def denoiser():
    torch.manual_seed(0)
    return Denoiser()


def spoil(denoiser: Denoiser) -> None:
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.mul_(3).add_(0.1)
    denoiser.count += 1


def copied(denoiser: Denoiser) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in denoiser.state_dict().items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) and first[name].dtype == second[name].dtype for name in first)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_weights_come_back_exactly_after_a_failure_alone(denoiser, error):
    before, parameter = copied(denoiser), denoiser.first.weight
    with pytest.raises(error), weights_back_after_failure(denoiser):
        spoil(denoiser)
        raise error
    assert equal(before, copied(denoiser)) and denoiser.first.weight is parameter
    with weights_back_after_failure(denoiser):
        spoil(denoiser)
    assert not equal(before, copied(denoiser))


def test_gradients_are_gone_and_wanted_as_before(denoiser):
    with gradients_kept_off(denoiser):
        denoiser.requires_grad_(True)
        denoiser.first(torch.ones(3)).sum().backward()
        assert denoiser.first.bias.grad is not None
    assert all(parameter.grad is None for parameter in denoiser.parameters())
    assert denoiser.first.weight.requires_grad and not denoiser.first.bias.requires_grad


def test_a_module_that_was_moved_is_moved_back():
    moves = []
    module = SimpleNamespace(device="here", to=moves.append)
    with pytest.raises(RuntimeError), device_kept(module):
        module.device = "there"
        raise RuntimeError
    assert moves == ["here"]


def test_inside_weights_are_float32_and_afterwards_of_their_own_dtypes(denoiser):
    before = copied(denoiser)
    with in_float32(denoiser):
        assert {value.dtype for value in denoiser.parameters()} == {torch.float32} and denoiser.count.dtype == torch.int64
    assert equal(before, copied(denoiser))


def test_the_other_parts_wait_in_main_memory_while_the_denoiser_is_elsewhere(denoiser):
    class Part(nn.Module):
        """Lies on a device that this machine need not have."""

        def __init__(self, device):
            super().__init__()
            self.where = [torch.device(device)]

        @property
        def device(self):
            return self.where[-1]

        def to(self, device):
            self.where.append(torch.device(device))

    main, encoder, idle = Part("cuda:0"), Part("cuda:0"), Part("cpu")
    pipe = SimpleNamespace(components={"unet": main, "text_encoder": encoder, "vae": idle, "tokenizer": "no module"})
    with only_denoiser_on_device(pipe, main):
        assert encoder.device.type == "cpu"
    assert encoder.device.type == "cuda" and len(main.where) == len(idle.where) == 1
    with only_denoiser_on_device(pipe, idle):
        assert encoder.device.type == "cuda"  # a denoiser in main memory needs no room elsewhere


def test_all_of_it_together(denoiser):
    before, modes = copied(denoiser), [module.training for module in denoiser.modules()]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with original_state(denoiser):
        denoiser.eval()
        denoiser.forward = lambda inputs: inputs
        denoiser.first(torch.ones(3)).sum().backward()
        torch.manual_seed(8)
        spoil(denoiser)
    assert not equal(before, copied(denoiser)) and "forward" not in vars(denoiser)
    assert [module.training for module in denoiser.modules()] == modes and denoiser.first.weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)
