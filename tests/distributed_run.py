"""A run on as many processes as the launcher starts; test_distributed.py compares what they end with."""

import argparse
import hashlib
import json
from pathlib import Path

import tiny_models
import torch
from safetensors.torch import save_file
from tiny_data import examples

from scissorhands_hf import ScissorhandsConfig, ScissorhandsTrainer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--resume")
    options = parser.parse_args()
    model, batch = tiny_models.tiny_resnet()
    args = ScissorhandsConfig(
        output_dir=str(options.output),
        num_train_epochs=2,
        per_device_train_batch_size=4,
        per_device_forget_batch_size=2,
        gradient_accumulation_steps=1,
        memory_batches=2,
        projection_margin=0.1,
        learning_rate=1e-2,
        trim_ratio=0.1,
        save_steps=4,
        logging_steps=1,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        dataloader_num_workers=0,
    )
    trainer = ScissorhandsTrainer(
        model=model, args=args, train_dataset=examples(batch, 22, 1), forget_dataset=examples(batch, 7, 2)
    )
    measure = trainer.trim

    def trim_and_keep() -> dict:
        report = measure()
        if trainer.is_world_process_zero():
            save_file(
                {name: p.detach().clone() for name, p in model.named_parameters()}, options.output / "trimmed.safetensors"
            )
        return report

    trainer.trim = trim_and_keep
    torch.manual_seed(100 + args.process_index)  # what a rank draws by itself must not reach the weights
    trainer.train(resume_from_checkpoint=options.resume)
    weights = [tensor.detach().numpy().tobytes() for name, tensor in model.named_parameters()]
    record = {
        "rank": args.process_index,
        "weights": hashlib.sha256(b"".join(weights)).hexdigest(),
        "trim": trainer.trim_report,
        "retain_loss": [row["retain_loss"] for row in trainer.state.log_history if "retain_loss" in row],
    }
    (options.output / f"rank-{args.process_index}.json").write_text(json.dumps(record))
    # A process that ends while another still talks to it may abort that one: on a busy machine gloo did.
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
