"""What repair minimises on the forget set beside L(D_r): formulas, each from its source. Torch only.

Notation: π is the model as it is trained, π* the original; log π(y|x) is the sum of the log-probabilities of the labelled
tokens of an example, |y| their number. n examples have m labelled tokens between them. All values are float32.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def npo(log_probs: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Negative preference optimisation (arXiv:2404.05868, equation 3): `−(2/β)·log σ(−β·(log π(y|x) − log π*(y|x)))`.

    Args:
        log_probs, reference (`Tensor`):
            log π(y|x) and log π*(y|x), shape (n,).
        beta (`float`):
            β > 0; towards 0 it becomes gradient ascent.

    Returns:
        Of each example, shape (n,), ≥ 0.
    """
    return (2 / beta) * F.softplus(beta * (log_probs - reference))


def simnpo(log_probs: Tensor, lengths: Tensor, beta: float, gamma: float) -> Tensor:
    """NPO without a reference (arXiv:2410.07163, equation 4): `−(2/β)·log σ(−(β/|y|)·log π(y|x) − γ)`.

    Args:
        log_probs, lengths (`Tensor`):
            log π(y|x) and |y| ≥ 1, shape (n,).
        beta, gamma (`float`):
            β > 0 and the margin γ ≥ 0.

    Returns:
        Of each example, shape (n,), ≥ 0.
    """
    return (2 / beta) * F.softplus(beta * log_probs / lengths + gamma)


def dpo(wanted: Tensor, wanted_reference: Tensor, forgotten: Tensor, forgotten_reference: Tensor, beta: float) -> Tensor:
    """Direct preference optimisation (arXiv:2305.18290, equation 7) of another answer y' over the one to forget:
    `−log σ(β·(log π(y'|x) − log π*(y'|x)) − β·(log π(y|x) − log π*(y|x)))`.

    Args:
        wanted, wanted_reference, forgotten, forgotten_reference (`Tensor`):
            The four log-probabilities in this order, shape (n,).
        beta (`float`):
            β > 0.

    Returns:
        Of each example, shape (n,), ≥ 0.
    """
    return F.softplus(-beta * ((wanted - wanted_reference) - (forgotten - forgotten_reference)))


def bounded_ascent(losses: Tensor, lengths: Tensor, ceiling: float) -> Tensor:
    """Ascent (arXiv:2401.06187, section 3.2) that each example leaves where its mean loss exceeds a ceiling:
    `−Σ_i |y_i|·min(L_i, ceiling) / Σ_i |y_i|`. Below the ceiling it is −L(D_f), the mean over all tokens.

    Args:
        losses, lengths (`Tensor`):
            L_i, the mean loss over the labelled tokens of example i, and their number ≥ 1, shape (n,).
        ceiling (`float`):
            In nats per token.

    Returns:
        One value.
    """
    return -(lengths * losses.clamp(max=ceiling)).sum() / lengths.sum()


def rmu(hidden: Tensor, direction: Tensor, coefficient: float) -> Tensor:
    """Representation misdirection (arXiv:2403.03218, section 4): `‖h − c·u‖² / d`. The mean over features is that of its
    published code.

    Args:
        hidden (`Tensor`):
            h, activations of one layer at m positions, shape (m, d).
        direction (`Tensor`):
            u, a fixed random unit vector, shape (d,).
        coefficient (`float`):
            c > 0.

    Returns:
        Of each position, shape (m,), ≥ 0.
    """
    return (hidden.float() - coefficient * direction).square().mean(-1)


def suppressed(teacher: Tensor, place: Tensor, strength: float) -> Tensor:
    """The target of UNDIAL (arXiv:2402.10052, section 3): the original's distribution with β taken off the label's logit.

    Args:
        teacher (`Tensor`):
            Log-probabilities by the original, over the vocabulary or over [`lumped`] entries, shape (m, k).
        place (`Tensor`):
            Column of the label in each row, int64, shape (m,).
        strength (`float`):
            β > 0.

    Returns:
        Log-probabilities, shape (m, k).
    """
    taken = torch.zeros_like(teacher).scatter_(1, place.unsqueeze(1), strength)
    return torch.log_softmax(teacher - taken, dim=1)


def lumped(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of some entries of the vocabulary, and of all others together as the last.

    Args:
        logits (`Tensor`):
            Shape (m, V), any floating dtype. One float32 copy is made of it.
        ids (`Tensor`):
            Which entries, int64, shape (m, k), all different in a row, k < V.

    Returns:
        Shape (m, k + 1); their exponentials add up to 1 in each row.
    """
    logits = logits.float()
    chosen = logits.gather(1, ids)
    rest = logits.scatter(1, ids, float("-inf")).logsumexp(1, keepdim=True)
    entries = torch.cat([chosen, rest], dim=1)
    return entries - entries.logsumexp(1, keepdim=True)


def distillation(teacher: Tensor, student: Tensor) -> Tensor:
    """Cross-entropy of a teacher's distribution: `−Σ_j exp(t_j)·s_j`, whose gradient is that of KL(teacher ‖ student). Less by
    the teacher's own entropy it is that divergence: of lumped entries, at most that of the whole vocabularies.

    Args:
        teacher, student (`Tensor`):
            Log-probabilities of the same entries, shape (m, k).

    Returns:
        Of each position, shape (m,).
    """
    return -(teacher.exp() * student).sum(1)


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """`KL(teacher ‖ student)`, see [`distillation`], shape (m,), ≥ 0."""
    return distillation(teacher, student) - distillation(teacher, teacher)
