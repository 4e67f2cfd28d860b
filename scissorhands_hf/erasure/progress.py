"""How far an erasure is; what tells it is shared with the trainer's door."""

from ..trainer.run_progress import RunProgress


# Pictures for the report before anything is changed, pictures to learn from, prompts to edit text layers by, what is to be
# predicted on the pictures, the connection sensitivity with the trim, repair, and the report's pictures afterwards.
STAGES = ("before", "pictures", "prompts", "targets", "sensitivity", "repair", "report")

# What the callback of `erase_concept` is called with; its `stage` is one of `STAGES`.
ErasureProgress = RunProgress
