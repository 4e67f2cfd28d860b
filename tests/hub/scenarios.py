"""What the client process does for the tests; see worker.py. Arguments and results are JSON."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tiny_models
import torch
from tiny_data import examples, retain_and_forget
from transformers import TrainerCallback

from scissorhands_hf import ScissorhandsConfig, ScissorhandsTrainer, UnlearningReport, hub
from scissorhands_hf.report.concept_report import ConceptErasureReport, PromptScore


PIPELINE = Path(__file__).parents[2] / "spaces_demo" / "fashion_pipeline"
# The last trainer and pipeline, for what follows in the same test.
kept: dict[str, Any] = {}


def make_trainer(output_dir: str, **settings: Any) -> ScissorhandsTrainer:
    torch.manual_seed(0)
    model, retain, forget = retain_and_forget(tiny_models.tiny_vit)
    args = ScissorhandsConfig(
        **{
            "output_dir": output_dir, "use_cpu": True, "disable_tqdm": True, "report_to": "none", "save_strategy": "no",
            "per_device_train_batch_size": 4, "per_device_forget_batch_size": 2, "num_train_epochs": 1, "learning_rate": 1e-3,
            "logging_steps": 1, "seed": 7, "trim_ratio": 0.1, **settings,
        }
    )  # fmt: skip
    return ScissorhandsTrainer(
        model=model,
        args=args,
        train_dataset=retain,
        forget_dataset=forget,
        eval_dataset={"forget": forget, "retain": retain},
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
    )


def train(output_dir: str, **settings: Any) -> dict[str, Any]:
    trainer = make_trainer(output_dir, **settings)
    trainer.evaluate()
    trainer.train()
    trainer.evaluate()
    trainer.save_model()
    kept["trainer"] = trainer
    return trainer.report().to_dict()


def train_and_push(output_dir: str, settings: dict[str, Any], push: dict[str, Any]) -> dict[str, Any]:
    """The three lines of the contract; returns the commit and the live model's logits on fixed pixels."""
    trainer = make_trainer(output_dir, **settings)
    trainer.train()
    trainer.evaluate()
    commit = trainer.push_to_hub(**push)
    kept["trainer"] = trainer
    return {"commit": commit.oid, "pr_url": commit.pr_url, "logits": logits(trainer.model)}


def train_with_push_to_hub(output_dir: str, **settings: Any) -> dict[str, Any]:
    """With `push_to_hub=True`, saving in mid-run as a callback of the user's might, and then as the user does."""
    trainer = make_trainer(output_dir, **settings)

    class Saves(TrainerCallback):
        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            trainer.save_model()

    trainer.add_callback(Saves)
    trainer.train()
    kept["trainer"] = trainer
    return {"steps": trainer.state.global_step}


def save_trainer() -> None:
    kept["trainer"].save_model()


@contextmanager
def counting(found: dict[str, int]) -> Iterator[None]:
    """Counts cards that are rendered, and plots that are drawn."""
    from jinja2 import Template
    from matplotlib.figure import Figure

    plain = {"renders": (Template, "render"), "plots": (Figure, "savefig")}
    methods = {name: getattr(*place) for name, place in plain.items()}

    def counted(name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            found[name] += 1
            return methods[name](*arguments, **named)

        return call

    found.update(dict.fromkeys(plain, 0))
    for name, place in plain.items():
        setattr(*place, counted(name))
    try:
        yield
    finally:
        for name, place in plain.items():
            setattr(*place, methods[name])


def count_push(kind: str, directory: str, repo_id: str, token: str) -> dict[str, int]:
    """What a push of this kind renders and draws, apart from training or erasing before it."""
    found: dict[str, int] = {}
    if kind == "trainer":
        trainer = make_trainer(directory, hub_model_id=repo_id, hub_token=token)
        trainer.train()
        push = trainer.push_to_hub
    elif kind == "pipeline":
        pipe = changed_pipeline(["dress"])

        def push() -> None:
            hub.push_pipeline(pipe, repo_id, token=token, check="weights")
    elif kind == "space":
        from spaces_demo import publish

        choices = publish.check_choices(repo_id, next(iter(publish.DISCLOSURES)), {"license": "mit"}, needed=True)

        def push() -> None:
            publish.push(Path(directory), choices, private=True, token=token, tell=lambda progress: None)
    else:

        def push() -> None:
            hub.push_folder(directory, repo_id, token=token)

    with counting(found):
        push()
    return found


def count_save(directory: str) -> dict[str, int]:
    pipe, found = changed_pipeline(["dress"]), {}
    with counting(found):
        hub.save_pipeline(pipe, directory)
    return found


def save_pipeline_noted(directory: str, note: str, **options: Any) -> str:
    """With a note in its report."""
    pipe = changed_pipeline(["dress"])
    pipe.erasure_reports[-1].notes = [note]
    return str(hub.save_pipeline(pipe, directory, **options))


def who_within(seconds: float, token: str) -> None:
    from scissorhands_hf.hub import connection

    plain, waits = connection.FIRST_CONTACT_SECONDS, connection._WAITS
    connection.FIRST_CONTACT_SECONDS, connection._WAITS = seconds, ()
    try:
        connection.Connection(token).who()
    finally:
        connection.FIRST_CONTACT_SECONDS, connection._WAITS = plain, waits


def push_trainer(push: dict[str, Any]) -> dict[str, Any]:
    """Of the last trainer, also in the background."""
    result = kept["trainer"].push_to_hub(**push)
    commit = result if push.get("blocking", True) else result.result(60)
    return {"commit": commit.oid}


def logits(model: torch.nn.Module) -> list[list[float]]:
    pixels = torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16)
    with torch.no_grad():
        return model.eval()(pixel_values=pixels).logits.tolist()


