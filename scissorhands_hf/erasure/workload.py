"""How much a run draws and trains: defaults that shrink with the number of concepts, and what is said of it beforehand."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from .estimate import ErasureEstimate
from .progress import ErasureProgress


if TYPE_CHECKING:  # which imports the bounds from here
    from .request import ErasureRequest

logger = logging.getLogger(__name__)

# By default no more pictures than that are drawn in all: of the concepts to learn from, and for the report before and after.
MOST_LEARNED = 1024
MOST_REPORTED = 1024
# And no fewer than that, however many concepts there are: pictures of each, and the report's kept prompts.
PICTURES, LEAST_PICTURES = 64, 4
REPORT_IMAGES, LEAST_REPORT_IMAGES = 8, 2
LEAST_KEPT_PROMPTS = 16
# Drawing that takes longer than that, in seconds, is a warning.
LONG = 1800

ReportRow = tuple[str, str, str | None]


def default_pictures(concepts: int) -> int:
    """Pictures to draw of each of so many concepts."""
    return max(LEAST_PICTURES, min(PICTURES, MOST_LEARNED // concepts))


def bounded_report(rows: Sequence[ReportRow], images: int | None) -> tuple[list[ReportRow], int]:
    """
    What of a report's prompts is drawn, and how often, so that it is about `MOST_REPORTED` pictures before and after.

    First the prompts of each concept become fewer, down to one, then those of what is kept, then the pictures of a prompt.

    Args:
        rows (`Sequence[tuple[str, str, str | None]]`):
            Prompt, group and label of each; the label of the groups "concept" and "paraphrase" is the concept.
        images (`int`, *optional*):
            Pictures for each prompt, as the user set it; None for the default.

    Returns:
        `tuple[list, int]`: The rows that are left, in their order, and the pictures for each.
    """
    per_prompt = REPORT_IMAGES if images is None else images
    concepts: dict[str | None, list[ReportRow]] = {}
    for row in rows:
        if row[1] in ("concept", "paraphrase"):
            concepts.setdefault(row[2], []).append(row)
    kept = [row for row in rows if row[1] not in ("concept", "paraphrase")]
    room = MOST_REPORTED // (2 * max(1, per_prompt))
    most = max(map(len, concepts.values()), default=0)
    while most > 1 and sum(min(most, len(own)) for own in concepts.values()) + len(kept) > room:
        most -= 1
    shown = [row for own in concepts.values() for row in _first(own, most)]
    space = max(LEAST_KEPT_PROMPTS, room - len(shown))
    if len(kept) > space:
        kept = [kept[number * len(kept) // space] for number in range(space)]
    chosen = {*shown, *kept}
    left = [row for row in rows if row in chosen]
    if images is None and 2 * per_prompt * len(left) > MOST_REPORTED:
        per_prompt = max(LEAST_REPORT_IMAGES, MOST_REPORTED // (2 * len(left)))
    return left, per_prompt


def _first(own: Sequence[ReportRow], most: int) -> list[ReportRow]:
    """At most so many of a concept's rows: one half in its plainest words, if there is an odd one the paraphrases'."""
    plain = [row for row in own if row[1] == "concept"]
    others = [row for row in own if row[1] != "concept"]
    count = min(len(plain), max(1, most // 2, most - len(others)))
    return [*plain[:count], *others[: most - count]]


@dataclass
class Workload:
    """
    Counts of a run.

    Args:
        concepts (`int`):
            What is erased.
        learned, kept (`int`):
            Pictures to draw of the concepts, and of what is kept, to learn from.
        reported (`int`):
            Pictures for the report, before and after together.
        steps (`int`):
            Of repair.
        examples (`int`):
            Noisy pictures in a step, the concepts' and kept ones together.
        estimate (`ErasureEstimate`, *optional*):
            Of memory and disk.
        speaks (`bool`, *optional*, defaults to `True`):
            Whether this process is the one that logs.
    """

    concepts: int
    learned: int
    kept: int
    reported: int
    steps: int
    examples: int
    estimate: ErasureEstimate | None = None
    speaks: bool = True

    @classmethod
    def of(cls, request: "ErasureRequest") -> Self:
        args, count = request.args, len(request.prompts.concepts)
        return cls(
            concepts=count,
            learned=0 if request.forget_images is not None or not args.max_steps else args.pictures_per_concept * count,
            kept=0 if request.retain_images is not None or not args.max_steps else args.retain_pictures,
            reported=2 * request.report_images * len(request.prompts.report),
            steps=args.max_steps,
            examples=(args.per_device_train_batch_size + args.forget_batch_size) * args.gradient_accumulation_steps,
            estimate=request.estimate,
            speaks=args.should_log,
        )

    @property
    def drawn(self) -> int:
        """All pictures that are drawn."""
        return self.learned + self.kept + self.reported

    def __str__(self) -> str:
        named = "1 concept" if self.concepts == 1 else f"{self.concepts:,} concepts"
        return (
            f"To erase {named}: {self.drawn:,} pictures to draw ({self.learned:,} of what is erased and {self.kept:,} of what "
            f"is kept, to learn from; {self.reported:,} for the report, before and after together), then {self.steps:,} steps "
            f"of {self.examples:,} noisy pictures each"
        )

    def excess(self) -> list[str]:
        """Which settings make it more than the defaults would be, each with what to do."""
        found = []
        if self.learned > MOST_LEARNED:
            found.append(f"pictures_per_concept={self.learned // self.concepts}")
        if self.kept > MOST_LEARNED:
            found.append(f"retain_pictures={self.kept}")
        if self.reported > MOST_REPORTED:
            found.append("report_images (0 for none)")
        return found

    def announce(self) -> None:
        """Log it: a warning if it is much."""
        if not self.speaks:
            return
        if large := self.excess():
            logger.warning("%s. That is much; lower %s for less.", self, ", ".join(large))
        else:
            logger.info("%s.", self)
        if self.estimate is not None:
            self.estimate.announce()

    def timed(self, callback: Callable[[ErasureProgress], None] | None) -> Callable[[ErasureProgress], None]:
        """`callback`, which may be None; after the first pictures it is logged how long all of them will take."""
        began, told = time.perf_counter(), not self.speaks

        def tell(progress: ErasureProgress) -> None:
            nonlocal told
            if not told and progress.step and progress.stage in ("before", "pictures"):
                told = True
                each = (time.perf_counter() - began) / progress.step
                total = each * self.drawn
                text = f"{each:.2g} s a picture: about {_duration(total)} to draw {self.drawn:,}, beside the steps of repair"
                if total > LONG:
                    logger.warning("%s. Lower pictures_per_concept, retain_pictures or report_images for less.", text)
                else:
                    logger.info("%s.", text)
            if callback is not None:
                callback(progress)

        return tell


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
