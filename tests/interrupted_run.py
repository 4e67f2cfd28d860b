"""A run that is interrupted on purpose; test_interruption.py starts it in a process of its own."""

import argparse
import hashlib
import json
import os
import resource
import signal
from typing import Any

from tiny_data import examples
from tiny_models import bert_with_dropout
from transformers import TrainerCallback

from scissorhands_hf import ScissorhandsConfig, ScissorhandsTrainer


class Interrupt(TrainerCallback):
    """Interrupts at the fifth step: between steps, or in the save of step 6."""

    def __init__(self, how: str):
        self.how = how

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step != 5:
            return
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.how == "disk-full":  # no file may grow beyond 100 kB from now on: weights no longer fit
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


class KilledInSave(ScissorhandsTrainer):
    def save_model(self, *args: Any, **kwargs: Any) -> None:
        super().save_model(*args, **kwargs)
        if self.state.global_step == 6:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", required=True)
    parser.add_argument("--how", required=True)
    options = parser.parse_args()
    model, batch = bert_with_dropout()
    args = ScissorhandsConfig(
        output_dir=options.output,
        num_train_epochs=2,
        per_device_train_batch_size=4,
        per_device_forget_batch_size=2,
        learning_rate=1e-3,
        save_steps=2,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
    )
    kind = KilledInSave if options.how == "kill-in-save" else ScissorhandsTrainer
    trainer = kind(
        model=model,
        args=args,
        train_dataset=examples(batch, 22, 1),
        forget_dataset=examples(batch, 7, 2),
        callbacks=[Interrupt(options.how)],
    )
    trainer.train(resume_from_checkpoint=options.how == "resume")
    digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())).hexdigest()
    print(json.dumps({"steps": trainer.state.global_step, "weights": digest}))


if __name__ == "__main__":
    main()
