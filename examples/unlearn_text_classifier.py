"""Make a fine-tuned text classifier forget the documents of a deletion request, a label, or a random share.

    python examples/unlearn_text_classifier.py \
        --model me/my-bert --dataset reviews.csv --forget_where author=u4711 \
        --output_dir out/forgotten --trim_ratio 0.01 --forget_weight 0.2 --learning_rate 2e-5

Model and data set are Hub ids or local paths (csv, json or parquet). Every ScissorhandsConfig argument is accepted. On several
devices: accelerate launch examples/unlearn_text_classifier.py ...
"""

from dataclasses import dataclass, field

from transformers import AutoModelForSequenceClassification, AutoTokenizer, HfArgumentParser

from scissorhands_hf import ScissorhandsConfig
from scissorhands_hf.cli.terminal import Terminal
from scissorhands_hf.trainer.classification import read_sets, text_sets, unlearn_classifier
from scissorhands_hf.trainer.classification_data import ClassificationData


@dataclass
class ScriptArguments:
    model: str = field(metadata={"help": "Hub id or local folder of a text classifier."})
    verbose: bool = field(default=False, metadata={"help": "Show the libraries' bars, losses and warnings."})


def main() -> None:
    parser = HfArgumentParser((ScriptArguments, ClassificationData, ScissorhandsConfig))
    script, data, args = parser.parse_args_into_dataclasses()
    with Terminal(script.verbose) as terminal:
        args.disable_tqdm = terminal.quiet
        with terminal.stage("load"):
            sets, choice = read_sets(data, args.seed)
            tokenizer = AutoTokenizer.from_pretrained(script.model)
            model = AutoModelForSequenceClassification.from_pretrained(script.model)
            sets = text_sets(sets, tokenizer, data, args)
        report = unlearn_classifier(model, args, tokenizer, sets, choice, callback=terminal.tell)
        terminal.show(report)


if __name__ == "__main__":
    main()
