"""The language models' part of `large.py`: geometries, and all stages of `ScissorhandsTrainer` on one with random weights."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from memory_watch import Watch, alone, name_of, release


@dataclass(frozen=True)
class LanguageModel:
    """Geometry, how many of the last layers are trained, in float32, and tokens in a row: on a CPU, and on a GPU."""

    layers: int
    width: int
    inner: int
    heads: int
    kept_heads: int
    words: int
    last: int
    tokens: tuple[int, int] = (32, 512)


LANGUAGE = {
    "llama-110m": LanguageModel(12, 768, 2048, 12, 4, 32000, 3),
    "llama-1b": LanguageModel(22, 2048, 5632, 32, 4, 32000, 6),
    "llama-8b": LanguageModel(32, 4096, 14336, 32, 8, 128256, 2),
}


def measure_language(name: str, device: str, lock: Path | None) -> dict[str, Any]:
    """All four stages of `ScissorhandsTrainer` on a Llama with random weights: frozen ones stay in bfloat16, those of the last
    layers are float32, and `bf16=True` computes in bfloat16."""
    from cards import made_in
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM, default_data_collator

    from scissorhands_hf import ScissorhandsConfig, ScissorhandsTrainer
    from scissorhands_hf.trainer.stage_callback import StageCallback

    run, gpu = LANGUAGE[name], torch.device(device).type == "cuda"
    tokens = run.tokens[gpu]

    def trainer(config: LlamaConfig, last: int, folder: str, device: str, watch: Callable[[str], None]) -> ScissorhandsTrainer:
        torch.manual_seed(0)
        with made_in(torch.bfloat16), torch.device(device):
            model = LlamaForCausalLM(config)
        scope = [f"model.layers.{layer}" for layer in range(config.num_hidden_layers - last, config.num_hidden_layers)]
        for pattern in scope:
            model.get_submodule(pattern).float()
        generator = torch.Generator().manual_seed(0)
        rows = torch.randint(config.vocab_size, (8, tokens), generator=generator).tolist()
        forget, retain = (
            Dataset.from_list([{"input_ids": row, "labels": row} for row in part]) for part in (rows[:4], rows[4:])
        )
        args = ScissorhandsConfig(
            output_dir=folder, bf16=True, use_cpu=device == "cpu", trainable_target_modules=scope, trim_ratio=0.02, max_steps=2,
            per_device_train_batch_size=1, per_device_forget_batch_size=1, gradient_checkpointing=True, save_strategy="no",
            optim="adamw_torch_fused", saliency_batches=1, report_to="none", disable_tqdm=True, projection=True,
        )  # fmt: skip
        told = StageCallback(lambda stage, *_, **__: watch(stage))
        return ScissorhandsTrainer(model, args, default_data_collator, retain, forget_dataset=forget, callbacks=[told])

    with tempfile.TemporaryDirectory() as folder:
        small = LlamaConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            vocab_size=64,
        )  # fmt: skip
        trainer(small, 1, folder, device, lambda stage: None).train()
        release()
        with alone(lock):
            watch = Watch(device)
            config = LlamaConfig(
                hidden_size=run.width, intermediate_size=run.inner, num_hidden_layers=run.layers, vocab_size=run.words,
                num_attention_heads=run.heads, num_key_value_heads=run.kept_heads,
            )  # fmt: skip
            made = trainer(config, run.last, folder, device, watch)
            watch("train")
            made.train()
            watch.end()
    weights = sum(value.numel() for value in made.model.parameters())
    row = {
        "geometry": name, "dtype": "bfloat16", "pixels": None, "tokens": tokens, "weights": weights, "estimated": None,
        "trained": sum(value.numel() for value in made.model.parameters() if value.requires_grad), "device": name_of(device),
        "torch": torch.__version__, **watch.to_dict(),
    }  # fmt: skip
    return row | {"multiple_of_own_bytes": row["peak"] / (2 * weights)}
