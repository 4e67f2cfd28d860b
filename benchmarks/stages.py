"""The benchmark's models, and the peak memory of each stage, each measured in a fresh process.

A stage's number is the process's peak resident size during the stage minus its resident size just before. Before, the
process holds the model and what the stage takes as input (named in STAGES), and has run a miniature pass, so that the
libraries' own memory is not counted. The allocator gives freed memory back at once (see ENVIRONMENT).
"""

import gc
import multiprocessing
import os
import resource
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, ResNetConfig, ResNetForImageClassification

from scissorhands_hf.core import GradientMemory, connection_sensitivity, exact_threshold, stream_gradients, trim_weights


RATIO, EPSILON = 0.03, 1e-3
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}


def resnet18() -> PreTrainedModel:
    config = ResNetConfig(
        num_channels=1,
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        num_labels=10,
    )
    return ResNetForImageClassification(config)


def transformer() -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=16_000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


MODELS: dict[str, Callable[[], PreTrainedModel]] = {"resnet18": resnet18, "transformer": transformer}


class Workload:
    """One model and its batches, made from seeds."""

    def __init__(self, name: str):
        torch.manual_seed(0)
        self.name, self.model = name, MODELS[name]()
        self.count = sum(p.numel() for p in self.model.parameters())
        self.bytes = sum(p.numel() * p.element_size() for p in self.model.parameters())
        self.describe = "batch 256 x 28 x 28" if name == "resnet18" else "batch 4 x 128 tokens"

    def loss(self, seed: int, miniature: bool = False) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        if self.name == "resnet18":
            count = 2 if miniature else 256
            images = torch.randn(count, 1, 28, 28, generator=generator)
            return self.model(pixel_values=images, labels=torch.randint(0, 10, (count,), generator=generator)).loss
        shape = (1, 4) if miniature else (4, 128)
        tokens = torch.randint(0, 16_000, shape, generator=generator)
        return self.model(input_ids=tokens, labels=tokens).loss

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return dict(self.model.named_parameters())

    def fake_scores(self) -> dict[str, Tensor]:
        """Stands for a sensitivity: positive, of the weights' shapes."""
        return {name: p.detach().abs() for name, p in self.model.named_parameters()}


# Each builder receives a workload, prepares the inputs, and returns the work to be measured.


def bare_pass(load: Workload) -> Callable[[], object]:
    return lambda: load.loss(0).backward()


def streamed_pass(load: Workload) -> Callable[[], object]:
    return lambda: stream_gradients(lambda: load.loss(0), load.parameters(), lambda name, gradient: None)


def sensitivity(load: Workload) -> Callable[[], object]:
    return lambda: connection_sensitivity([lambda: load.loss(0), lambda: load.loss(1)], load.parameters())


def threshold(load: Workload) -> Callable[[], object]:
    scores = load.fake_scores()
    return lambda: exact_threshold(scores.values(), RATIO)


def concatenated_threshold(scores: list[Tensor]) -> float:
    """The textbook way that the exact threshold replaces."""
    flat = torch.cat([s.reshape(-1) for s in scores])
    return flat.kthvalue(flat.numel() - int(RATIO * flat.numel())).values.item()


def concatenated(load: Workload) -> Callable[[], object]:
    scores = list(load.fake_scores().values())
    return lambda: concatenated_threshold(scores)


def trim(load: Workload) -> Callable[[], object]:
    scores = load.fake_scores()
    tau, _ = exact_threshold(scores.values(), RATIO)
    return lambda: trim_weights(load.model, scores, tau, load.parameters(), 0, load.model._init_weights)


def refresh(load: Workload) -> Callable[[], object]:
    parameters = load.parameters()
    order = {name: index for index, name in enumerate(parameters)}
    memory = GradientMemory(1, epsilon=EPSILON)

    def work() -> None:
        memory.allocate(list(parameters.values()))
        memory.clear()
        stream_gradients(lambda: load.loss(0), parameters, lambda name, g: memory.store(0, order[name], g))
        memory.close_refresh()

    return work


def opposed_memory(gradients: list[Tensor], size: int) -> GradientMemory:
    """Memories -g plus noise of the same size, so that g opposes all of them; the cost does not depend on values."""
    memory = GradientMemory(size, epsilon=EPSILON)
    memory.allocate(gradients)
    for position, g in enumerate(gradients):
        noise = torch.randn(g.numel(), generator=torch.Generator().manual_seed(position)) * g.std(correction=0)
        for index in range(size):
            memory.store(index, position, g + noise.roll(index).view(g.shape))
    memory.close_refresh()
    return memory


def projection(size: int) -> Callable[[Workload], Callable[[], object]]:
    def build(load: Workload) -> Callable[[], object]:
        gradients = [torch.randn_like(p) for p in load.model.parameters()]
        memory = opposed_memory(gradients, size)
        return lambda: memory.project(gradients)

    return build


STAGES: dict[str, tuple[Callable[[Workload], Callable[[], object]], str]] = {
    "bare pass": (bare_pass, "forward and backward of one batch: activations and all gradients"),
    "streamed pass": (
        streamed_pass,
        "the same with every gradient freed as it appears: activations, a gradient in hand",
    ),
    "sensitivity": (sensitivity, "two batches, with the accumulator that is its result"),
    "threshold": (threshold, "beside the sensitivities, its input"),
    "concatenate + kthvalue": (concatenated, "the same by brute force"),
    "trim": (trim, "all weights in scope; beside the sensitivities, its input"),
    "memory refresh M=1": (refresh, "a streamed pass and the memory that is its result"),
    "projection M=1": (projection(1), "beside the memories and the gradients, its input"),
    "projection M=8": (projection(8), "beside the memories and the gradients, its input"),
}


def measure_peaks(name: str, threads: int, progress: tqdm) -> dict[str, int]:
    """Bytes at the peak of each stage on top of what was there, each from a process of its own."""
    os.environ |= ENVIRONMENT  # read by the allocator of processes started from here on
    # The server imports the libraries once and runs nothing; each child is then a fresh process that shares no state.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stages"])
    peaks = {}
    for stage in STAGES:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_measure, args=(name, stage, threads, sender))
        process.start()
        sender.close()
        try:
            peaks[stage] = receiver.recv()
        except EOFError:
            raise RuntimeError(f"the memory stage {stage!r} of {name} died; is there enough memory?") from None
        process.join()
        progress.update()
    return peaks


def _measure(name: str, stage: str, threads: int, sender: multiprocessing.connection.Connection) -> None:
    torch.set_num_threads(threads)
    load = Workload(name)
    load.model.eval()
    work = STAGES[stage][0](load)
    load.loss(0, miniature=True).backward()
    load.model.zero_grad(set_to_none=True)
    gc.collect()
    _reset_peak()
    before = _resident()
    result = work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    del result
    sender.send(peak - before)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _reset_peak() -> None:
    """Forget the peak of the preparations, which may be higher than the stage's own (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
