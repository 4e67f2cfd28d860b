"""One accumulated step on as many processes as the launcher starts, each with texts of other lengths; what it took off."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import tiny_models
import torch
from safetensors.torch import save_file
from tiny_data import padded_text

from scissorhands_hf import ScissorhandsConfig, ScissorhandsTrainer


def main(output: Path, **settings: Any) -> None:
    model, retain = tiny_models.tiny_llama()[0], padded_text(8, 1)
    before = copy.deepcopy(model)
    args = ScissorhandsConfig(
        output_dir=str(output), use_cpu=True, disable_tqdm=True, report_to="none", save_strategy="no", logging_steps=1,
        per_device_train_batch_size=2, per_device_forget_batch_size=2, gradient_accumulation_steps=2, max_steps=1,
        forget_schedule="once", trim_ratio=0, forget_weight=0.3,
        optim="sgd", learning_rate=0.1, lr_scheduler_type="constant", max_grad_norm=0.0, weight_decay=0.0, **settings,
    )  # fmt: skip
    trainer = ScissorhandsTrainer(model=model, args=args, train_dataset=retain, forget_dataset=retain.select(range(4)))
    trainer.train()
    pairs = zip(before.parameters(), model.parameters(), strict=True)
    step = torch.cat([((old - new) / 0.1).detach().flatten() for old, new in pairs])
    save_file({"step": step}, output / f"rank-{args.process_index}.safetensors")
    if trainer.is_world_process_zero():
        (output / "log.json").write_text(json.dumps([row for row in trainer.state.log_history if "retain_loss" in row]))
    if torch.distributed.is_initialized():  # as in distributed_run.py
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), **json.loads(sys.argv[2]))
