"""Make a fine-tuned image classifier forget a class, a person's examples, or a random share.

    python examples/unlearn_image_classifier.py \
        --model me/my-vit --dataset me/my-images --forget_where label=cat \
        --output_dir out/no-cat --recipe cifar10-random-10 --learning_rate 1e-4 --optim adamw_torch

Model and data set are Hub ids or local paths (a parquet file will do, as examples/data/fashion_mnist_train.parquet). Every
ScissorhandsConfig argument is accepted. On several devices: accelerate launch examples/unlearn_image_classifier.py ...
"""

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers import AutoImageProcessor, AutoModelForImageClassification, HfArgumentParser
from unlearning_common import accuracy, load_examples, print_and_save_report, split_forget_retain

from scissorhands_hf import ScissorhandsConfig, ScissorhandsTrainer


@dataclass
class ScriptArguments:
    model: str = field(metadata={"help": "Hub id or local folder of an image classifier."})
    dataset: str = field(metadata={"help": "Hub id, local folder or file of the examples that it was trained on."})
    split: str = field(default="train", metadata={"help": "Split of the training examples."})
    test_dataset: str | None = field(default=None, metadata={"help": "Where the test examples are, if not in `dataset`."})
    test_split: str | None = field(default=None, metadata={"help": "Split of the test examples; none: no test."})
    image_column: str = field(default="image", metadata={"help": "Column with the images."})
    label_column: str = field(default="label", metadata={"help": "Column with the class numbers."})
    forget_where: str | None = field(default=None, metadata={"help": "COLUMN=VALUE of the examples to forget."})
    forget_fraction: float | None = field(default=None, metadata={"help": "Random share to forget instead, in (0, 1)."})


def main() -> None:
    script, args = HfArgumentParser((ScriptArguments, ScissorhandsConfig)).parse_args_into_dataclasses()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("scissorhands_hf").setLevel(logging.INFO)  # what is cut, trained and projected
    args.remove_unused_columns = False  # images become pixel_values only when a batch is read
    processor = AutoImageProcessor.from_pretrained(script.model)
    model = AutoModelForImageClassification.from_pretrained(script.model)

    def to_inputs(batch: dict[str, Any]) -> dict[str, Any]:
        mode = {1: "L", 4: "RGBA"}.get(getattr(model.config, "num_channels", 3), "RGB")
        images = [image.convert(mode) for image in batch[script.image_column]]
        if mode == "L":  # image processors expect the axis of channels
            images = [np.asarray(image)[..., None] for image in images]
        inputs = processor(images, return_tensors="pt", **({"input_data_format": "channels_last"} if mode == "L" else {}))
        return {"pixel_values": inputs["pixel_values"], "labels": batch[script.label_column]}

    examples = load_examples(script.dataset, script.split)
    forget, retain, choice = split_forget_retain(examples, script.forget_where, script.forget_fraction, args.seed)
    sets = {"forget": forget, "retain": retain}
    if script.test_dataset or script.test_split:
        sets["test"] = load_examples(script.test_dataset or script.dataset, script.test_split or script.split)
    sets = {name: dataset.with_transform(to_inputs) for name, dataset in sets.items()}

    trainer = ScissorhandsTrainer(
        model=model,
        args=args,
        train_dataset=sets["retain"],
        forget_dataset=sets["forget"],
        eval_dataset=sets,
        processing_class=processor,
        compute_metrics=accuracy,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    trainer.save_model()
    if trainer.is_world_process_zero():
        print_and_save_report(trainer, before, after, choice)


if __name__ == "__main__":
    main()
