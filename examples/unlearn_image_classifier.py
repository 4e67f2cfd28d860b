"""Make a fine-tuned image classifier forget a class, a person's examples, or a random share.

    python examples/unlearn_image_classifier.py \
        --model me/my-vit --dataset me/my-images --forget_where label=cat \
        --output_dir out/no-cat --recipe cifar10-random-10 --learning_rate 1e-4 --optim adamw_torch

Model and data set are Hub ids or local paths (a parquet file will do, as examples/data/fashion_mnist_train.parquet). Every
ScissorhandsConfig argument is accepted. On several devices: accelerate launch examples/unlearn_image_classifier.py ...
"""

from dataclasses import dataclass, field

from transformers import AutoImageProcessor, AutoModelForImageClassification, HfArgumentParser

from scissorhands_hf import ScissorhandsConfig
from scissorhands_hf.cli.terminal import Terminal
from scissorhands_hf.trainer.classification import image_sets, read_sets, unlearn_classifier
from scissorhands_hf.trainer.classification_data import ClassificationData


@dataclass
class ScriptArguments:
    model: str = field(metadata={"help": "Hub id or local folder of an image classifier."})
    verbose: bool = field(default=False, metadata={"help": "Show the libraries' bars, losses and warnings."})


def main() -> None:
    parser = HfArgumentParser((ScriptArguments, ClassificationData, ScissorhandsConfig))
    script, data, args = parser.parse_args_into_dataclasses()
    with Terminal(script.verbose) as terminal:
        args.disable_tqdm = terminal.quiet
        args.remove_unused_columns = False  # images become pixel_values only when a batch is read
        with terminal.stage("load"):
            sets, choice = read_sets(data, args.seed)
            processor = AutoImageProcessor.from_pretrained(script.model)
            model = AutoModelForImageClassification.from_pretrained(script.model)
            sets = image_sets(sets, processor, model, data)
        report = unlearn_classifier(model, args, processor, sets, choice, callback=terminal.tell)
        terminal.show(report)


if __name__ == "__main__":
    main()
