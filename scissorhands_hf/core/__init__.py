"""The Scissorhands algorithm (Wu & Harandi, ECCV 2024, arXiv:2401.06187) on plain tensors and modules.

This room imports torch only and knows nothing of trainers, pipelines or Hubs. Its files follow the paper's order:

1. :mod:`.sensitivity` - connection sensitivity of every weight on the forget set (paper section 3.1);
2. :mod:`.threshold` - the exact value that the top share of sensitivities exceeds;
3. :mod:`.trim` - re-initialise the weights above it, in place, from their own initial distribution;
4. :mod:`.memory` - gradient memories of the forget loss and the projection of the repair gradient (section 3.2);
   :mod:`.projection` - filling the memories, and projecting the gradients of a model in training.

Beside it, for layers that read text alone: :mod:`.closed_form` - other answers for a concept, the old ones for the rest. And
:mod:`.modes` - the modes of dropout and batch norm in which gradients of the forget set are measured.
"""

from .closed_form import ClosedFormEdit
from .memory import GradientMemory, Projection, nonnegative_coefficients
from .projection import project_gradients, relearned_weights, renew_memories
from .sensitivity import connection_sensitivity, stream_gradients
from .threshold import exact_threshold
from .trim import NoInitialDistributionError, trim_model, trim_weights


__all__ = [
    "ClosedFormEdit",
    "GradientMemory",
    "NoInitialDistributionError",
    "Projection",
    "connection_sensitivity",
    "exact_threshold",
    "nonnegative_coefficients",
    "project_gradients",
    "relearned_weights",
    "renew_memories",
    "stream_gradients",
    "trim_model",
    "trim_weights",
]