def forget_bytes() -> list[str]:
    """The forget examples' pixels as they might lie in a file, in hexadecimal, and their ids."""
    forget = examples(tiny_models.tiny_vit()[1], 6, seed=2)
    rows = [row["pixel_values"].numpy().tobytes().hex() for row in forget]
    return [*rows, *(identity.encode().hex() for identity in forget["id"])]


def push(directory: str, repo_id: str, **options: Any) -> dict[str, Any]:
    commit = hub.push_folder(directory, repo_id, **options)
    return {"commit": commit.oid, "pr_url": commit.pr_url}


def card(directory: str, **choices: Any) -> str:
    return str(hub.write_card(directory, **choices))


def concept_report(concept: str, anchor: str | None, seed: int) -> ConceptErasureReport:
    """A report as `erase_concept` makes it, of made-up figures, with pictures of noise."""
    from PIL import Image

    generator = torch.Generator().manual_seed(seed)

    def pictures() -> list[Image.Image]:
        pixels = torch.randint(0, 256, (4, 32, 32, 3), generator=generator, dtype=torch.uint8)
        return [Image.fromarray(picture.numpy()) for picture in pixels]

    prompts = [
        PromptScore(f"a photo of a {concept}", "concept", concept, 4, 100.0, 12.5, 1.07),
        PromptScore("a photo of a bag", "kept", "bag", 4, 100.0, 99.25, 0.21),
    ]
    return ConceptErasureReport(
        settings={"seed": seed, "trim_ratio": 0.03, "recipe": "concept", "forget_objective": "redirect"},
        metrics={
            "original": {"concept": 100.0, "kept": 100.0},
            "unlearned": {"concept": 12.5, "kept": 99.25, "concept change": 1.07, "kept change": 0.21},
        },
        trim={"threshold": 1e-3, "candidates": 1000, "above_threshold": 30, "trimmed": 30, "per_module": {}},
        history=[{"step": 1, "retain_loss": 0.5, "forget_loss": 1.0}, {"step": 2, "retain_loss": 0.4, "forget_loss": 1.5}],
        seconds={"total": 61.5},
        versions={"torch": "2.13.0"},
        concepts=[concept],
        anchor=anchor,
        measure={"judge": "fashion-judge", "images_per_prompt": 4, "seed": seed, "sampler": "DDIMScheduler"},
        prompts=prompts,
        warnings=["The kept prompt 'a photo of a bag' lost 1 points."],
        pictures={row.prompt: {"original": pictures(), "unlearned": pictures()} for row in prompts},
    )


