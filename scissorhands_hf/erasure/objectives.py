"""What the denoiser is to predict on noisy pictures of a concept: formulas, each from its source. Torch only.

Notation: `f` is the denoiser as it is trained, `f*` the frozen original, `x_t` a noisy picture, `c` its prompt, `∅` the empty
prompt. All predictions have the shape of the latents and the meaning of the model's own prediction type: guidance is
a linear combination, which noise, velocity and flow predictions alike survive.
"""

from torch import Tensor


OBJECTIVES = ("ascent", "redirect", "negative_guidance", "closed_form")


def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (arXiv:2207.12598, section 3): `f(x_t, ∅) + s·(f(x_t, c) − f(x_t, ∅))`.

    Args:
        conditional, unconditional (`Tensor`):
            Predictions, (n, *latent shape), any floating dtype.
        scale (`float`):
            s; 1 is the conditional prediction itself.
    """
    return unconditional + scale * (conditional - unconditional)


def negative_guidance(conditional: Tensor, unconditional: Tensor, strength: float) -> Tensor:
    """The target of ESD (arXiv:2303.07345, section 4): `f*(x_t, ∅) − η·(f*(x_t, c) − f*(x_t, ∅))`.

    Args:
        conditional, unconditional (`Tensor`):
            Predictions of the frozen original, (n, *latent shape).
        strength (`float`):
            η ≥ 0; 0 is the unconditional prediction.
    """
    return guided(conditional, unconditional, -strength)
