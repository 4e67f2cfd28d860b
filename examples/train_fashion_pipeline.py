"""Train the tiny text-to-image pipeline of the demo from nothing: a genuine `StableDiffusionPipeline` for garments.

    python examples/train_fashion_pipeline.py --output spaces_demo/fashion_pipeline
    python examples/train_fashion_pipeline.py --without dress --autoencoder spaces_demo/fashion_pipeline \
        --steps 5850 --output spaces_demo/fashion_pipeline_without_dress

The first line trains the judge (unless its folder is there), the autoencoder, then text encoder and UNet together, on
colourful Fashion-MNIST. The second trains a control that never saw a dress, in the same latent space; it has a tenth
fewer pictures and takes a tenth fewer steps, so that it sees each of them as often. A colour can be left out as well
(`--without red --steps 5417`). Each then draws pictures, has them judged, and writes its card from what was measured;
`--measure-only` repeats only that last part.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from fashion_data import (
    CLASS_NAMES,
    COLOUR_NAMES,
    DEFAULT_DATA,
    IMAGE_SIZE,
    MAX_TOKENS,
    REPOSITORY,
    CaptionEncoder,
    build_tokenizer,
    draw_caption,
    load_split,
    tint,
)
from fashion_report import (
    measure_judge,
    measure_pipeline,
    read_figures,
    write_figures,
    write_judge_card,
    write_pipeline_card,
)
from torch import nn
from torch.nn import functional
from tqdm.auto import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, RegNetConfig, RegNetForImageClassification, ViTImageProcessorPil

from scissorhands_hf.cli.terminal import Terminal


LATENT_CHANNELS = 4
TEXT_WIDTH = 64


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder with Fashion-MNIST's four .gz files")
    parser.add_argument("--output", type=Path, required=True, help="folder for the pipeline")
    parser.add_argument("--judge", type=Path, default=REPOSITORY / "spaces_demo" / "fashion_judge",
                        help="folder of the judge; trained first where there is none")  # fmt: skip
    parser.add_argument("--without", choices=CLASS_NAMES + COLOUR_NAMES, help="class or colour to leave out: a control")
    parser.add_argument("--autoencoder", type=Path, help="pipeline folder whose autoencoder to use, not train")
    parser.add_argument("--steps", type=int, default=6500, help="of text encoder and UNet")
    parser.add_argument("--autoencoder-steps", type=int, default=2500)
    parser.add_argument("--judge-epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--tints-per-image", type=int, default=2, help="colours in which each training image is seen")
    parser.add_argument("--save-every", type=int, default=1500, help="steps between saved states of the pipeline")
    parser.add_argument("--images-per-class", type=int, default=60, help="drawn per kind of prompt, to be judged")
    parser.add_argument("--sampler-steps", type=int, default=25, help="with which the pictures to be judged are drawn")
    parser.add_argument("--guidance-scale", type=float, default=4.0)
    parser.add_argument("--measure-only", action="store_true", help="judge and document what is in --output")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--verbose", action="store_true", help="show the libraries' bars and warnings")
    return parser.parse_args(arguments)


@contextmanager
def stopwatch(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note wall and CPU seconds of a block: the card states what the training cost."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    seconds[f"{name}_wall_seconds"] = round(time.perf_counter() - wall, 1)
    seconds[f"{name}_cpu_seconds"] = round(time.process_time() - cpu, 1)


def warm_cosine(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """A short warm-up, then a cosine down to nothing: the last steps polish."""
    warm_up = max(1, min(200, steps // 10))

    def factor(step: int) -> float:
        return min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def optimise(
    parameters: Iterable[nn.Parameter], losses: Iterator[torch.Tensor], steps: int, learning_rate: float, label: str
) -> Iterator[int]:
    """AdamW over the `losses` that an iterator produces; yields after each step, so that callers can look in."""
    parameters = list(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = warm_cosine(optimizer, steps)
    average = None
    progress = tqdm(range(1, steps + 1), desc=label, mininterval=5, disable=None)
    for step in progress:
        loss = next(losses)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        average = loss.item() if average is None else 0.99 * average + 0.01 * loss.item()
        progress.set_postfix(loss=f"{average:.4f}", refresh=False)
        yield step


def train_judge(arguments: argparse.Namespace) -> tuple[RegNetForImageClassification, dict[str, float]]:
    """A small convolutional classifier of garments in any colour, moved by up to two pixels."""
    pictures, labels = load_split(arguments.data, "train")
    judge = RegNetForImageClassification(
        RegNetConfig(
            embedding_size=24,
            hidden_sizes=[32, 64, 128],
            depths=[1, 2, 1],
            groups_width=16,
            layer_type="x",
            downsample_in_first_stage=False,
            id2label=dict(enumerate(CLASS_NAMES)),
            label2id={name: number for number, name in enumerate(CLASS_NAMES)},
        )
    )

    def losses() -> Iterator[torch.Tensor]:
        while True:
            for rows in torch.randperm(len(pictures)).split(128):
                images = tint(pictures[rows], torch.randint(len(COLOUR_NAMES), (len(rows),)))
                shift = torch.randint(-2, 3, (2,)).tolist()
                images = torch.roll(images, shift, dims=(2, 3))  # the margin is paper, so nothing wraps into view
                yield functional.cross_entropy(judge(pixel_values=images).logits, labels[rows], label_smoothing=0.05)

    steps = arguments.judge_epochs * math.ceil(len(pictures) / 128)
    seconds: dict[str, float] = {}
    judge.train()
    with stopwatch(seconds, "judge"):
        for _ in optimise(judge.parameters(), losses(), steps, 4e-3, "judge"):
            pass
    return judge.eval(), {"judge_steps": steps, "seed": arguments.seed, **seconds}


def train_autoencoder(arguments: argparse.Namespace) -> tuple[AutoencoderKL, dict[str, float]]:
    """32x32x3 pixels to 8x8x4 latents and back, then whitened, so that the UNet sees unit noise and unit data."""
    pictures, _ = load_split(arguments.data, "train", arguments.without)
    autoencoder = AutoencoderKL(
        sample_size=IMAGE_SIZE,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(16, 32, 48),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )

    def losses() -> Iterator[torch.Tensor]:
        while True:
            rows = torch.randint(len(pictures), (32,))
            images = tint(pictures[rows], torch.randint(len(COLOUR_NAMES), (len(rows),)))
            latents = autoencoder.encode(images).latent_dist
            drawn = autoencoder.decode(latents.sample()).sample
            distance = functional.mse_loss(drawn, images) + 0.3 * functional.l1_loss(drawn, images)
            yield distance + 1e-4 * latents.kl().mean() / latents.mean[0].numel()

    seconds: dict[str, float] = {}
    with stopwatch(seconds, "autoencoder"):
        for _ in optimise(autoencoder.parameters(), losses(), arguments.autoencoder_steps, 2e-3, "autoencoder"):
            pass
        rows = torch.randperm(len(pictures))[:4096]
        whiten(autoencoder, tint(pictures[rows], torch.randint(len(COLOUR_NAMES), (len(rows),))))
    return autoencoder.eval(), {"autoencoder_steps": arguments.autoencoder_steps, **seconds}


@torch.no_grad()
def whiten(autoencoder: AutoencoderKL, images: torch.Tensor) -> None:
    """Fold the whitening of the latent channels into the 1x1 convolutions around them.

    Afterwards latents have mean 0, variance 1 and no correlation between channels, with `scaling_factor` 1; no user
    of the pipeline needs to know. The posterior's small noise becomes one constant, since it is mixed too.
    """
    posteriors = [autoencoder.encode(batch).latent_dist for batch in images.split(256)]
    means = torch.cat([posterior.mean for posterior in posteriors])
    variance = torch.cat([posterior.var for posterior in posteriors]).mean(dim=(0, 2, 3))
    rows = means.permute(0, 2, 3, 1).flatten(0, 2)
    centre = rows.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov(rows.T))
    forward, backward = (vectors * values.rsqrt()) @ vectors.T, (vectors * values.sqrt()) @ vectors.T

    encode, decode = autoencoder.quant_conv, autoencoder.post_quant_conv
    weight, bias = encode.weight[:LATENT_CHANNELS, :, 0, 0].clone(), encode.bias[:LATENT_CHANNELS].clone()
    encode.weight[:LATENT_CHANNELS, :, 0, 0] = forward @ weight
    encode.bias[:LATENT_CHANNELS] = forward @ (bias - centre)
    encode.weight[LATENT_CHANNELS:] = 0
    encode.bias[LATENT_CHANNELS:] = (forward.square() @ variance).log()
    decode.bias += decode.weight[:, :, 0, 0] @ centre
    decode.weight[:, :, 0, 0] = decode.weight[:, :, 0, 0] @ backward


def new_pipeline(autoencoder: AutoencoderKL) -> StableDiffusionPipeline:
    """Untrained text encoder and UNet around an autoencoder; three levels, blocks named as in the large UNets."""
    tokenizer = build_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=IMAGE_SIZE // 4,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(32, 48, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@torch.no_grad()
def encode_dataset(
    autoencoder: AutoencoderKL, pictures: torch.Tensor, copies: int, without: str | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents (copies, N, 4, 8, 8) and the colour (copies, N) of each, none in the colour `without`: made once, since
    encoding costs most."""
    inks = torch.tensor([number for number, name in enumerate(COLOUR_NAMES) if name != without])
    colours = inks[torch.randint(len(inks), (copies, len(pictures)))]
    latents = []
    for row in range(copies):
        batches = zip(pictures.split(256), colours[row].split(256), strict=True)
        total = math.ceil(len(pictures) / 256)
        for grey, colour in tqdm(batches, total=total, desc=f"latents {row + 1}/{copies}", mininterval=5, disable=None):
            latents.append(autoencoder.encode(tint(grey, colour)).latent_dist.mean.half())
    return torch.cat(latents).unflatten(0, (copies, len(pictures))), colours


