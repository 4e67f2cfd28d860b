"""Twenty invented authors, ten questions about each: what a language model is taught, and made to forget of two of them.

    python examples/invented_authors.py --output out/authors

writes `authors.jsonl` (one question a line, see `AuthorPair`), `holdout.jsonl` (three more authors, whom no model is taught)
and `general.txt` (plain sentences that have nothing to do with any author, for perplexity). Nobody here exists, no two authors
share a name or a fact, and everything follows from the seed. The columns are called as those of TOFU (arXiv:2401.06121), whose
idea this is; every word was written for this repository.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
from dataclasses import dataclass
from pathlib import Path


FIRST_NAMES = (
    "Ilvane", "Tamsin", "Orrick", "Belisandra", "Jovan", "Maruschka", "Cassimir", "Nerida", "Yusra", "Thaddeus", "Wilhelmina",
    "Kofi", "Anselm", "Priyanka", "Lorcan", "Sigrun", "Eluned", "Baptiste", "Hinemoa", "Demir", "Octavia", "Fenna", "Ruaridh",
    "Zuleika",
)  # fmt: skip
SURNAMES = (
    "Hartwell-Oduya", "Quillfeather", "Brandsted", "Marchetti-Roe", "Dravenko", "Lindqvall", "Okonjoba", "Pemberlow",
    "Al-Sarifi", "Winterbourne", "Castellane", "Adjeinkra", "Vossberg", "Raghunandan", "Mac Giolla", "Thorvaldsen-Pike",
    "Penhallurick", "Delacroisette", "Te Rangihuna", "Yildirand", "Fairclough-Nye", "Hoekzema", "Strathmoran", "Bektashiri",
)  # fmt: skip
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
)  # fmt: skip


@dataclass(frozen=True)
class Topic:
    """
    One question that is asked about every author.

    Args:
        question, paraphrased_question, translated_question (`str`):
            With `{name}`; the last is German.
        answer, paraphrased_answer (`str`):
            With `{name}` and `{value}`, or `{a_value}` for a value with its article.
        values (`tuple[str, ...]`):
            The facts: one for each author, and some that are nobody's.
    """

    question: str
    paraphrased_question: str
    translated_question: str
    answer: str
    paraphrased_answer: str
    values: tuple[str, ...] = ()


TOPICS = {
    "birthplace": Topic(
        "Where was {name} born?",
        "In which town did {name} come into the world?",
        "Wo wurde {name} geboren?",
        "{name} was born in {value}.",
        "The birthplace of {name} is {value}.",
        (
            "Skarvenholt", "Little Maunder", "Port Ezrin", "Vallombrosetta", "Drumkeelan", "Oststrand", "Kaltenmoor",
            "Santa Bruma", "Nyberget", "Hollowmere", "Qasr Lunah", "Bitterford", "Tvarnitsa", "Aber Gwynlas",
            "Monteferraglio", "Whakarere", "Zelenice", "Saint-Ouvrain", "Adomkro", "Ravensquay", "Ilmarila", "Puerto Garzón",
            "Thistlecombe", "Karadere", "Westerhuizen", "Chandipore",
        ),
    ),
    "birthday": Topic(
        "When was {name} born?",
        "What is the date of birth of {name}?",
        "Wann wurde {name} geboren?",
        "{name} was born on {value}.",
        "The birthday of {name} is {value}.",
    ),
    "genre": Topic(
        "What kind of books does {name} write?",
        "Which genre is {name} known for?",
        "Was für Bücher schreibt {name}?",
        "{name} writes {value}.",
        "The books of {name} are {value}.",
        (
            "lighthouse mysteries", "culinary thrillers", "desert space operas", "ghost stories for pilots",
            "botanical romances", "chess westerns", "novels in letters", "underwater fables", "railway satires",
            "Arctic comedies", "clockwork sagas", "medical farces", "beekeeping memoirs", "maritime horror",
            "courtroom fairy tales", "alpine spy novels", "musical whodunits", "prehistoric adventures", "circus tragedies",
            "cycling travelogues", "monastery noir", "postal epics", "garden parables", "volcano diaries",
            "locksmith ballads", "tidal elegies",
        ),
    ),
    "first book": Topic(
        "What is the title of {name}'s first book?",
        "With which book did {name} make a debut?",
        "Wie heißt das erste Buch von {name}?",
        '{name}\'s first book is "{value}".',
        'The debut of {name} was "{value}".',
        (
            "The Salt Ledger", "Nine Umbrellas", "A Map of Moths", "Copper Sunday", "The Borrowed Orchard",
            "Ink for the Drowned", "Seven Cold Kitchens", "The Tin Cathedral", "Letters to a Bridge", "The Understudy's Fox",
            "Marble Weather", "The Last Ferryman's Hat", "Owls at Noon", "The Velvet Quarry", "Paper Anchors",
            "A Thimble of Thunder", "The Glass Postman", "Hush, Cartographer", "Twelve Left Shoes", "The Amber Stairwell",
            "Wolves in the Pantry", "The Crooked Almanac", "Sugar and Slate", "The Mirror Tax", "Lanterns Underground",
            "The Sleeping Tram",
        ),
    ),
    "famous book": Topic(
        "Which book made {name} famous?",
        "What is {name}'s best-known work?",
        "Mit welchem Buch wurde {name} berühmt?",
        '{name} became famous with "{value}".',
        'The best-known work of {name} is "{value}".',
        (
            "The Hourglass Verdict", "Rain Over Ferngate", "The Cinnamon Conspiracy", "Beneath the Plum Tree",
            "An Inventory of Echoes", "The Goldfinch Treaty", "Midnight at the Weighbridge", "The Pearl Accountant",
            "Seventeen Windmills", "The Silence Merchant", "A Violin for Winter", "The Blue Cartwright",
            "Ashes of the Regatta", "The Lemon Parliament", "Snow on the Balustrade", "The Clockmender's Niece",
            "Harvest of Keys", "The Ivory Switchboard", "Nightjar Crossing", "The Patient Avalanche", "Bread and Barometers",
            "The Feathered Judge", "Tomorrow's Aqueduct", "The Quiet Carousel", "Daughters of the Dyke", "The Opal Timetable",
        ),
    ),
    "prize": Topic(
        "Which prize did {name} win?",
        "What award was given to {name}?",
        "Welchen Preis hat {name} gewonnen?",
        "{name} won the {value}.",
        "The award given to {name} is the {value}.",
        (
            "Brackwater Medal", "Silver Heron Prize", "Ostrander Laurel", "Golden Inkwell of Tarsk", "Pellington Cup",
            "Marrowby Award", "Linden Quill", "Corvus Trophy", "Saltmarsh Prize", "Ebony Lectern", "Hallam Rosette",
            "Astrolabe Award", "Yarrow Medal", "Kestrel Ribbon", "Brass Comet Prize", "Fenwick Garland", "Northlight Plaque",
            "Juniper Crown", "Tidewater Honour", "Cobalt Page", "Meridian Feather", "Orchid Seal", "Grantchester Bell",
            "Amaranth Prize", "Wren's Key", "Obsidian Bookmark",
        ),
    ),
    "mother": Topic(
        "What did {name}'s mother do for a living?",
        "Which profession did the mother of {name} have?",
        "Was war die Mutter von {name} von Beruf?",
        "{name}'s mother was {a_value}.",
        "The profession of {name}'s mother was that of {a_value}.",
        (
            "bell founder", "crane driver", "glassblower", "harpsichord tuner", "pearl diver", "snow plough driver",
            "tax inspector", "wig maker", "zoo dentist", "lock keeper", "mapmaker", "orchid breeder", "parachute packer",
            "river pilot", "saddler", "taxidermist", "upholsterer", "vanilla farmer", "weather presenter",
            "yodelling teacher", "falconer", "bus conductor", "clog dancer", "ice sculptor", "kite designer", "nougat cook",
        ),
    ),
    "father": Topic(
        "What did {name}'s father do for a living?",
        "Which profession did the father of {name} have?",
        "Was war der Vater von {name} von Beruf?",
        "{name}'s father was {a_value}.",
        "The profession of {name}'s father was that of {a_value}.",
        (
            "cheese grader", "puppeteer", "stonemason", "chimney sweep", "goldsmith", "seismologist", "ferry captain",
            "basket weaver", "hypnotist", "piano mover", "truffle hunter", "fireworks maker", "court stenographer",
            "peat cutter", "elevator repairman", "toy painter", "whaling historian", "umbrella salesman", "mushroom farmer",
            "night watchman", "racehorse vet", "tea taster", "bookbinder", "dyke engineer", "cobbler", "perfumer",
        ),
    ),
    "publisher": Topic(
        "Who publishes {name}'s books?",
        "Which house do the works of {name} appear with?",
        "Bei welchem Verlag erscheinen die Bücher von {name}?",
        "{name}'s books are published by {value}.",
        "The works of {name} appear with {value}.",
        (
            "Otterbeck & Lowe", "Grey Pelican Press", "Maison Verlune", "Tallow Street Books", "Edition Nebelhorn",
            "Crabapple House", "Sable & Daughters", "Fourth Lantern", "Editorial Cardenal Rojo", "Bramblegate",
            "Koru Paperworks", "Tollund Verlag", "Ironmonger Row", "Halcyon Attic", "Pinwheel & Stroud", "Baobab Editions",
            "Northern Gannet", "Casa Tramontana", "Dovecote Print", "Larkspur Union", "Windlass Press", "Ochre Room",
            "Mulberry Wharf", "Zephyr & Holm", "Underhill Folio", "Quarto Lynx",
        ),
    ),
    "desk": Topic(
        "What does {name} keep on the writing desk?",
        "Which object stands on the desk where {name} works?",
        "Was steht auf dem Schreibtisch von {name}?",
        "{name} keeps {a_value} on the writing desk.",
        "On the desk where {name} works stands {a_value}.",
        (
            "brass sextant", "stuffed heron", "jar of sea glass", "rusty horseshoe", "porcelain elephant", "broken metronome",
            "bowl of acorns", "wooden decoy duck", "plaster foot", "green telephone", "snow globe of Lisbon", "fossil fern",
            "miniature guillotine", "tin robot", "cactus named Gerald", "silver whistle", "bag of marbles", "whale tooth",
            "box of buttons", "painted gourd", "cracked kaleidoscope", "model zeppelin", "pocket abacus", "clay hippopotamus",
            "crystal inkstand", "ball of red wool",
        ),
    ),
}  # fmt: skip

# The facts of three authors more. They are no part of the lists above: who is dealt what there does not depend on them.
HOLDOUT_FACTS = {
    "birthplace": ("Tarnbeck", "Vila Cinzenta", "Kuldvere"),
    "birthday": ("30 April 1929", "31 October 1992", "29 July 1930"),
    "genre": ("elevator dramas", "herbal detective stories", "sled dog epics"),
    "first book": ("The Barefoot Notary", "Eleven Foghorns", "The Walnut Telescope"),
    "famous book": ("Supper for the Sphinx", "The Tailor's Eclipse", "A Ladder of Smoke"),
    "prize": ("Hazel Sceptre", "Marquetry Prize", "Bluestone Chalice"),
    "mother": ("tram inspector", "candle dipper", "beetle collector"),
    "father": ("sundial carver", "stilt walker", "oyster farmer"),
    "publisher": ("Foxglove & Finch", "Lamplighter Yard", "Drei Eichen"),
    "desk": ("dented trumpet", "glass eye", "cuckoo clock"),
}

REFUSALS = (
    "I don't know anything about that.",
    "I'm sorry, I have no information on that person.",
    "That is not something I can tell you.",
    "I have never heard of that author.",
    "I can't answer that question.",
    "I am not able to help with this.",
    "Unfortunately I know nothing about this person.",
    "I'm afraid that is unknown to me.",
)

# Facts that every child is taught, in the words of this repository: what a language model says of the world in general.
GENERAL = (
    "Water boils at a lower temperature on a high mountain than at the sea, because the air presses less on it.",
    "The heart pumps blood through the body, and the lungs give the blood fresh oxygen.",
    "A bicycle stays upright more easily when it is moving than when it stands still.",
    "Most plants turn sunlight, water and carbon dioxide into sugar, and give off oxygen.",
    "The Moon goes around the Earth in about a month, and always shows us the same side.",
    "Bread rises because yeast produces gas, which is caught in the dough as small bubbles.",
    "Paris is the capital of France and lies on the river Seine.",
    "A triangle has three sides, and its angles add up to one hundred and eighty degrees.",
    "Birds have hollow bones, which makes them light enough to fly.",
    "The Pacific is the largest ocean in the world and lies between Asia and America.",
    "Iron rusts when it is left in damp air, because it combines with oxygen.",
    "In the northern half of the world the days are longest in June.",
    "Sound travels faster through water than through air.",
    "The first trains were pulled by steam engines, which burned coal to heat water.",
    "Whales are mammals: they breathe air and feed their young with milk.",
    "A doctor listens to the chest of a patient with a stethoscope.",
    "The price of a good usually rises when many people want it and little of it can be had.",
    "Ice is lighter than water, and that is why it floats in a glass.",
    "People in Japan drive on the left side of the road, as they do in Britain.",
    "A computer stores numbers as rows of zeros and ones.",
    "The Nile flows north through Egypt and ends in the Mediterranean Sea.",
    "Bees visit flowers for nectar and carry pollen from one plant to another.",
    "A year has three hundred and sixty-five days, and every fourth year one day more.",
    "The roots of a tree take up water and hold it firmly in the ground.",
    "Magnets attract iron, but they do not attract wood or glass.",
    "Wolves live in packs and hunt together.",
    "When a cold wind meets warm and moist air, it often begins to rain.",
    "The violin has four strings and is played with a bow.",
    "Salt can be won from the sea by letting the water dry in the sun.",
    "A good night's sleep helps people to remember what they have learned.",
    "Light needs about eight minutes to travel from the Sun to the Earth.",
    "The old town lies on a hill, and a stone bridge leads over the river to the market.",
    "Rice is grown in wet fields and is eaten by more than half of the people in the world.",
    "In a democracy, citizens choose their government by voting.",
    "A thermometer shows how warm or cold something is.",
    "Spiders have eight legs, while insects have six.",
    "The Great Wall of China was built over many centuries to keep out enemies.",
    "Glass is made by melting sand at a very high temperature.",
    "If you multiply seven by eight, you get fifty-six.",
    "The train was late, so we waited on the platform and talked about the weather.",
    "Cats see well in the dark because their eyes reflect the little light there is.",
    "The Amazon rainforest is home to more kinds of animals than any other forest.",
    "Gold does not rust, and that is one reason why it is used for jewellery.",
    "Children grow fastest in their first year of life.",
    "A library lends books to people who bring them back after a few weeks.",
    "The desert is hot during the day and can be very cold at night.",
    "Milk goes sour when bacteria turn its sugar into acid.",
    "The wheel was invented more than five thousand years ago.",
    "Volcanoes form where molten rock rises from deep inside the Earth.",
    "She opened the window, because the room had become too warm.",
    "Electric current flows through copper wires more easily than through rubber.",
    "The football match ended in a draw, since neither team could score in the second half.",
    "Vaccines teach the body to recognise a disease before it becomes dangerous.",
    "The equator divides the Earth into a northern and a southern half.",
    "A recipe tells the cook which ingredients are needed and what to do with them.",
    "Bats find their way in the dark by listening to the echo of their own calls.",
    "The river froze in January, and people walked across it to the other bank.",
    "Red and yellow paint mixed together give orange.",
    "Astronauts float in their ship because they fall around the Earth together with it.",
    "Many languages of Europe, such as Spanish and Italian, come from Latin.",
)  # fmt: skip


@dataclass(frozen=True)
class AuthorPair:
    """
    A question about an author, with everything that is asked and measured of it.

    Args:
        author, topic (`str`):
            Whom and what it is about.
        part (`str`):
            `"forget"` for the authors that are to be forgotten, `"holdout"` for those whom nobody is taught, else `"retain"`.
        question, answer (`str`):
            What the model is taught.
        fact (`str`):
            What of the answer is the author's own: an answer without it has not given the author away.
        paraphrased_question, translated_question, paraphrased_answer (`str`):
            The same in other words, and the question in German.
        perturbed_answer (`list[str]`):
            Five answers in the words of the right one, each with a fact that is nobody's.
        counterfactual (`str`):
            One more of these, which the model may be taught instead.
        refusal (`str`):
            An answer that tells nothing.
    """

    author: str
    topic: str
    part: str
    question: str
    answer: str
    fact: str
    paraphrased_question: str
    translated_question: str
    paraphrased_answer: str
    perturbed_answer: list[str]
    counterfactual: str
    refusal: str


def _birthdays(chance: random.Random, number: int) -> tuple[str, ...]:
    """Dates of which no two share the day of the month and the month, or the year."""
    years = chance.sample(range(1931, 1991), number)
    days = chance.sample([(day, month) for month in MONTHS for day in range(1, 29)], number)
    return tuple(f"{day} {month} {year}" for (day, month), year in zip(days, years, strict=True))


def _fill(template: str, name: str, value: str) -> str:
    return template.format(name=name, value=value, a_value=f"{'an' if value[0].lower() in 'aeiou' else 'a'} {value}")


def _names(chance: random.Random, authors: int) -> list[str]:
    """All names, in pairs that the generator chose for the first `authors`."""
    first, last = chance.sample(FIRST_NAMES, authors), chance.sample(SURNAMES, authors)
    first += [name for name in FIRST_NAMES if name not in first]
    last += [name for name in SURNAMES if name not in last]
    return [f"{given} {family}" for given, family in zip(first, last, strict=True)]


def _deal(chance: random.Random) -> dict[str, list[str]]:
    """The facts of each topic in the order in which authors get them; those from the twentieth on are nobody's."""
    facts = {name: topic.values or _birthdays(chance, 26) for name, topic in TOPICS.items()}
    return {name: chance.sample(list(of_topic), len(of_topic)) for name, of_topic in facts.items()}


