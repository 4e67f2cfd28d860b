"""What the edit keeps beside a list of English words: captions of the tokenizer's own words, and of the user's pictures."""

import random
from types import SimpleNamespace

import pytest
import torch
from tiny_pipelines import TINY, WORDS, tiny_stable_diffusion
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from scissorhands_hf import erase_concept
from scissorhands_hf.core import ClosedFormEdit
from scissorhands_hf.erasure import settings
from scissorhands_hf.erasure.families import family_of
from scissorhands_hf.erasure.prompts import build_prompts
from scissorhands_hf.erasure.settings import build_config
from scissorhands_hf.erasure.text_edit import TextEdit
from scissorhands_hf.erasure.vocabulary import own_words, vocabulary_captions, vocabulary_words, with_captions_of
from scissorhands_hf.erasure.words import GENERIC_SUBJECTS, mentions


# Not English, so that nothing of it is in any list: pairs of syllables, in the order of their tokens.
SYLLABLES = ("ba", "do", "ki", "lu", "me", "ra", "so")
INVENTED = [first + second for first in SYLLABLES for second in SYLLABLES]


def word_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """Word pieces: whole words, letters, pieces that go on, and what is no word."""
    tokens = ["[UNK]", "[PAD]", *words, "##ist", "12", "!", "x", *"abdeiklmorsu", *(f"##{letter}" for letter in "abdeiklmorsu")]
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")


def known_to(tokenizer: PreTrainedTokenizerFast):
    return lambda words: [word for word in words if len(tokenizer(word).input_ids) == 1]


def captions_of(words, count=200, clear=lambda text: True, most_words=10, seed=0):
    templates = ("a photo of {one}", "the {}")
    return vocabulary_captions(words, count, clear, templates, lambda names: names, most_words, random.Random(seed))


def test_the_vocabulary_is_its_whole_words_in_the_order_of_their_tokens():
    tokenizer = word_tokenizer(INVENTED)
    assert vocabulary_words(tokenizer, known_to(tokenizer)) == INVENTED


@pytest.mark.parametrize("name", list(TINY))
def test_every_tokenizer_says_its_words(name):
    """Byte pairs and unigrams spell a word's beginning or end in their own ways."""
    family = family_of(TINY[name][0]())
    tokenizer = family.tokenizer
    texts = tokenizer.batch_decode([[number] for number in range(len(tokenizer))])
    words = family.known_words([text.strip() for text in texts if text.strip().isalpha() and len(text.strip()) > 1])
    assert {word for word in WORDS if len(word) > 1} <= {*words}
    assert vocabulary_words(tokenizer, family.known_words) == words
    assert {*GENERIC_SUBJECTS} <= {*vocabulary_words(tokenizer, lambda names: [])}


def test_a_tokenizer_without_a_table_of_tokens_falls_back_on_the_list():
    class Bytes:
        all_special_ids = ()

        def __len__(self):
            return 256

        def batch_decode(self, rows):
            raise NotImplementedError

    assert vocabulary_words(Bytes(), lambda names: list(names))[: len(GENERIC_SUBJECTS)] == list(GENERIC_SUBJECTS)


def test_captions_are_of_all_words_the_common_ones_more_often():
    captions = captions_of(INVENTED, count=400)
    assert len({*captions}) == 400 and captions == captions_of(INVENTED, count=400) != captions_of(INVENTED, 400, seed=1)
    said = [word for text in captions for word in text.split()]
    assert {*INVENTED} <= {*said} and max(len(text.split()) for text in captions) == 10
    front, back = (sum(said.count(word) for word in part) for part in (INVENTED[:7], INVENTED[-7:]))
    assert front > 1.5 * back
    in_sentences = [text for text in captions if text.startswith(("a photo of", "the "))]
    assert 0.1 < len(in_sentences) / 400 <= 0.25
    assert max(len(text.split()) for text in captions_of(INVENTED, most_words=3) if not text.startswith("a photo")) == 3


def test_captions_ask_for_nothing_that_is_erased():
    family = family_of(tiny_stable_diffusion())

    def captions(name):
        return build_prompts([name], None, [], [], family, 4, 1, choose_anchor=True, captions=100).captions

    for name, gone in (("dress", ["dress"]), ("red dress", ["red dress"]), ("Mickey Bag", ["mickey", "bag"])):
        made = captions(name)
        assert len(made) == 100 and not any(mentions(text, word) for text in made for word in gone)
    # What a compound is made of is kept.
    assert {"red", "dress"} <= {word for text in captions("red dress") for word in text.split()}
    assert build_prompts(["dress"], None, [], [], family, 4, 1).captions == []
    assert own_words("in the style of Van Gogh") == ["Van", "Gogh"]