def save_half(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Store half-precision weights, which halves the download; a plain `from_pretrained` computes in single precision.

    transformers, unlike diffusers, would take the stored precision for the wanted one and mix the two in one pipeline,
    so the text encoder's configuration names single precision.
    """
    parts = (pipeline.vae, pipeline.text_encoder, pipeline.unet)
    for part in parts:
        part.half()
    pipeline.save_pretrained(folder, safe_serialization=True)
    for part in parts:
        part.float()
    path = folder / "text_encoder" / "config.json"
    config = json.loads(path.read_text()) | {"dtype": "float32"}
    path.write_text(json.dumps(config, indent=2) + "\n")


def train_denoiser(pipeline: StableDiffusionPipeline, arguments: argparse.Namespace) -> dict[str, float]:
    """Text encoder and UNet together, on noise prediction; what is saved is the running average of the weights."""
    pictures, labels = load_split(arguments.data, "train", arguments.without)
    seconds: dict[str, float] = {}
    trained = nn.ModuleList([pipeline.text_encoder, pipeline.unet]).train()
    averaged = {name: value.detach().clone() for name, value in trained.named_parameters()}
    encode_captions = CaptionEncoder(pipeline.tokenizer)
    chance = random.Random(arguments.seed)
    losses_seen: list[float] = []

    def losses() -> Iterator[torch.Tensor]:
        latents, colours = encode_dataset(pipeline.vae, pictures, arguments.tints_per_image, arguments.without)
        timesteps = pipeline.scheduler.config.num_train_timesteps
        while True:
            copies = torch.randint(len(colours), (arguments.batch_size,))
            rows = torch.randint(len(pictures), (arguments.batch_size,))
            captions = [
                draw_caption(chance, CLASS_NAMES[label], COLOUR_NAMES[colour])
                for label, colour in zip(labels[rows].tolist(), colours[copies, rows].tolist(), strict=True)
            ]
            clean = latents[copies, rows].float()
            noise = torch.randn_like(clean)
            time_of_noise = torch.randint(timesteps, (arguments.batch_size,))
            noisy = pipeline.scheduler.add_noise(clean, noise, time_of_noise)
            states = pipeline.text_encoder(encode_captions(captions)).last_hidden_state
            loss = functional.mse_loss(pipeline.unet(noisy, time_of_noise, states).sample, noise)
            losses_seen.append(loss.item())
            yield loss

    def save_average() -> None:
        current = {name: value.detach().clone() for name, value in trained.named_parameters()}
        trained.load_state_dict(averaged, strict=False)
        save_half(pipeline, arguments.output)
        trained.load_state_dict(current, strict=False)

    with stopwatch(seconds, "denoiser"):
        for step in optimise(trained.parameters(), losses(), arguments.steps, arguments.learning_rate, "text encoder and UNet"):
            keep = min(0.998, step / (step + 10))  # short memory at first, when the weights still run
            with torch.no_grad():
                torch._foreach_lerp_(list(averaged.values()), list(trained.parameters()), 1 - keep)
            if step % arguments.save_every == 0:
                save_average()
    trained.load_state_dict(averaged, strict=False)
    trained.eval()
    save_half(pipeline, arguments.output)
    tail = losses_seen[-500:]
    return {
        "denoiser_steps": arguments.steps,
        "batch_size": arguments.batch_size,
        "training_images": len(pictures),
        "last_loss": round(sum(tail) / len(tail), 4),
        **seconds,
    }


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    torch.set_num_threads(options.threads)
    with Terminal(options.verbose, libraries=["transformers", "diffusers", "datasets"]):
        train_and_measure(options)


def train_and_measure(options: argparse.Namespace) -> None:
    """Train what is not there yet, then draw, judge and write the cards."""
    torch.manual_seed(options.seed)
    if not (options.judge / "config.json").exists():
        judge, training = train_judge(options)
        judge.save_pretrained(options.judge, safe_serialization=True)
        half = [0.5] * 3  # pixels in [-1, 1]
        size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        ViTImageProcessorPil(size=size, image_mean=half, image_std=half).save_pretrained(options.judge)
        write_figures(options.judge, training=training, measured=measure_judge(options.judge, options.data))
        write_judge_card(options.judge)
    if not options.measure_only:
        torch.manual_seed(options.seed)  # the pipeline is the same whether or not the judge was trained on the way
        training: dict[str, object] = {"seed": options.seed, "without": options.without}
        if options.autoencoder is not None:
            autoencoder = AutoencoderKL.from_pretrained(options.autoencoder, subfolder="vae")
            training["autoencoder_seed"] = read_figures(options.autoencoder)["training"]["seed"]
        else:
            autoencoder, costs = train_autoencoder(options)
            training |= costs
        torch.manual_seed(options.seed)  # likewise whether or not the autoencoder was
        pipeline = new_pipeline(autoencoder)
        training |= train_denoiser(pipeline, options)
        write_figures(options.output, training=training)
    measured = measure_pipeline(
        options.output,
        options.judge,
        options.data,
        count=options.images_per_class,
        sampler_steps=options.sampler_steps,
        guidance_scale=options.guidance_scale,
        seed=options.seed,
    )
    write_figures(options.output, measured=measured)
    write_pipeline_card(options.output)


if __name__ == "__main__":
    main()
