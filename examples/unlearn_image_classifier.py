"""Make a fine-tuned image classifier forget a class, a person's examples, or a random share.

    python examples/unlearn_image_classifier.py \
        --model me/my-vit --dataset me/my-images --forget_where label=cat \
        --output_dir out/no-cat --recipe cifar10-random-10 --learning_rate 1e-4 --optim adamw_torch

Model and data set are Hub ids or local paths (a parquet file will do, as examples/data/fashion_mnist_train.parquet). Every
ScissorhandsConfig argument is accepted. On several devices: accelerate launch examples/unlearn_image_classifier.py ...
"""

import logging
from dataclasses import dataclass, field

from transformers import AutoImageProcessor, AutoModelForImageClassification, HfArgumentParser

from scissorhands_hf import ScissorhandsConfig
from scissorhands_hf.trainer.classification import image_inputs, load_examples, split_forget_retain, unlearn_classifier


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

    examples = load_examples(script.dataset, script.split)
    forget, retain, choice = split_forget_retain(examples, script.forget_where, script.forget_fraction, args.seed)
    sets = {"forget": forget, "retain": retain}
    if script.test_dataset or script.test_split:
        sets["test"] = load_examples(script.test_dataset or script.dataset, script.test_split or script.split)
    to_inputs = image_inputs(processor, model, script.image_column, script.label_column)
    sets = {name: dataset.with_transform(to_inputs) for name, dataset in sets.items()}
    report = unlearn_classifier(model, args, processor, sets, choice)
    if args.process_index == 0:
        print(report.to_markdown())


if __name__ == "__main__":
    main()
