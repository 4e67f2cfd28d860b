"""What a run takes part in Trainer's loop by: callbacks that call the trainer, and the record that its checkpoints keep."""

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState


if TYPE_CHECKING:
    from .scissorhands_trainer import ScissorhandsTrainer


class UnlearningRecord(TrainerCallback, ExportableState):
    """
    What is known of a run so far, kept by Trainer in the `trainer_state.json` of each checkpoint. It knows of no trainer, for
    Trainer makes it anew from a checkpoint with `restore_callback_states_from_checkpoint=True`.

    Attributes:
        trim: the trim report; None before the trim.
        settings: of the method, by which the run was last going on.
        notes: sentences on settings that were changed when the run was resumed.
        seconds: by stage.
        given_retain_loss, lowest_retain_loss, last_retain_loss: on some fixed examples, of the model as it was given, the
            lowest since the trim, and when it was last looked at, at `checked_step`; to tell a run that is being ruined.
        loss_floor: what is added to losses before they are compared.
        last_forget_loss: of the last step with a forget batch, over all processes.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget the last run."""
        self.trim: dict[str, Any] | None = None
        self.settings: dict[str, Any] = {}
        self.notes: list[str] = []
        self.seconds: dict[str, float] = {}
        self.given_retain_loss: float | None = None
        self.lowest_retain_loss: float | None = None
        self.last_retain_loss: float | None = None
        self.checked_step: int | None = None
        self.loss_floor = 0.0
        self.last_forget_loss: float | None = None

    def add_seconds(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def state(self) -> dict[str, Any]:
        """In the form that [`~transformers.trainer_callback.ExportableState`] asks for; JSON-ready."""
        return {"args": {}, "attributes": dict(vars(self))}


class RunHooks(TrainerCallback):
    """Calls the trainer at the moments that it has no hook of its own for."""

    def __init__(self, trainer: "ScissorhandsTrainer"):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.begin_repair()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.begin_epoch()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.begin_step()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.check_retain_loss()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.is_in_train:
            self.trainer.check_retain_loss()
