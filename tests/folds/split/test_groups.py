"""Groups and folds from the user: columns of CSVs and patterns for paths, on real files."""

from pathlib import Path

import numpy as np
import pytest

from folds.base.errors import UserError
from folds.base.interval import agreeing_images
from folds.base.workspace import read_json
from tests.competition import refusal

PATIENTS, EACH = 9, 4
COLUMNS = "image, class, patient, fold"


@pytest.fixture
def clinic(tmp_path, picture):
    """train.csv of 9 patients p0 to p8 with four pictures each, of which three or none show a cat; and their folds."""
    data = tmp_path / "data"
    (data / "train").mkdir(parents=True)
    rows = [COLUMNS.replace(" ", "")]
    for number in range(PATIENTS * EACH):
        patient = number // EACH
        picture(number).save(data / "train" / f"p{patient}_{number:02d}.png")
        label = "cat" if patient % 2 and number % EACH else "dog"
        rows.append(f"p{patient}_{number:02d},{label},p{patient},{('two', '10', '9')[patient % 3]}")
    (data / "train.csv").write_text("\n".join(rows) + "\n")
    return data


@pytest.fixture
def treated(clinic, run_prepare):
    run_prepare(clinic)
    return clinic


def rewrite(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def patients(folds):
    return np.array([name[:2] for name in folds.image_id.tolist()])


def folds_of_patients(folds):
    return {name: set(folds.fold[patients(folds) == name].tolist()) for name in sorted(set(patients(folds)))}


@pytest.mark.parametrize(
    "settings", [{"group_column": "patient"}, {"group_regex": r"/(p\d)_"}, {"group_regex": r"p\d"}]
)
def test_images_of_one_group_share_a_fold(treated, run_split, settings):
    folds, notes = run_split(n_folds=3, **settings)
    assert set(map(len, folds_of_patients(folds).values())) == {1}
    assert np.bincount(folds.fold).tolist() == [12, 12, 12]
    assert agreeing_images(folds.group) == PATIENTS  # intervals count patients, not images
    what = "column patient" if "group_column" in settings else "`--group-regex`"
    assert notes == [f"9 groups by {what} and by copies; the largest has 4 training images: p0"]


def test_groups_were_joined_by_another_column_of_ids_than_prepare_was_told(tmp_path, run_prepare, run_split, picture):
    (tmp_path / "data/train").mkdir(parents=True)
    rows = ["id,photo,label,patient"]
    for number in range(24):
        picture(number).save(tmp_path / "data/train" / f"{number}.png")
        rows.append(f"{7 * number % 24},{number},{'cat' if number % 2 else 'dog'},p{number // 4}")
    (tmp_path / "data/train.csv").write_text("\n".join(rows))
    run_prepare(tmp_path / "data", id_column="photo")
    folds, _ = run_split(n_folds=3, group_column="patient")
    patient = np.array([int(Path(name).stem) // 4 for name in folds.image_id])
    assert [len(set(folds.fold[patient == one].tolist())) for one in range(6)] == [1] * 6


def test_copies_join_the_groups_that_they_stand_in(clinic, run_prepare, run_split, picture):
    for patient in ("p3", "p7"):
        picture(99).save(clinic / "train" / f"{patient}_copy.png")
        with open(clinic / "train.csv", "a") as file:
            file.write(f"{patient}_copy,dog,{patient},9\n")
    run_prepare(clinic)
    folds, notes = run_split(n_folds=3, group_column="patient")
    where = folds_of_patients(folds)
    assert where["p3"] == where["p7"]
    assert len(where["p3"]) == 1
    assert len(set(folds.group[np.isin(patients(folds), ["p3", "p7"])].tolist())) == 1
    assert notes == ["8 groups by column patient and by copies; the largest has 10 training images: p3, p7"]


def test_a_column_and_a_pattern_join_in_chains(clinic, run_prepare, run_split):
    rewrite(clinic / "train.csv", ",p1,", ",p0,")
    run_prepare(clinic)
    folds, notes = run_split(n_folds=3, group_column="patient", group_regex="p[12]|p[0-9]_..")
    where = folds_of_patients(folds)
    assert where["p0"] == where["p1"]
    assert notes[-1] == (
        "8 groups by column patient and `--group-regex` and by copies; the largest has 8 training images: "
        "p0, p0_00, p0_01 and 3 more"
    )


def test_a_csv_beside_the_data_is_joined_by_id_whatever_its_columns_are_called(prepared, tmp_path, run_split):
    rows = [f"{place};{label}_{n}" for label in ("cat", "dog") for n, place in enumerate(("sea", "sea", "hill", ""))]
    (tmp_path / "places.csv").write_text("\n".join(["place;which", *rows, "sea;elsewhere"]) + "\n")
    folds, notes = run_split(n_folds=2, groups=tmp_path / "places.csv", group_column="place")
    groups = dict(zip(folds.image_id.tolist(), folds.group.tolist(), strict=True))
    assert groups["cat/cat_0.png"] == groups["cat/cat_1.png"] == groups["dog/dog_0.png"] == groups["dog/dog_1.png"]
    assert groups["cat/cat_2.png"] == groups["dog/dog_2.png"]
    assert len(set(groups.values())) == 4
    assert notes[0] == (
        "2 training images without a group by column place, each a group of its own: cat/cat_3.png, dog/dog_3.png"
    )


def test_given_folds_are_taken_as_they_are_in_natural_order(treated, run_split):
    folds, notes = run_split(fold_column="fold", group_column="patient")
    assert folds.n_folds == 3
    wanted = {f"p{patient}": {(2, 1, 0)[patient % 3]} for patient in range(PATIENTS)}
    assert folds_of_patients(folds) == wanted
    assert notes[0] == "folds by column fold: 0 is 9, 1 is 10, 2 is two"
    assert run_split(fold_column="fold", group_column="patient")[0].digest == folds.digest


def test_copies_that_given_folds_part_are_reported_and_left_there(clinic, run_prepare, run_split, picture):
    picture(0).save(clinic / "train" / "p1_04.png")
    run_prepare(clinic)
    folds, notes = run_split(fold_column="fold")
    assert folds_of_patients(folds)["p1"] == {1}
    assert notes[0] == (
        "the folds of column fold part 2 training images from their copies, so scores may be too good: "
        "p0_00.png, p1_04.png"
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"group_column": "doctor"}, f"folds/labels.csv has no column doctor; it has {COLUMNS}, empty, one, some"),
        ({"group_regex": "p("}, "`--group-regex p(` is no regular expression: missing ), unterminated subpattern at "),
        ({"group_regex": "x.x"}, "`--group-regex x.x` matches none of 36 paths, such as train/p0_00.png"),
        ({"group_column": "empty"}, "no training image has a group by column empty"),
        ({"group_column": "class"}, "5 folds need images of 5 groups, and there are 2: copies count as one group"),
        ({"fold_column": "patient", "n_folds": 3}, "`--n-folds 3` is wanted, and column patient has 9 folds"),
        ({"fold_column": "one"}, "column one has 1 fold, and 2 to 100 are wanted"),
        ({"fold_column": "some"}, "4 training images without a fold in column some: p8_32.png, p8_33.png, p8_34.png "),
        (
            {"fold_column": "fold", "group_column": "class"},
            "column fold parts 2 of the groups by column class: dog, cat; dog stands in folds 10, 9, two",
        ),
        ({"groups": Path("labels.csv")}, "`--groups labels.csv` needs a column to read"),
        ({"groups": Path("none.csv"), "group_column": "patient"}, "cannot read none.csv: No such file or directory"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_sentence(clinic, run_prepare, workspace, run_split, settings, sentence):
    header, *rows = (clinic / "train.csv").read_text().splitlines()
    rows = [f"{row},,1,{'' if row.startswith('p8') else 'a'}" for row in rows]
    (clinic / "train.csv").write_text("\n".join([f"{header},empty,one,some", *rows]))
    run_prepare(clinic)
    said, _ = refusal(run_split, **settings)
    assert said.removeprefix(f"{workspace.root}/").startswith(sentence)
    assert not workspace.folds_json.exists()


def test_a_csv_that_names_no_image_or_one_twice_is_refused(treated, tmp_path, run_split):
    path = tmp_path / "groups.csv"
    for text, sentence in (
        ("id,patient\n1,2\n", f"no column of {path} names a training image: it has id, patient"),
        ("id,patient\np0_00,a\np0_00.png,b\n", f"{path} gives p0_00.png two values of patient: a and b"),
    ):
        path.write_text(text)
        assert refusal(run_split, groups=path, group_column="patient")[0] == sentence


def test_a_copy_of_the_labels_that_changed_or_went_is_refused_and_made_again(
    treated, run_prepare, workspace, run_split
):
    content = workspace.labels.read_bytes()
    for harm, sentence in (
        (lambda: workspace.labels.write_bytes(content.replace(b"p1", b"p2")), "labels.csv is damaged: its content is"),
        (workspace.labels.unlink, "^DATA had no CSV of labels when it was prepared, so there is no column patient$"),
    ):
        harm()
        with pytest.raises(UserError, match=sentence) as caught:
            run_split(group_column="patient")
        assert caught.value.hint.endswith("`python run.py prepare DATA`")
        run_prepare(treated)
        assert workspace.labels.read_bytes() == content


def test_one_column_can_be_folds_and_groups(treated, run_split):
    folds, _ = run_split(fold_column="fold", group_column="fold")
    assert len(set(zip(folds.group.tolist(), folds.fold.tolist(), strict=True))) == len(set(folds.fold.tolist())) == 3


def test_other_groups_than_the_stored_ones_are_refused(treated, workspace, run_split):
    folds, _ = run_split(n_folds=3, group_column="patient")
    stored = f"the folds in {workspace.folds_csv} were assigned with 3 folds and seed 0 and group column patient"
    for settings, words in (
        ({"n_folds": 3}, "3 folds and seed 0"),
        ({"fold_column": "fold"}, "3 folds and seed 0 and fold column fold"),
        ({"n_folds": 3, "group_regex": "p."}, "3 folds and seed 0 and group regex p."),
    ):
        assert refusal(run_split, **settings)[0] == f"{stored}, not {words}"
    assert read_json(workspace.folds_json, hint="")["group_column"] == "patient"
    assert run_split(n_folds=3, group_column="patient")[0].digest == folds.digest


@pytest.mark.parametrize(("settings", "old", "new", "count"), [
    ({"group_column": "patient", "n_folds": 9}, "p8_35,dog,p8", "p8_35,dog,p7", 5),
    ({"fold_column": "fold"}, "p8_35,dog,p8,9", "p8_35,dog,p8,10", 1),
])  # fmt: skip
def test_a_cell_that_changed_since_is_noticed(treated, run_prepare, run_split, settings, old, new, count):
    run_split(**settings)
    rewrite(treated / "train.csv", old, new)
    again = run_prepare(treated)
    assert (again.unchanged, again.decoded) == (False, 0)  # the copy of train.csv is new, the pixels are not
    with pytest.raises(UserError, match=rf"^{count} training images? changed since the folds "):
        run_split(**settings)


def test_the_command_says_how_even_the_folds_are_and_which_class_has_one_fold(clinic, run_prepare, workspace, typed):
    for name in ("p5_21", "p5_22"):
        rewrite(clinic / "train.csv", f"{name},cat", f"{name},fox")
    run_prepare(clinic)
    said = typed("split", "--work", workspace.root, "--n-folds", "3", "--group-column", "patient").out
    text = " ".join(said.split())
    assert "9 groups by column patient and by copies; the largest has 4 training images: p0 " in text
    assert "the classes' shares differ most in fold " in text
    assert "warning: 1 class has all images in one fold, which is predicted without having seen any: fox: 2" in text
