"""Runs of the objective "removal" on tiny pipelines, and what they are made from."""

from scissorhands_hf.erasure.material import gather_material, make_examples
from scissorhands_hf.erasure.request import ErasureRequest
from scissorhands_hf.trainer.run_progress import Reporter


QUICK = {
    "forget_objective": "removal",
    "max_steps": 4,
    "evaluations": 2,
    "pictures_per_concept": 3,
    "retain_pictures": 5,
    "per_device_train_batch_size": 4,
    "evaluation_examples": 16,
    "adversarial_every": 2,
    "adversarial_steps": 2,
    "disable_tqdm": True,
}
SAMPLING = {"num_inference_steps": 2, "height": 32, "width": 32}


def prepare(pipe, **settings):
    config = {**QUICK, "seed": 3, **settings}
    request = ErasureRequest(pipe, "dress", keep=["coat"], sampling=SAMPLING, config=config)
    material = gather_material(request, Reporter(None, 0.0))
    return request, material, make_examples(request, material, Reporter(None, 0.0))