def test_captions_of_the_user_take_the_places_of_half():
    made = [f"made {number}" for number in range(10)]
    given = ["mine", "", "a dress", "mine", "other"]
    assert with_captions_of(given, made, lambda text: "dress" not in text, 0) == ["mine", "other", *made[2:]]
    many = with_captions_of([f"mine {number}" for number in range(50)], made, lambda text: True, 0)
    assert len({*many}) == 10 and many[5:] == made[5:] and all(text.startswith("mine") for text in many[:5])
    assert with_captions_of(["mine"], [], lambda text: True, 0) == []


def test_the_edit_keeps_captions_as_the_brute_force_does():
    """Against least squares over every row at once, with each caption's states stacked rather than summed up on the way."""
    family = family_of(tiny_stable_diffusion())
    values = SimpleNamespace(closed_form_overshoot=1.0, closed_form_keep_weight=80.0, closed_form_ridge=1e-2, disable_tqdm=True)
    captions = captions_of([word for word in WORDS if len(word) > 1], count=60, most_words=6)
    edit = TextEdit(family, values)
    edit.gather([("a photo of dress", "a photo of coat")], captions, torch.zeros(1, 4, 16, 16))
    name = edit.layers[0]
    weight = family.denoiser.get_submodule(name).weight.detach().double()
    with edit.applied():
        found = family.denoiser.get_submodule(name).weight.detach().double()
    one = next(iter(edit._edits.values()))
    assert isinstance(one, ClosedFormEdit)

    old, new = (
        family.encode_prompts([f"a photo of {word}"])["encoder_hidden_states"][0].double() for word in ("dress", "coat")
    )
    moved = (old - new).abs().amax(1) > 1e-5 * old.abs().amax()
    old, new = old[moved], new[moved]
    kept = family.encode_prompts(captions)["encoder_hidden_states"].flatten(0, 1).double()
    each, all_kept = len(old) ** -0.5, (80.0 / len(kept)) ** 0.5
    held = (1e-2 * old.square().mean()).sqrt() * torch.eye(old.shape[1], dtype=torch.float64)
    rows = torch.cat([each * old, all_kept * kept, held])
    wanted = torch.cat([each * (2 * new - old) @ weight.T, all_kept * kept @ weight.T, held @ weight.T])
    expected = torch.linalg.lstsq(rows, wanted).solution.T
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_words_outside_every_list_keep_their_answers():
    """The list alone lets the answers to invented words go; with captions of them, unseen captions of them stay."""
    generator = torch.Generator().manual_seed(0)
    width, count = 48, 160
    common = torch.randn(width, generator=generator, dtype=torch.float64)
    words = torch.randn(count, width, generator=generator, dtype=torch.float64) + common
    concept, other, listed, sampled, unseen = words[:1], words[1:2], words[2:12], words[12:140], words[140:]
    weight = torch.randn(20, width, generator=generator, dtype=torch.float64)
    lost = []
    for kept in (listed, torch.cat([listed, sampled])):
        edit = ClosedFormEdit(width, 1.0, 80.0, 1e-2)
        edit.add_edit(concept, other), edit.add_kept(kept)
        change = (edit.solve(weight) - weight) @ unseen.T
        lost.append((change.norm(dim=0) / (weight @ unseen.T).norm(dim=0)).median().item())
    assert lost[1] < 0.7 * lost[0]


def test_of_a_large_vocabulary_more_is_kept(monkeypatch):
    family = family_of(tiny_stable_diffusion())

    def chosen(**values):
        args = build_config(family, None, None, values)
        return args.closed_form_captions, args.closed_form_keep_weight, args.closed_form_ridge

    assert len(family.tokenizer) < settings.LARGE_VOCABULARY and chosen() == (0, 20.0, 1e-4)
    monkeypatch.setattr(settings, "LARGE_VOCABULARY", len(family.tokenizer) - 1)
    assert chosen() == (2000, 80.0, 0.01) and chosen(closed_form_keep_weight=5.0) == (2000, 5.0, 0.01)


def test_captions_of_the_users_pictures_are_kept(tmp_path, monkeypatch):
    from PIL import Image

    for number, caption in enumerate(("the blue bag", "a red shoe", "a dress")):
        Image.new("RGB", (32, 32), (40 * number, 9, 9)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(caption)
    kept: list[list[str]] = []
    gather = TextEdit.gather
    monkeypatch.setattr(
        TextEdit, "gather", lambda self, edits, texts, *rest: kept.append(texts) or gather(self, edits, texts, *rest)
    )
    values = {"closed_form_captions": 6, "disable_tqdm": True, "report_images": 0, "anchor": "coat", "concept_type": "object"}
    report = erase_concept(tiny_stable_diffusion(), "dress", retain_images=tmp_path, max_steps=0, **values)
    assert report.settings["closed_form_captions"] == 6
    assert {"the blue bag", "a red shoe"} <= {*kept[0]} and "a dress" not in kept[0]
    with pytest.raises(ValueError, match="closed_form_captions=-1"):
        erase_concept(tiny_stable_diffusion(), "dress", **values | {"closed_form_captions": -1})
