"""scripts/training/measure.py: ROUGE-L and the bootstrap."""

import random

import pytest

from scripts.training import measure
from scripts.training.measure import interval, paired, rouge_l


def test_rouge_l_counts_chinese_by_character():
    assert rouge_l("写一首诗", "写一首歌") == pytest.approx(0.75)
    assert rouge_l("Name a fruit.", "name a fruit") == 1
    assert rouge_l("", "") == 0


def test_an_interval_holds_its_mean_and_shrinks_with_more_items():
    values = [random.Random(i).random() for i in range(400)]
    few, many = interval(values[:25]), interval(values)
    assert few.low < few.mean < few.high
    assert many.high - many.low < few.high - few.low
    assert interval(values) == many


def test_about_95_of_100_intervals_hold_the_true_mean(monkeypatch):
    monkeypatch.setattr(measure, "DRAWS", 500)
    draws = random.Random(7)
    found = 0
    for _ in range(100):
        made = interval([draws.gauss(0.3, 1) for _ in range(40)])
        found += made.low <= 0.3 <= made.high
    assert 88 <= found <= 99


def test_a_paired_difference_sees_what_two_means_hide():
    before = [i / 100 for i in range(100)]
    after = [value + 0.01 for value in before]
    assert not paired(before, after).is_chance
    assert paired(before, before).is_chance


def test_no_scores_are_an_error():
    with pytest.raises(ValueError, match="no scores"):
        interval([])
    with pytest.raises(ValueError):
        paired([1.0], [])
