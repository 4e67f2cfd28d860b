"""What a language model is audited on, and how, with the defaults of the benchmarks; readable without torch."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LanguageAuditSettings:
    """
    How a language model is audited.

    Args:
        batch_size (`int`, *optional*, defaults to 16):
            Texts at a time, at most.
        max_length (`int`, *optional*, defaults to 1024):
            In tokens, 8 at least; longer rows are cut at their end.
        max_new_tokens (`int`, *optional*, defaults to 200):
            Of an answer; 200 is TOFU's. With the recall of ROUGE-L, longer answers score higher.
        min_k (`float`, *optional*, defaults to 0.4):
            Share of tokens of the Min-K attacks, above 0 and at most 1.
        muse (`bool`, *optional*, defaults to `False`):
            Also ask questions by MUSE's own prompt, for KnowMem, and compare completions for VerbMem.
        relearn_steps (`int`, *optional*, defaults to 10):
            Of training on some forget pairs; 0 leaves it out.
        relearn_examples (`int`, *optional*):
            How many pairs that are; default: a quarter of them.
        relearn_learning_rate (`float`, *optional*, defaults to 5e-5):
            Of AdamW.
        rounding (`list[int]`, *optional*, defaults to `[8, 4]`):
            Bits to round linear weights to, one run each: 8 and 4; `[0]` or `[]` rounds nothing.
        examples (`int`, *optional*, defaults to 0):
            Forget questions to put into the report with the answers of each model. They are forget data.
        seed (`int`, *optional*, defaults to 0):
            Of the choice of pairs that are taught again.

    Raises:
        ValueError: a value that cannot be.
    """

    batch_size: int = field(default=16, metadata={"help": "texts at a time, at most"})
    max_length: int = field(default=1024, metadata={"help": "in tokens; longer rows are cut at their end"})
    max_new_tokens: int = field(default=200, metadata={"help": "of an answer; 200 is TOFU's"})
    min_k: float = field(default=0.4, metadata={"help": "share of tokens of the Min-K attacks"})
    muse: bool = field(default=False, metadata={"help": "also ask by MUSE's own prompt, for VerbMem and KnowMem"})
    relearn_steps: int = field(default=10, metadata={"help": "of training on some forget pairs; 0 leaves it out"})
    relearn_examples: int | None = field(
        default=None, metadata={"help": "pairs that are taught again; default: a quarter of them"}
    )
    relearn_learning_rate: float = field(default=5e-5, metadata={"help": "of AdamW"})
    rounding: list[int] = field(
        default_factory=lambda: [8, 4],
        metadata={"help": "bits to round linear weights to, one run each; default: 8 4; 0: none"},
    )
    examples: int = field(default=0, metadata={"help": "forget questions to show in the report, with answers: forget data"})
    seed: int = field(default=0, metadata={"help": "of the choice of pairs that are taught again"})

    def __post_init__(self) -> None:
        wholes = {"batch_size": 1, "max_length": 8, "max_new_tokens": 1, "relearn_steps": 0, "examples": 0, "seed": 0}
        for name, least in wholes.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}={value!r} is not a whole number of at least {least}")
        if self.relearn_examples is not None and (not isinstance(self.relearn_examples, int) or self.relearn_examples < 1):
            raise ValueError(f"relearn_examples={self.relearn_examples!r} is not a whole number of at least 1")
        if not 0 < self.min_k <= 1:
            raise ValueError(f"min_k={self.min_k!r} is not a share above 0 and at most 1, such as 0.4")
        if not self.relearn_learning_rate > 0:
            raise ValueError(f"relearn_learning_rate={self.relearn_learning_rate!r} is not above 0")
        object.__setattr__(self, "rounding", [bits for bits in self.rounding if bits != 0])
        if any(bits not in (8, 4) for bits in self.rounding):
            raise ValueError(
                f"rounding={self.rounding!r} holds something else than 8 and 4, the bits that weights are rounded to"
            )


@dataclass
class LanguageAuditData:
    """
    Where everything is that an audit by the command line compares. Rows are named as `SOURCE` or `SOURCE?COLUMN=VALUE`; a
    source is a file (.jsonl, .json, .csv, .parquet, .txt), or a data set as `ID`, `ID:CONFIG` or `ID:CONFIG@SPLIT`.

    Args:
        forget, retain (`str`):
            What was to be forgotten, and what was to stay.
        general (`str`, *optional*):
            Other texts, for perplexity and repetition.
        holdout (`str`, *optional*):
            Rows of the forget set's kind that no model learned, for membership attacks.
        original, retrained, reference (`str`, *optional*):
            Hub ids or folders of the model before, of one that was trained without the forget set, and of one to compare with
            in the reference attack.
    """

    forget: str = field(metadata={"help": "rows that were to be forgotten: SOURCE or SOURCE?COLUMN=VALUE; required"})
    retain: str = field(metadata={"help": "rows that were to stay, named in the same way; required"})
    general: str | None = field(default=None, metadata={"help": "other texts, for perplexity and repetition"})
    holdout: str | None = field(
        default=None, metadata={"help": "rows of the forget set's kind that no model learned, for membership attacks"}
    )
    original: str | None = field(default=None, metadata={"help": "Hub id or folder of the model before"})
    retrained: str | None = field(
        default=None, metadata={"help": "Hub id or folder of a model that was trained without the forget set"}
    )
    reference: str | None = field(
        default=None, metadata={"help": "Hub id or folder of the model of the reference attack; default: retrained"}
    )