def changed_pipeline(concepts: list[str]) -> Any:
    """The shipped pipeline with another denoiser, and a report for each concept."""
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(PIPELINE, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        for index, parameter in enumerate(pipe.unet.parameters()):
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    pipe.erasure_reports = [concept_report(concept, "clothing", seed) for seed, concept in enumerate(concepts)]
    return pipe


def push_pipeline(concepts: list[str], repo_id: str, **options: Any) -> dict[str, Any]:
    pipe = changed_pipeline(concepts)
    commit = hub.push_pipeline(pipe, repo_id, **options)
    return {"commit": commit.oid, "latents": latents(pipe), "half": latents(pipe.to(torch.float16).to(torch.float32))}


def save_pipeline(concepts: list[str], directory: str, **options: Any) -> str:
    return str(hub.save_pipeline(changed_pipeline(concepts), directory, **options))


def earlier(source: str) -> dict[str, Any]:
    """What is known of a pipeline's erasures when it is loaded by `source`."""
    from scissorhands_hf.hub.earlier import earlier_reports

    reports, unknown = earlier_reports(source)
    return {"concepts": [report.concepts for report in reports], "unknown": unknown, "figures": [r.metrics for r in reports]}


def latents(pipe: Any) -> list[float]:
    generator = torch.Generator().manual_seed(3)
    result = pipe("a red dress", num_inference_steps=2, output_type="latent", generator=generator).images
    return result.flatten().tolist()


def load_report(directory: str) -> dict[str, Any]:
    return UnlearningReport.load(directory).to_dict()


def push_trainer_shards(directory: str) -> None:
    """Save the last trainer's model again, in shards, and accept them."""
    from scissorhands_hf.hub.folder import file_stamps, remove_unwritten

    folder = Path(directory)
    stamps = file_stamps(folder)
    kept["trainer"].model.save_pretrained(folder, max_shard_size="20KB")
    remove_unwritten(folder, stamps)
    hub.write_card(folder, accept_weights=True)


def _elsewhere(arguments: dict[str, str], **environment: str) -> dict[str, Any]:
    """The same push in a process with other settings, which are read at import; returns its error."""
    code = (
        "import json, sys\nsys.path.insert(0, sys.argv[1])\nimport scenarios\n"
        "try:\n    scenarios.push(**json.loads(sys.argv[2]))\n"
        "except Exception as error:\n    print(json.dumps([type(error).__name__, getattr(error, 'kind', None), str(error)]))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), json.dumps(arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    name, kind, message = json.loads(result.stdout.splitlines()[-1])
    return {"error": name, "kind": kind, "message": message, "trace": ""}


def push_offline(**arguments: str) -> dict[str, Any]:
    return _elsewhere(arguments, HF_HUB_OFFLINE="1")


def earlier_offline(source: str) -> dict[str, Any]:
    code = (
        "import json, sys\nsys.path.insert(0, sys.argv[1])\nimport scenarios\nprint(json.dumps(scenarios.earlier(sys.argv[2])))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), source],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return json.loads(result.stdout.splitlines()[-1])


def push_to_nowhere(**arguments: str) -> dict[str, Any]:
    """To a port where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return _elsewhere(arguments, HF_ENDPOINT=f"http://127.0.0.1:{port}")


def push_pipeline_with_original_unet(repo_id: str, token: str, directory: str) -> None:
    from scissorhands_hf.hub.push import Destination, push_run
    from scissorhands_hf.hub.run import load_run

    pipe = changed_pipeline(["dress"])
    hub.save_pipeline(pipe, directory)
    weights = Path("unet") / "diffusion_pytorch_model.safetensors"
    (Path(directory) / weights).write_bytes((PIPELINE / weights).read_bytes())
    push_run(load_run(directory), Destination(repo_id), token=token, live=pipe)


def save_and_push_with_the_mixin(repo_id: str, token: str, directory: str) -> dict[str, Any]:
    """`enable_concept_erasure`, a class of one's own, and the two methods that people call."""
    from diffusers import StableDiffusionPipeline

    from scissorhands_hf.erasure import ConceptErasureMixin, enable_concept_erasure

    class NamedByItsUser(ConceptErasureMixin, StableDiffusionPipeline):
        pass

    pipe = enable_concept_erasure(changed_pipeline(["dress"]))
    pipe.save_pretrained(directory)
    own = NamedByItsUser(**pipe.components, requires_safety_checker=False)
    own.set_progress_bar_config(disable=True)
    own.erasure_reports = pipe.erasure_reports
    commit = own.push_to_hub(repo_id, token=token)
    return {"commit": commit.oid}


def push_text_model(output_dir: str, repo_id: str, token: str) -> None:
    """A BERT with the tokenizer that it was loaded with from a folder."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertTokenizer

    source = Path(output_dir).parent / "source"
    source.mkdir()
    model, retain, forget = retain_and_forget(tiny_models.tiny_bert)
    model.save_pretrained(source)
    (source / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]))
    BertTokenizer(str(source / "vocab.txt")).save_pretrained(source)
    trainer = ScissorhandsTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(source),
        args=ScissorhandsConfig(
            output_dir=output_dir, use_cpu=True, disable_tqdm=True, report_to="none", save_strategy="no", max_steps=2,
            per_device_train_batch_size=4, learning_rate=1e-3,
        ),
        train_dataset=retain,
        forget_dataset=forget,
        processing_class=AutoTokenizer.from_pretrained(source),
    )  # fmt: skip
    trainer.train()
    trainer.args.hub_model_id = repo_id
    trainer.push_to_hub(token=token)
