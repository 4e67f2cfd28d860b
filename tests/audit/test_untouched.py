"""Each block that leaves no trace, by itself, when it ends well and when it ends in an error."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

from scissorhands_hf.audit.untouched import attributes_kept, random_states_kept, undisturbed


PIPELINE = Path(__file__).resolve().parents[2] / "spaces_demo" / "fashion_pipeline"


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(1))]


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.fixture(params=[False, True], ids=["well", "in an error"])
def ends(request):
    """Runs a block inside a context that ends in one of both ways."""

    def run(context, block):
        if not request.param:
            with context:
                return block()
        with pytest.raises(RuntimeError, match="enough"), context:
            block()
            raise RuntimeError("enough")

    return run


def test_random_generators_go_on_as_if_nothing_had_been_drawn(ends):
    seed_all(3)
    expected = draws()
    seed_all(3)
    ends(random_states_kept([torch.device("cpu")]), lambda: (draws(), seed_all(9)))
    assert draws() == expected


def test_attributes_are_the_same_objects_again(ends):
    class Thing:
        kind = "class"

    thing, held = Thing(), [1]
    thing.kept, thing.gone = held, 2

    def change():
        thing.kept, thing.added, thing.kind = [2], 3, "own"
        del thing.gone

    ends(attributes_kept(thing), change)
    assert vars(thing) == {"kept": [1], "gone": 2} and thing.kept is held and thing.kind == "class"


def test_a_wrapped_forward_of_a_module_goes_and_its_parameters_stay(ends):
    module = nn.Linear(2, 2)
    weight = module.weight

    def wrap():
        module.forward = lambda inputs: inputs
        module.extra = nn.Linear(1, 1)  # lies in _modules, which a module's own attributes hold

    ends(attributes_kept(module), wrap)
    assert "forward" not in vars(module) and module.weight is weight
    assert module(torch.zeros(1, 2)).shape == (1, 2)


@pytest.fixture(scope="module")
def pipe():
    return DiffusionPipeline.from_pretrained(PIPELINE)


def test_a_pipeline_draws_undisturbed(pipe, ends):
    class Checker(nn.Module):
        pass

    pipe.safety_checker = checker = Checker()
    pipe.set_progress_bar_config(desc="mine")
    pipe.unet.train()
    pipe.unet.mid_block.eval()
    pipe.scheduler.set_timesteps(7)
    scheduler, config, modes = pipe.scheduler, dict(pipe.config), [m.training for m in pipe.unet.modules()]
    attributes = dict(vars(pipe))
    seed_all(5)
    expected = draws()
    seed_all(5)

    def block():
        assert not any(module.training for module in pipe.unet.modules()) and pipe.safety_checker is None
        assert pipe.scheduler is not scheduler
        pipe.scheduler.set_timesteps(3)
        pipe.anything = 1
        return draws()

    ends(undisturbed(pipe), block)
    assert draws() == expected
    assert vars(pipe).keys() == attributes.keys() and all(vars(pipe)[name] is value for name, value in attributes.items())
    assert pipe.safety_checker is checker and dict(pipe.config) == config
    assert len(scheduler.timesteps) == 7 and [m.training for m in pipe.unet.modules()] == modes
    del pipe.safety_checker
    pipe.unet.eval()


def test_the_global_generators_start_from_the_seed_inside(pipe):
    seen = []
    for state in (1, 2):
        torch.manual_seed(state)
        with undisturbed(pipe, seed=4):
            seen.append(torch.rand(2).tolist())
    assert seen[0] == seen[1]
