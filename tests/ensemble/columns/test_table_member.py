"""Tests the member that is made of columns."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ensemble.analysis.test_likeness import is_far
from ensemble.blend.make_blend import make_blend
from ensemble.columns.column_kinds import Column
from ensemble.columns.table import label_error, measure_test_auc
from ensemble.columns.table_member import add_table, fit_table_model, held_part, table_summary
from ensemble.members.members import disagreeing_members, load_members
from ensemble.members.open_run import open_run
from ensemble.members.training_rows import rows_of
from ensemble.settings import BlendSettings, TableSettings
from folds.manifest.manifest import read_manifest, write_manifest
from models.predict.predictions import Predictions, load_predictions, save_predictions
from submissions.offline.make_pack import _refuse_without_networks
from tests.competition import fingerprint, refusal
from tests.ensemble.small import SMALL, shown, small_oof, small_work, with_manifest, write_small

QUICK = TableSettings(rounds=5)


@pytest.fixture
def house(tmp_path):
    """A work folder with a manifest and one run, and columns: a place that tells half of the classes, and noise."""
    work, folds = small_work(tmp_path, members=1)
    with_manifest(work, folds, unreadable=())
    manifest, n, rng = read_manifest(work), 640, np.random.default_rng(0)
    sizes = {"width": rng.integers(100, 200, n), "height": 50, "bytes": rng.integers(9, 999, n)}
    write_manifest(work, manifest.assign(**sizes, group=np.arange(n)))
    target = np.concatenate([folds.target, SMALL.targets(1)])
    place = np.where(target < 4, target, rng.integers(4, 8, n))
    cells = {
        "id": manifest["image_id"],
        "place": [f"place {number}" for number in place],
        "hour": rng.random(n).round(4),
    }
    pd.DataFrame(cells).sample(frac=1, random_state=0).to_csv(tmp_path / "c.csv", index=False)
    return SimpleNamespace(work=work, folds=folds, csv=tmp_path / "c.csv")


def add(house, csvs=None, settings=QUICK, **options):
    return add_table(house.work, [house.csv] if csvs is None else csvs, settings, seed=0, **options)


def changed(house, change) -> list:
    table = pd.read_csv(house.csv, dtype=str, keep_default_na=False)
    path = house.csv.with_name("changed.csv")
    change(table).to_csv(path, index=False)
    return [path]


def test_columns_become_a_member_that_blends_like_a_run(house):
    made = add(house)
    assert [column.kind for column in made.table.columns] == ["category of 8 values", "number"]
    assert made.scores["log_loss"] < made.scores["prior_log_loss"] - 0.3
    member = load_members(house.work, BlendSettings(members=("table",))).members[0]
    probs, rows = member.probs(0, 600), rows_of(house.folds)
    assert (probs > 0).all()
    assert -np.log(probs[np.arange(600), rows.target]).mean() == pytest.approx(made.scores["log_loss"], abs=1e-4)
    right = probs.argmax(axis=1) == rows.target
    assert right[rows.target < 4].mean() > 0.95  # the place says the first four classes, and nothing of the others
    assert right[rows.target >= 4].mean() < 0.7
    blend = make_blend(house.work, BlendSettings(trials=32, half_samples=2), seed=0).blend
    assert set(blend.weights) == {"m00", "table"}
    assert refusal(_refuse_without_networks, house.work, replace(blend, weights={"m00": 0.5, "table": 0.5})) == (
        "there is no network to pack for table: another tool or columns made the predictions",
        "`python run.py blend --members m00` blends without",
    )
    assert open_run(house.work, "table", rows=rows).remake_hint.startswith("`python run.py table CSV --name table`")


def test_a_member_of_columns_is_not_taken_for_one_whose_rows_are_shifted(house):
    for member in (1, 2):
        write_small(house.work, house.folds, f"m0{member}", small_oof(house.folds, member))
    add(house)
    assert disagreeing_members(load_members(house.work)) == []


def test_no_image_is_predicted_by_trees_that_have_seen_its_label(house):
    """Where labels are drawn anew in one fold, the predictions of that fold stay as they were."""
    values, folds = np.random.default_rng(0).random((600, 2)), house.folds
    held = folds.fold == 1
    other = np.where(held, np.random.default_rng(1).permutation(folds.target), folds.target)
    facts = {"is_category": np.zeros(2, bool), "n_classes": 8, "seed": 0}
    models = [
        fit_table_model(values[~held], target[~held], folds.group[~held], QUICK, **facts)
        for target in (folds.target, other)
    ]
    np.testing.assert_array_equal(*(model.probs(values[held]) for model in models))


def test_rows_in_any_order_are_the_same_bytes_and_a_second_time_there_is_nothing_to_do(house):
    folder = add(house).folder
    before = fingerprint(folder)
    assert add(house).seconds is None
    assert fingerprint(folder) == before
    mixed = changed(house, lambda table: table.sample(frac=1, random_state=5))
    other = add(house, mixed, replace(QUICK, name="other"))
    for file in ("fold0/oof.npz", "fold2/oof.npz", "test.npz"):
        assert (other.folder / file).read_bytes() == (folder / file).read_bytes()


def test_after_a_stop_the_folds_that_are_done_are_not_fitted_again(house):
    def stop_after_the_first(items, **words):
        yield next(iter(items))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add(house, track=stop_after_the_first)
    (kept,) = (house.work.members / "table").glob(".folds/*/fold0/oof.npz")
    made = load_predictions(kept, hint="")
    even = np.full_like(made.log_probs, np.log(1 / 8))
    save_predictions(kept, Predictions(made.image_id, made.classes, made.views, even, made.folds_digest))
    add(house)
    assert load_members(house.work, BlendSettings(members=("table",))).members[0].probs(0, 50) == pytest.approx(1 / 8)
    assert not (house.work.members / "table" / ".folds").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda table: table.assign(id="no" + table.id),
         "no column of changed.csv names an image: it has id, place, hour"),
        (lambda table: table[table.id.str.startswith("train")],
         "changed.csv has no row for any of 40 test images"),
        (lambda table: pd.concat([table, table[table.id == "0000003"].assign(place="elsewhere")]),
         "changed.csv gives 0000003 two values of place: "),
        (lambda table: table[["id"]].assign(owner="me"),
         "no column is left to learn from: owner: left out: one value in all training images"),
        (lambda table: table[["id"]], "no column is left to learn from"),
    ],
)  # fmt: skip
def test_a_csv_that_teaches_nothing_is_refused_in_a_sentence(house, change, sentence):
    assert refusal(add, house, changed(house, change))[0].startswith(sentence)


def test_images_without_a_row_are_named_and_rows_without_an_image_too(house):
    lacking = changed(house, lambda table: table.replace({"id": {"train/0000004.jpg": "gone.jpg"}}))
    assert add(house, lacking).table.notes == (
        "1 rows of changed.csv name no image here: gone.jpg",
        "changed.csv has no row for 1 of 600 training images, and their values are missing: train/0000004.jpg",
    )


def test_a_shorter_id_is_joined_unless_two_images_have_it(house):
    """The folder of the first test image was taken for that of all: an id of two images was that of one in it."""
    manifest = read_manifest(house.work)
    is_test = manifest["split"] == "test"
    ids = manifest["image_id"].where(~is_test, "s0/" + manifest["image_id"])
    ids = ids.replace({"s0/0000000": "0000000", "s0/0000008": "s1/0000007"})
    paths = ids.where(~is_test, "test/" + ids + ".png").replace({"test/0000000.png": "test/s0/0000000.png"})
    write_manifest(house.work, manifest.assign(image_id=ids, path=paths))
    table = pd.read_csv(house.csv, dtype=str)
    train, test = (part for _, part in table.groupby(~table["id"].str.startswith("train")))
    pair = [house.csv.with_name(name) for name in ("train.csv", "test.csv")]
    train.assign(id=train["id"].str[6:-4]).to_csv(pair[0], index=False)
    test.to_csv(pair[1], index=False)
    fault = "the id 0000007 fits 2 files: test/s0/0000007.png, test/s1/0000007.png"
    assert refusal(add, house, pair)[0] == fault
    test.replace({"id": {"0000007": "s0/0000007", "0000008": "s1/0000007.png"}}).to_csv(pair[1], index=False)
    assert add(house, pair).table.notes == ()


def test_an_image_that_was_removed_since_the_folds_were_made_ended_in_a_traceback(house):
    manifest, gone = read_manifest(house.work), house.folds.image_id[3]
    write_manifest(house.work, manifest[manifest["image_id"] != gone])
    fault = f"the folds are older than the manifest, which lacks 1 of their images: {gone}"
    assert refusal(add, house) == (fault, "`python run.py split`")


def test_each_set_may_have_a_csv_of_its_own_and_what_one_lacks_is_left_out(house):
    table = pd.read_csv(house.csv, dtype=str)
    is_train = table.id.str.startswith("train")
    label = dict(zip(house.folds.image_id, house.folds.label, strict=True))
    train = table[is_train].assign(species=table.id.map(label))
    pair = [house.csv.with_name(name) for name in ("train.csv", "test.csv")]
    for part, path in zip((train, table[~is_train]), pair, strict=True):
        part.to_csv(path, index=False)
    made = add(house, pair)
    assert made.table.notes == ("species stands in train.csv alone, and is left out",)
    fault = "no column of train.csv names a test image: it has id, place, hour, species"
    assert refusal(add, house, pair[::-1])[0] == fault
    assert refusal(add, house, [*pair, *pair])[0] == "one or two CSVs were wanted, and 4 came"


def test_a_column_that_says_the_label_is_refused_unless_it_is_named(house):
    label = dict(zip(house.folds.image_id, house.folds.target, strict=True))
    leaky = changed(house, lambda table: table.assign(row=table.id.map(label).fillna(3) * 10))
    message, hint = refusal(add, house, leaky)
    assert message == "row says the label by itself: a leak, unless private images have it too"
    assert hint == "`--columns place,hour` leaves it out"
    assert add(house, leaky, replace(QUICK, columns=("row",))).table.warnings[0] == message
    unknown = "there is no column raw", "there are place, hour, row"
    assert refusal(add, house, leaky, replace(QUICK, columns=("raw",))) == unknown


def test_a_column_with_other_values_in_the_test_images_is_named_also_by_blend(house):
    def with_site(table):
        return table.assign(site=table.id.str.len().map(lambda n: "new " if n == 7 else "old ") + table.place)

    made = add(house, changed(house, with_site))
    (warning,) = made.table.warnings
    assert warning.startswith("site has other values in the test images (AUC 1.00, ")
    assert any(warning in said for said in make_blend(house.work, BlendSettings(trials=16), seed=0).warnings)


def test_the_columns_of_the_manifest_come_with_a_warning(house):
    made = add(house, [], replace(QUICK, from_manifest=True))
    assert list(made.table.aucs) == ["width", "bytes"]
    assert made.table.warnings == (
        "width, bytes of the manifest say how the files were made: a leak that the private images may not share",
    )
    assert "by the shares of the classes): these columns teach nothing" in shown(table_summary(made), width=200)
    both = add(house, settings=replace(QUICK, from_manifest=True, name="both"))
    assert list(both.table.aucs) == ["place", "hour", "width", "bytes"]
    wide = changed(house, lambda table: table.rename(columns={"hour": "width"}))
    assert refusal(add, house, wide, replace(QUICK, from_manifest=True))[0].startswith("width would be two columns")
    assert refusal(add, house, [])[1].endswith("or `--from-manifest`")


def test_what_stops_the_trees_is_a_tenth_with_copies_together_and_leaves_every_class_something_to_learn():
    target = np.repeat(np.arange(3), (60, 30, 2))
    group = np.arange(92)
    group[1::2] = group[::2]  # pairs of copies; both images of the last class are one
    held = held_part(target, group, seed=0)
    assert 6 <= held.sum() <= 12
    assert (held[::2] == held[1::2]).all()
    assert not held[-2:].any()


def number(train, test) -> Column:
    train, test = (np.array(part, float)[:, None] for part in (train, test))
    return Column("it", "number", 0, train, test)


def test_a_value_that_only_a_nearest_neighbour_of_another_fold_knows_is_a_leak():
    target, fold = np.repeat(np.arange(5), 40), np.tile(np.arange(4), 50)
    in_order = number(np.arange(200), [])
    assert label_error(in_order, target, fold) == pytest.approx(0.02, abs=0.02)  # at the borders of classes alone
    assert label_error(number(np.random.default_rng(0).random(200), []), target, fold) > 0.6
    a_third = number(np.where(np.arange(200) % 3 > 0, np.nan, np.arange(200)), [])
    assert label_error(a_third, target, fold) < 0.1
    hardly_any = number(np.where(np.arange(200) % 20 > 0, np.nan, np.arange(200)), [])
    assert label_error(hardly_any, target, fold) is None


def test_a_date_whose_hour_says_the_label_is_a_leak():
    target, fold, day = np.repeat(np.arange(5), 40), np.tile(np.arange(4), 50), np.random.default_rng(0).random(200)
    date = Column("it", "date", 0, np.stack([day, target.astype(float)], axis=1), np.empty((0, 2)))
    assert label_error(date, target, fold) == 0


def test_only_a_column_with_other_values_is_far():
    rng = np.random.default_rng(0)
    group = np.arange(1500)
    alike = measure_test_auc(number(rng.random(1000), rng.random(500)), group, seed=0)
    assert not is_far(alike)
    narrow = measure_test_auc(number(rng.random(1000), 0.4 + 0.2 * rng.random(500)), group, seed=0)
    assert narrow[0] == pytest.approx(0.9, abs=0.03)  # its mean is the same: of a training image 0.2 lies in between
    assert is_far(narrow)
    gone = measure_test_auc(number(rng.random(1000), np.full(500, np.nan)), group, seed=0)
    assert gone[0] == 1
