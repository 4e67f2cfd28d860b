"""The Scissorhands algorithm (Wu & Harandi, ECCV 2024, arXiv:2401.06187) on plain tensors and modules.

This room imports torch only (and scipy, where several memories are kept) and knows nothing of trainers, pipelines or Hubs.
Weights are whole on every process, never shards. Its files follow the paper's order:

1. `sensitivity` - connection sensitivity of every weight on the forget set (paper section 3.1), or relative to the retain set;
2. `threshold` - the exact value that the top share of sensitivities exceeds;
3. `trim` - re-initialise the weights above it, in place, from their own initial distribution;
   `trim_model` does 1 to 3, and `undo` takes back what costs too much;
4. `memory` - gradient memories of the forget loss and the projection of the repair gradient (section 3.2);
   `projection` - filling the memories, and projecting the gradients of a model in training.

Beside it: `modes` - the modes of dropout and batch norm in which gradients of the forget set are measured; and, for
layers that read text alone, `closed_form` - other answers for a concept, the old ones for the rest.
"""

from .closed_form import ClosedFormEdit
from .memory import GradientMemory, Projection, nonnegative_coefficients
from .modes import evaluation_mode, unrecorded_batch_norm
from .projection import project_gradients, relearned_weights, renew_memories
from .sensitivity import connection_sensitivity, relative_sensitivity, stream_gradients
from .threshold import exact_threshold
from .trim import Cut, NoInitialDistributionError, TrimAccount, trim_model, trim_weights
from .undo import apply_cuts, cut_harm, fit_trim


__all__ = [
    "ClosedFormEdit",
    "Cut",
    "GradientMemory",
    "NoInitialDistributionError",
    "Projection",
    "TrimAccount",
    "apply_cuts",
    "connection_sensitivity",
    "cut_harm",
    "evaluation_mode",
    "exact_threshold",
    "fit_trim",
    "nonnegative_coefficients",
    "project_gradients",
    "relative_sensitivity",
    "relearned_weights",
    "renew_memories",
    "stream_gradients",
    "trim_model",
    "trim_weights",
    "unrecorded_batch_norm",
]