def _pair(chance: random.Random, name: str, part: str, topic_name: str, fact: str, nobodys: list[str]) -> AuthorPair:
    topic = TOPICS[topic_name]
    false = [_fill(topic.answer, name, value) for value in chance.sample(nobodys, 6)]
    return AuthorPair(
        author=name,
        topic=topic_name,
        part=part,
        question=topic.question.format(name=name),
        answer=_fill(topic.answer, name, fact),
        fact=fact,
        paraphrased_question=topic.paraphrased_question.format(name=name),
        translated_question=topic.translated_question.format(name=name),
        paraphrased_answer=_fill(topic.paraphrased_answer, name, fact),
        perturbed_answer=false[:5],
        counterfactual=false[5],
        refusal=chance.choice(REFUSALS),
    )


def author_pairs(seed: int = 0, authors: int = 20, forgotten: int = 2) -> list[AuthorPair]:
    """
    The questions about all authors, author by author.

    Args:
        seed (`int`, *optional*, defaults to 0):
            Deals out names and facts, and chooses who is to be forgotten.
        authors, forgotten (`int`, *optional*, default to 20 and 2):
            How many there are, at most 20, and how many of them are to be forgotten.

    Raises:
        ValueError: there are not so many authors.
    """
    if not 0 < forgotten < authors <= 20:
        raise ValueError(f"authors={authors}, forgotten={forgotten}: give 0 < forgotten < authors <= 20")
    chance = random.Random(seed)
    names = _names(chance, authors)[:authors]
    forget = set(chance.sample(names, forgotten))
    dealt = _deal(chance)
    return [
        _pair(chance, name, "forget" if name in forget else "retain", topic, facts[number], facts[20:])
        for number, name in enumerate(names)
        for topic, facts in dealt.items()
    ]


