"""What a model's examples are, and which of them to forget; readable without torch, for commands and scripts."""

from dataclasses import dataclass, field


@dataclass
class ClassificationData:
    """
    Where the examples are that a classifier or language model was trained on, and which of them it shall forget.

    Args:
        dataset (`str`):
            Hub id, folder or file (parquet, csv, json) of the training examples.
        split (`str`, *optional*, defaults to `"train"`):
            Of the training examples.
        test_dataset (`str`, *optional*):
            Where the test examples are. Default: in `dataset`.
        test_split (`str`, *optional*):
            Of the test examples. With neither this nor `test_dataset`, nothing is tested.
        forget_where (`str`, *optional*):
            `COLUMN=VALUE` of the examples to forget; for a class label, its name or number.
        forget_fraction (`float`, *optional*):
            A random share in (0, 1) to forget instead.
        image_column, text_column, label_column (`str`, *optional*, default to `"image"`, `"text"`, `"label"`):
            Columns of a classifier's images or texts, and of the class numbers. A language model's rows are known by their
            columns, see [`ScissorhandsTrainer`].
        general (`str`, *optional*):
            Of a language model: a file (.txt with a text in each line, .jsonl, .json, .csv, .parquet) or data set of texts that
            have nothing to do with the examples, for the perplexity.
    """

    dataset: str = field(
        metadata={"help": "Hub id, folder or file (parquet, csv, json) of the examples that it was trained on; required"}
    )
    split: str = field(default="train", metadata={"help": "split of the training examples"})
    test_dataset: str | None = field(default=None, metadata={"help": "where the test examples are, if not in dataset"})
    test_split: str | None = field(
        default=None, metadata={"help": "split of the test examples; without it and test_dataset nothing is tested"}
    )
    forget_where: str | None = field(default=None, metadata={"help": "COLUMN=VALUE of the examples to forget"})
    forget_fraction: float | None = field(default=None, metadata={"help": "random share to forget instead, in (0, 1)"})
    image_column: str = field(default="image", metadata={"help": "column with the images"})
    text_column: str = field(default="text", metadata={"help": "column with the texts"})
    label_column: str = field(default="label", metadata={"help": "column with the class numbers"})
    general: str | None = field(
        default=None, metadata={"help": "of a language model: a file of other texts (.txt: one a line), for the perplexity"}
    )
