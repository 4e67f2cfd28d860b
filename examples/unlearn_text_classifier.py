"""Make a fine-tuned text classifier forget the documents of a deletion request, a label, or a random share.

    python examples/unlearn_text_classifier.py \
        --model me/my-bert --dataset reviews.csv --forget_where author=u4711 \
        --output_dir out/forgotten --trim_ratio 0.01 --forget_weight 0.2 --learning_rate 2e-5

Model and data set are Hub ids or local paths (csv, json or parquet). Every ScissorhandsConfig argument is accepted. On several
devices: accelerate launch examples/unlearn_text_classifier.py ...
"""

import logging
from dataclasses import dataclass, field

from transformers import AutoModelForSequenceClassification, AutoTokenizer, HfArgumentParser

from scissorhands_hf import ScissorhandsConfig
from scissorhands_hf.trainer.classification import load_examples, split_forget_retain, text_inputs, unlearn_classifier


@dataclass
class ScriptArguments:
    model: str = field(metadata={"help": "Hub id or local folder of a text classifier."})
    dataset: str = field(metadata={"help": "Hub id, local folder or file of the examples that it was trained on."})
    split: str = field(default="train", metadata={"help": "Split of the training examples."})
    test_dataset: str | None = field(default=None, metadata={"help": "Where the test examples are, if not in `dataset`."})
    test_split: str | None = field(default=None, metadata={"help": "Split of the test examples; none: no test."})
    text_column: str = field(default="text", metadata={"help": "Column with the texts."})
    label_column: str = field(default="label", metadata={"help": "Column with the class numbers."})
    max_length: int = field(default=256, metadata={"help": "Longest text in tokens; the rest is cut off."})
    forget_where: str | None = field(default=None, metadata={"help": "COLUMN=VALUE of the examples to forget."})
    forget_fraction: float | None = field(default=None, metadata={"help": "Random share to forget instead, in (0, 1)."})


def main() -> None:
    script, args = HfArgumentParser((ScriptArguments, ScissorhandsConfig)).parse_args_into_dataclasses()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("scissorhands_hf").setLevel(logging.INFO)  # what is cut, trained and projected
    tokenizer = AutoTokenizer.from_pretrained(script.model)
    model = AutoModelForSequenceClassification.from_pretrained(script.model)

    examples = load_examples(script.dataset, script.split)
    forget, retain, choice = split_forget_retain(examples, script.forget_where, script.forget_fraction, args.seed)
    sets = {"forget": forget, "retain": retain}
    if script.test_dataset or script.test_split:
        sets["test"] = load_examples(script.test_dataset or script.dataset, script.test_split or script.split)
    tokenize = text_inputs(tokenizer, script.text_column, script.label_column, script.max_length)
    with args.main_process_first(desc="tokenizing"):
        sets = {name: part.map(tokenize, batched=True, remove_columns=part.column_names) for name, part in sets.items()}
    report = unlearn_classifier(model, args, tokenizer, sets, choice)
    if args.process_index == 0:
        print(report.to_markdown())


if __name__ == "__main__":
    main()
