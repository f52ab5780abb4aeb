"""What a driver decides: who is tried again, who waits for memory, and when a study is hopeless."""

from __future__ import annotations

import random

import pytest

from senet_lab.studies.failure_policies import ATTEMPTS, Attempts, Failures, MemoryQueue
from senet_lab.studies.store import DONE, FAILED, Record

FELL = {"state": FAILED, "reason": "a fault"}


def test_a_trial_is_begun_so_often_and_anew_once_it_is_claimed_again() -> None:
    attempts = Attempts()
    for _ in range(2):
        attempts.first("a")
        begun = 1
        while attempts.left("a"):
            attempts.again("a")
            begun += 1
        assert begun == attempts.made["a"] == ATTEMPTS
    attempts.again("a")  # for want of memory, which has no such limit
    assert attempts.made["a"] == ATTEMPTS + 1


@pytest.mark.parametrize("seed", range(20))
def test_whoever_waits_for_memory_is_trained_once_alone(seed: int) -> None:
    """Any order of events: each trial that was out of memory is trained once more, beside none, and then the rest."""
    chance, alone = random.Random(seed), MemoryQueue()
    greedy = {number for number in range(12) if chance.random() < 0.4}
    offered, claimed, training, by_itself = [f"{number}" for number in range(12)], [], [], []
    for _ in range(200):
        if (trial_id := alone.next(claimed)) is not None:
            assert training == []
            training.append(trial_id)
            by_itself.append(trial_id)
        while offered and len(training) < 3 and not alone.reserved(claimed):
            claimed.append(offered[0])
            training.append(offered.pop(0))
            assert not set(training) & set(by_itself), "nothing beside one that is alone"
        if training:
            trial_id = training.pop(chance.randrange(len(training)))
            if int(trial_id) in greedy and not alone.had_turn(trial_id):
                alone.ask(trial_id)
            else:
                claimed.remove(trial_id)
    assert (offered, claimed, training) == ([], [], [])
    assert sorted(by_itself, key=int) == [f"{number}" for number in sorted(greedy)]


def test_one_that_is_claimed_anew_is_tried_beside_others_first() -> None:
    alone = MemoryQueue()
    alone.ask("a")
    assert alone.next(["a"]) == "a"
    assert alone.had_turn("a")
    assert alone.reserved(["a"])
    assert not alone.reserved([])
    alone.forget("a")
    assert not alone.reserved(["a"])


def test_a_study_is_hopeless_once_so_many_have_failed_and_none_has_ended_well() -> None:
    ended: dict[str, Record] = {}
    failures = Failures(2, ended)
    assert failures.reason() == ""
    ended["a"] = FELL
    assert failures.reason() == ""
    ended["b"] = {**FELL, "reason": "another"}
    assert failures.reason() == "2 trials failed and none ended well (max_failures=2)"
    assert failures.first() == "a fault"
    assert Failures(None, ended).reason() == ""
    assert Failures(1, {"a": FELL}).reason() == "1 trial failed and none ended well (max_failures=1)"
    assert Failures(2, {**ended, "c": {"state": DONE}}).reason() == ""
    failures.worked = True
    assert failures.reason() == ""
