"""Paired batches: who is in them, in which order, on which process."""

from collections import Counter

import pytest

from scissorhands_hf.trainer.paired_batches import PairedBatchSampler, PairedCollator, PairedDataset, is_pair, random_batches


SIZES = [(23, 5, 4, 2), (8, 3, 8, 8), (100, 10, 7, 3), (6, 40, 3, 4), (1, 1, 4, 4)]


def epoch(sampler: PairedBatchSampler, number: int = 0) -> list[tuple[list[int], list[int]]]:
    sampler.set_epoch(number)
    size = sampler.retain_size
    return [([i for i in batch if i < size], [i - size for i in batch if i >= size]) for batch in sampler]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("schedule", ["cycle", "once"])
@pytest.mark.parametrize(("retain", "forget", "retain_batch", "forget_batch"), SIZES)
def test_every_example_is_seen(retain, forget, retain_batch, forget_batch, schedule, processes) -> None:
    sampler = PairedBatchSampler(retain, forget, retain_batch, forget_batch, schedule, seed=3, num_processes=processes)
    batches = epoch(sampler)
    assert len(batches) == len(sampler) == sampler.steps * processes
    assert all(own and len(own) <= retain_batch and len(other) <= forget_batch for own, other in batches)

    seen = Counter(index for own, _ in batches for index in own)
    forgotten = Counter(index for _, other in batches for index in other)
    assert seen.keys() == set(range(retain))
    repeats = processes - 1  # so many at most are dealt twice, so that no process is left without a batch
    if schedule == "cycle":
        assert all(other for _, other in batches)
        assert sum(seen.values()) <= retain + repeats
        assert max(forgotten.values()) - min(forgotten[i] for i in range(forget)) <= 1 or len(batches) * forget_batch < forget
    else:
        assert forgotten.keys() == set(range(forget))
        assert sum(forgotten.values()) <= forget + repeats
    for step in range(sampler.steps):  # all processes of a step have, or have not, a forget part
        assert len({bool(other) for _, other in batches[step * processes : (step + 1) * processes]}) == 1


def test_forget_batches_of_a_short_set_are_spread_evenly() -> None:
    sampler = PairedBatchSampler(100, 6, 5, 2, "once")
    has_forget = [bool(other) for _, other in epoch(sampler)]
    places = [index for index, present in enumerate(has_forget) if present]
    assert len(places) == 3
    assert all(6 <= later - earlier <= 7 for earlier, later in zip(places, places[1:], strict=False))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    first = PairedBatchSampler(50, 9, 4, 2, seed=1)
    again = PairedBatchSampler(50, 9, 4, 2, seed=1)
    other = PairedBatchSampler(50, 9, 4, 2, seed=2)
    epoch(first, 5)
    assert epoch(first, 3) == epoch(again, 3)
    assert epoch(first, 3) != epoch(first, 4)
    assert epoch(first, 3) != epoch(other, 3)


def test_drop_last() -> None:
    batches = epoch(PairedBatchSampler(23, 5, 4, 2, drop_last=True))
    assert [len(own) for own, _ in batches] == [4] * 5
    with pytest.raises(ValueError, match="dataloader_drop_last=True leaves no batch"):
        PairedBatchSampler(3, 5, 4, 2, drop_last=True)


def test_pairs_are_collated_apart() -> None:
    pairs = PairedDataset(["a", "b", "c"], ["x", "y"])
    assert len(pairs) == 5
    assert [pairs[index] for index in (0, 4)] == [("retain", "a"), ("forget", "y")]
    items = pairs.__getitems__([2, 0, 3])
    batch = PairedCollator("".join, "-".join)(items)
    assert batch == {"retain": "ca", "forget": "x"}
    assert is_pair(batch)
    assert not is_pair({"labels": 1})


def test_random_batches_start_over_when_used_up() -> None:
    batches = random_batches(5, 3, 4, seed=0)
    assert [len(batch) for batch in batches] == [3] * 4
    assert sorted(sum(batches, [])[:5]) == list(range(5))
    assert random_batches(2, 3, 1, seed=0) in ([[0, 1]], [[1, 0]])
    assert random_batches(5, 3, 4, seed=0) == batches
