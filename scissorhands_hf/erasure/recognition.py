"""Which pictures show what is erased, as the model sees it, and how sure it is of it at each noise."""

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from .objectives import capped_odds, taken_for_others, without_concept
from .posterior import Posterior, gains_by_words


if TYPE_CHECKING:  # which imports this file
    from .material import Material
    from .request import ErasureRequest

logger = logging.getLogger(__name__)

Predict = Callable[[dict[str, Tensor], Tensor], Tensor]

# To the neighbours and beyond, where it is not said how far: what is learned falls short of its target.
REACH = 3.0
# Kept pictures that show a concept with this probability or more are not kept.
SHOWS = 0.5


@dataclass
class Recognition:
    """
    Posteriors of a run's pictures, with the original denoiser.

    Args:
        own (`list[Posterior]`):
            Of each concept's pictures.
        others (`list[Posterior]`):
            For each concept, of the retain pictures.
        concept_of (`Tensor`):
            Which concept each forget picture is of, int64.
        words (`Tensor`):
            The row of each concept's first prompt, int64.
        empty (`int`):
            The empty prompt's row.
        shown (`Tensor`):
            Retain pictures that show a concept rather than what they were asked for, bool.
        cap (`float`):
            Of the odds η.
        strength (`float`, *optional*):
            Of the way to the stand-ins, where there are some; else a constant η in the place of the odds.
        stand_ins (`dict[int, Tensor]`):
            For the row of each of the concepts' prompts those of the prompts for what it is to be taken for, int64 (m,), the
            same number for each. Empty: Bayes' rule tells.
    """

    own: list[Posterior]
    others: list[Posterior]
    concept_of: Tensor
    words: Tensor
    empty: int
    shown: Tensor
    cap: float
    strength: float | None = None
    stand_ins: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, request: "ErasureRequest", material: "Material") -> Self:
        """Ask the denoiser, which is the original, about all pictures."""
        family, table, args = request.family, material.table, request.args
        names = list(request.prompts.asking)
        concept_of = torch.arange(len(material.forget_latents)) % len(names)
        words = torch.tensor([table.rows[prompts[0]] for prompts in request.prompts.asking.values()])
        asked = torch.tensor([table.rows[text] for text in material.forget_texts])
        noise = family.noise_process()
        own, others = [], []
        kept = material.retain_latents
        named = torch.tensor([table.rows[text] for text in material.retain_texts])
        shown = torch.zeros(len(kept), dtype=torch.bool)
        family.denoiser.eval()
        for number in range(len(names)):
            mine = concept_of == number
            pictures = material.forget_latents[mine.to(material.forget_latents.device)]
            times, gains = gains_by_words(family, table, pictures, asked[mine], args.seed * 8 + 5)
            own.append(Posterior(noise, times, gains))
            by_concept = gains_by_words(family, table, kept, words[number].expand(len(kept)), args.seed * 8 + 6)[1]
            others.append(Posterior(noise, times, by_concept, own[-1]))
            likely = others[-1].without_noise() >= SHOWS
            doubtful = likely & (named != table.rows[""])
            if doubtful.any():
                # If its own words say more of a picture than the concept's, it shows what they say.
                chosen = kept[doubtful.to(kept.device)]
                evidence = []
                for asked_for in (words[number].expand(len(chosen)), named[doubtful]):
                    gains = gains_by_words(family, table, chosen, asked_for, args.seed * 8 + 7)[1]
                    evidence.append(Posterior(noise, times, gains, own[-1]).evidence)
                likely[doubtful] = evidence[0] > evidence[1]
            shown |= likely
        stand_ins = {}
        if args.removal_target == "neighbours":
            stand_ins = stand_in_rows(request.prompts.others, table.rows)
        return cls(own, others, concept_of, words, table.rows[""], shown, args.removal_cap, args.removal_strength, stand_ins)

    def kept_alone(self, material: "Material") -> "Material":
        """The material without the retain pictures that show a concept; this object then speaks of those that are left.

        Where most of them seem to show it, the model's losses cannot tell: then all are kept as the original sees them.
        """
        kept = ~self.shown
        gone = int((~kept).sum())
        if 2 * gone > len(kept):
            logger.warning(
                "To the model %s of %s pictures to keep show what is erased as surely as its own pictures do, so it cannot "
                "tell them apart: all are kept. Does it know the name, and are there no pictures of it among retain_images?",
                gone,
                len(kept),
            )
            for posterior in self.others:
                posterior.log_values = torch.full_like(posterior.log_values, -100.0)  # as good as impossible
            return material
        if gone:
            logger.info("%s of %s pictures to keep show what is erased, to the model; they are not kept", gone, len(kept))
        for posterior in self.others:
            posterior.log_values = posterior.log_values[kept]
        self.shown = self.shown[kept]
        texts = [text for text, keep in zip(material.retain_texts, kept.tolist(), strict=True) if keep]
        latents = material.retain_latents[kept.to(material.retain_latents.device)]
        return dataclasses.replace(material, retain_latents=latents, retain_texts=texts)

    def forget_target(self, batch: dict[str, Tensor], predict: Predict) -> Tensor:
        """What the original would say of noisy forget pictures had it not seen the concept.

        Args:
            batch (`dict[str, Tensor]`):
                n collated [`NoisyExamples`].
            predict (`Callable[[dict[str, Tensor], Tensor], Tensor]`):
                The original's predictions for a batch under the prompts of some rows, int64 (n,).
        """
        empty = predict(batch, torch.full_like(batch["prompt"], self.empty))
        words = predict(batch, batch["words"])
        if self.constant:
            return without_concept(words, empty, self.strength)
        concepts = self.concept_of[batch["picture"].cpu()]
        values = torch.stack([posterior.at(batch["timesteps"]) for posterior in self.own]).gather(0, concepts[None])[0]
        if not self.stand_ins:
            return without_concept(words, empty, capped_odds(values, self.cap))
        none = torch.full_like(batch["words"], self.empty)
        others = self._others(batch, batch["words"], none, predict)
        return taken_for_others(words, empty, others, values.exp(), self.reach)

    def kept_target(self, batch: dict[str, Tensor], predict: Predict) -> Tensor:
        """What the original says of noisy retain pictures; without words, what it would say had it not seen the concept that
        they may show: of much noise, anything. With neighbours known, a picture that has words of its own shows what they say.
        """
        target = predict(batch, batch["prompt"])
        asked = batch["prompt"] == self.empty
        if not asked.any() or self.constant:
            return target
        part = _rows_of(batch, asked)
        values = torch.stack([posterior.at(part["timesteps"], part["picture"].cpu()) for posterior in self.others])
        likely, number = values.max(0)
        concept = self.words[number].to(part["prompt"].device)
        words = predict(part, concept)
        if self.stand_ins:
            others = self._others(part, concept, part["words"], predict)
            target[asked] = taken_for_others(words, target[asked], others, likely.exp())
        else:
            target[asked] = without_concept(words, target[asked], capped_odds(likely, self.cap))
        return target

    @property
    def constant(self) -> bool:
        """Whether the odds are not asked for."""
        return not self.stand_ins and self.strength is not None

    @property
    def reach(self) -> float:
        """How far the way to the stand-ins is gone."""
        return REACH if self.strength is None else self.strength

    def _others(self, batch: dict[str, Tensor], concept: Tensor, words: Tensor, predict: Predict) -> Tensor:
        """The mean of predictions under what pictures are to be taken for: by words of their own, int64 rows (n,), or, where
        these are the empty prompt, by what is nearest a concept, given the row of its prompt, (n,)."""
        named = words != self.empty
        found = []
        if named.any():
            found.append(predict(_rows_of(batch, named), words[named]))
        if not named.all():
            rest = _rows_of(batch, ~named)
            rows = torch.stack([self.stand_ins[int(row)] for row in concept[~named]]).to(words.device)
            found.append(torch.stack([predict(rest, column) for column in rows.unbind(1)]).mean(0))
        together = torch.cat(found)
        places = torch.cat([named.nonzero()[:, 0], (~named).nonzero()[:, 0]])
        return together[places.argsort().to(together.device)]


def _rows_of(batch: dict[str, Tensor], wanted: Tensor) -> dict[str, Tensor]:
    """The examples of a batch that are `wanted`, bool (n,)."""
    return {name: value[wanted.to(value.device)] for name, value in batch.items()}


def stand_in_rows(others: dict[str, list[str]], rows: dict[str, int]) -> dict[int, Tensor]:
    """For the row of each prompt that is in the table those of the prompts in its place; the shorter lists begin again."""
    most = max((len(texts) for prompt, texts in others.items() if prompt in rows), default=0)
    return {
        rows[prompt]: torch.tensor([rows[texts[number % len(texts)]] for number in range(most)])
        for prompt, texts in others.items()
        if prompt in rows and all(text in rows for text in texts)
    }
