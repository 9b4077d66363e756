"""Tests what a column of text is taken for."""

import numpy as np
import pandas as pd
import pytest

from ensemble.columns.column_kinds import make_column


def column(train, test=(), label=None):
    return make_column("it", pd.Series([*train, *test], dtype=str), np.array(label or ["x"] * len(train)))


def test_numbers_are_taken_as_they_are_and_what_is_none_or_infinite_is_missing():
    made = column(["1.5", "-2e3", "", "NA", "inf", "n/a"], ["1.5", "?"])
    assert made.kind == "number"
    np.testing.assert_array_equal(made.train[:, 0], [1.5, -2000, np.nan, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(made.test[:, 0], [1.5, np.nan])
    assert (made.n_values, made.missing, made.is_category) == (3, (4, 1), False)


def test_words_become_codes_that_both_sets_share():
    made = column(["b", "a", "", "b"], ["c", "a"])
    assert (made.kind, made.is_category) == ("category of 3 values", True)
    np.testing.assert_array_equal(made.train[:, 0], [1, 0, np.nan, 1])
    np.testing.assert_array_equal(made.test[:, 0], [2, 0])


def test_of_more_than_255_words_the_frequent_ones_keep_codes_of_their_own():
    words = [f"w{number}" for number in range(300)]
    made = column([*words[:254] * 3, *words[254:]])
    assert made.kind == "category: the 254 most frequent values, the others as one"
    codes = made.train[:, 0]
    assert set(codes[254 * 3 :]) == {254}
    assert len(set(codes[:254])) == 254
    assert codes.max() == 254


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["a", "a", "a"], "left out: one value in all training images"),
        (["", "", ""], "left out: one value in all training images"),
        ([f"n {number}" for number in range(400)], "left out: 400 values in 400 images are too many, and no numbers"),
        ([str(number) for number in range(100, 200)], "left out: it numbers the images"),
        ([str(number**2) for number in range(100)], "number"),
        ([f"n {number}" for number in range(60)], "left out: 60 values in 60 images are too many, and no numbers"),
        (["9", "10", "11", "9"], "number"),
        (["2019:05:03 14:30:00", "2019:05:04 02:00:00"], "date: day, day of the year, hour"),
        (["2019-05-03T14:30:00Z", "2019-05-04T02:00:00+02:00"], "date: day, day of the year, hour"),
        (["2019-05-03", "2020-05-04"], "date: day, day of the year"),
        (["03/04/2019", "13/04/2019"], "date (day/month/year): day, day of the year"),
        (["04/03/2019", "04/13/2019 "], "date (month/day/year): day, day of the year"),
        (["14:30", "02:15:36"], "time: hour"),
        (["2019-05-03", "soon"], "category of 2 values"),
        (["1_11", "11_1", "111"], "category of 3 values"),
        (["1012-3345", "1012-9999", "2019-2020"], "category of 3 values"),
    ],
)  # fmt: skip
def test_each_kind_of_column_is_named(cells, kind):
    assert column([cell.strip() for cell in cells]).kind == kind


def test_a_date_becomes_its_day_its_day_of_the_year_and_its_hour_on_site():
    made = column(["1970-01-02T06:30:00+09:00", "", "1971-02-01 00:00:00"])
    np.testing.assert_array_equal(made.train, [[1, 2, 6.5], [np.nan] * 3, [396, 32, 0]])


def test_the_label_under_any_name_is_left_out():
    assert column(["7", "8", "7"], ["8"], label=["7", "8", "7"]).kind == "left out: it is the label"
