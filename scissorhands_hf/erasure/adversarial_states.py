"""Text states that bring a concept back from the denoiser as it stands, found anew in the course of repair, and met by it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .noisy_examples import PromptTable


# Of one step, in units of the root mean square of what the denoiser is told.
STEP = 0.02


class AdversarialStates:
    """
    States of a prompt table that are no prompt's: an attacker's, who may write into the denoiser whatever no words say.

    Forgetting under a concept's words alone is undone by a learned token. As in adversarial training, AdvUnlearn
    (arXiv:2405.15234, section 4) and STEREO (arXiv:2408.16807, section 3) look for the attack in every round and repair against
    it. An attack goes on from where the last one ended ("warm start"), so few steps do.

    Args:
        table ([`PromptTable`]):
            Gets the states as new rows.
        start (`list[str]`):
            Prompts in the table that the states begin as, one for each.
    """

    def __init__(self, table: PromptTable, start: Sequence[str]):
        self.table = table
        self.rows = table.add([table.rows[text] for text in start])

    def renew(self, denoising_loss: Callable[[dict[str, Tensor], int], Tensor], steps: int) -> float:
        """Some steps of Adam on the states, towards drawing the concept.

        Args:
            denoising_loss (`Callable[[dict[str, Tensor], int], Tensor]`):
                From the conditioning of all states and the number of the step to the loss of the concept's pictures under them.
            steps (`int`):
                ≥ 1.

        Returns:
            The last loss.
        """
        states = {name: value.detach().clone() for name, value in self.table[self.rows].items()}
        # What is not of floating point says which tokens count, and stays.
        free = {name: value.requires_grad_() for name, value in states.items() if value.is_floating_point()}
        groups = [{"params": [value], "lr": STEP * max(_size(value), 1e-3)} for value in free.values()]
        optimizer = torch.optim.Adam(groups)
        loss = torch.zeros(())
        with torch.enable_grad():
            for step in range(steps):
                loss = denoising_loss(states, step)
                gradients = torch.autograd.grad(loss, list(free.values()), allow_unused=True)
                for value, gradient in zip(free.values(), gradients, strict=True):
                    value.grad = gradient
                optimizer.step()
        self.table.replace(self.rows, {name: value.detach() for name, value in states.items()})
        return loss.item()


def _size(states: Tensor) -> float:
    return states.detach().float().square().mean().sqrt().item()
