"""What the denoiser is to predict on noisy pictures of a concept: formulas, each from its source. Torch only.

Notation: `f` is the denoiser as it is trained, `f*` the frozen original, `x_t` a noisy picture, `c` its prompt, `∅` the empty
prompt. All predictions have the shape of the latents and the meaning of the model's own prediction type: guidance is
a linear combination, which noise, velocity and flow predictions alike survive.
"""

import torch
from torch import Tensor


OBJECTIVES = ("ascent", "redirect", "negative_guidance", "closed_form", "removal")
RETAIN_OBJECTIVES = ("distillation", "data")


def guided(conditional: Tensor, unconditional: Tensor, scale: float | Tensor) -> Tensor:
    """Classifier-free guidance (arXiv:2207.12598, section 3): `f(x_t, ∅) + s·(f(x_t, c) − f(x_t, ∅))`.

    Args:
        conditional, unconditional (`Tensor`):
            Predictions, (n, *latent shape), any floating dtype.
        scale (`float` or `Tensor`):
            s, one for all or one for each, (n,); 1 is the conditional prediction itself.
    """
    if isinstance(scale, Tensor):
        scale = scale.to(conditional).view(-1, *[1] * (conditional.ndim - 1))
    return unconditional + scale * (conditional - unconditional)


def negative_guidance(conditional: Tensor, unconditional: Tensor, strength: float | Tensor) -> Tensor:
    """The target of ESD (arXiv:2303.07345, section 4): `f*(x_t, ∅) − η·(f*(x_t, c) − f*(x_t, ∅))`.

    Args:
        conditional, unconditional (`Tensor`):
            Predictions of the frozen original, (n, *latent shape).
        strength (`float` or `Tensor`):
            η ≥ 0, one for all or one for each, (n,); 0 is the unconditional prediction.
    """
    return guided(conditional, unconditional, -strength)


def without_concept(conditional: Tensor, unconditional: Tensor, odds: Tensor | float) -> Tensor:
    """What a model of the data without the concept predicts for any of its noisy pictures:
    `(f*(x_t, ∅) − γ·f*(x_t, c)) / (1 − γ)` with `γ = p(c | x_t)`.

    By Bayes' rule the density of noisy pictures is `p(x_t) = p(c)·p(x_t | c) + (1 − p(c))·p(x_t | ¬c)`; the gradient of its
    logarithm mixes those of the two parts with the weights γ and 1 − γ, and predictions are linear in it. That is negative
    guidance with a strength η = γ / (1 − γ) of each noisy picture's own.

    Args:
        conditional, unconditional (`Tensor`):
            Predictions of the frozen original, (n, *latent shape).
        odds (`Tensor` or `float`):
            η of each, (n,), see [`capped_odds`], or one for all.
    """
    return negative_guidance(conditional, unconditional, odds)


def taken_for_others(
    conditional: Tensor, unconditional: Tensor, others: Tensor, posterior: Tensor, strength: float = 1.0
) -> Tensor:
    """The original's prediction with the concept's part in it given to what is like it:
    `f*(x_t, ∅) + s·γ·(mean_n f*(x_t, n) − f*(x_t, c))`, with `n` what is nearest the concept and `γ = p(c | x_t)`.

    By Bayes' rule (see [`without_concept`]) `f*(x_t, ∅) = γ·f*(x_t, c) + (1 − γ)·f*(x_t, ¬c)`. Where a noisy picture can show
    nothing but the concept, `without_concept` divides nothing by nothing, for of the rest the original has no say; here it
    has what it says under the words of the rest's nearest parts. Where the picture may show anything γ is small, and so is the
    difference between the two.

    Args:
        conditional, unconditional (`Tensor`):
            Predictions of the frozen original, (n, *latent shape).
        others (`Tensor`):
            The mean of those under the words of what is nearest, of that shape.
        posterior (`Tensor`):
            γ of each, (n,), in [0, 1].
        strength (`float`, *optional*, defaults to 1):
            s ≥ 0: more than 1 leads beyond the others, away from the concept.
    """
    posterior = strength * posterior.to(conditional).view(-1, *[1] * (conditional.ndim - 1))
    return unconditional + posterior * (others - conditional)


def capped_odds(log_posterior: Tensor, most: float) -> Tensor:
    """`η = γ / (1 − γ)`, at most `most`, from log γ ≤ 0.

    Where a noisy picture can show nothing but the concept the odds grow without bound: there the original says nothing of the
    rest of the data that could be asked of it.
    """
    # 1 − γ without the loss of digits near γ = 1; of γ = 1 (where it would be −0) infinity, which the cap ends.
    return (log_posterior.exp() / torch.expm1(log_posterior).abs()).clamp(max=most)