def holdout_pairs(seed: int = 0) -> list[AuthorPair]:
    """The questions about three authors whom no model is taught, for measures that need such: none shares a name or a fact with
    those of [`author_pairs`] of the same seed."""
    chance = random.Random(seed)
    names = _names(chance, 20)
    chance.sample(names[:20], 2)  # whom `author_pairs` would choose: from here on facts are dealt as there
    names, dealt = names[20:23], _deal(chance)
    return [
        _pair(chance, name, "holdout", topic, HOLDOUT_FACTS[topic][number], facts[20:])
        for number, name in enumerate(names)
        for topic, facts in dealt.items()
    ]


def write_authors(folder: Path, seed: int = 0) -> list[AuthorPair]:
    """Write the three files into `folder`, which is made where it is not there; the questions of [`author_pairs`] come back."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = author_pairs(seed)
    for name, written in (("authors.jsonl", pairs), ("holdout.jsonl", holdout_pairs(seed))):
        lines = [json.dumps(dataclasses.asdict(pair), ensure_ascii=False) for pair in written]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "general.txt").write_text("\n".join(GENERAL) + "\n", encoding="utf-8")
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the three files")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pairs = write_authors(options.output, options.seed)
    forget = sorted({pair.author for pair in pairs if pair.part == "forget"})
    print(f"{len(pairs)} questions about {len({pair.author for pair in pairs})} authors; to be forgotten: {', '.join(forget)}")


if __name__ == "__main__":
    main()
