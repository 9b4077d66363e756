import os

import pytest

from folds.base.csvfile import read_csv
from folds.find.dataset import find_dataset
from folds.find.reasons import reason_text
from folds.settings import PrepareSettings
from tests.competition import refusal, write_files


def found(data, **settings):
    items = find_dataset(data, PrepareSettings(**settings)).items
    return [(item.split, item.image_id, item.label) for item in items if not item.is_left_out and not item.file.fault]


@pytest.mark.parametrize("train", ["train", "Training", "TrainVal", "train_images", "train/train"])
@pytest.mark.parametrize("test", ["test", "Public", "Private", "test_images", "test/test"])
def test_folders_are_found_by_their_names(tmp_path, train, test):
    write_files(tmp_path, f"{train}/cat/1.jpg", f"{train}/dog/2.jpg", f"{test}/7.jpg")
    assert found(tmp_path) == [("train", "cat/1.jpg", "cat"), ("train", "dog/2.jpg", "dog"), ("test", "7", "")]


CAT, DOG = ("train", "cat/1.jpg", "cat"), ("train", "dog/2.jpg", "dog")


@pytest.mark.parametrize(
    ("files", "csvs", "settings", "expected"),
    [
        pytest.param("train/cat/2020/may/1.jpg train/dog/2.jpg", {}, {}, [("train", "cat/2020/may/1.jpg", "cat"), DOG],
                     id="the label is the first folder, however deep the file lies"),
        pytest.param("cat/1.jpg dog/2.jpg test/3.jpg README.md", {}, {}, [CAT, DOG, ("test", "3", "")],
                     id="class folders may lie right in the data, beside the test folder"),
        pytest.param("a/cat/1.jpg a/dog/2.jpg b/3.jpg", {}, {"train_folder": "a/", "test_folder": "./b"},
                     [CAT, DOG, ("test", "3", "")], id="folders can be given"),
        pytest.param("images/1.jpg images/2.jpg images/3.jpg",
                     {"train": "id,label\n1,a\n2,b\n", "sample": "id,predicted\n3,a\n"}, {},
                     [("train", "images/1.jpg", "a"), ("train", "images/2.jpg", "b"), ("test", "3", "")],
                     id="training and test images may lie together"),
        pytest.param("train/cat/1.jpg train/dog/2.jpg test/cafe\u0301.jpg", {"sample": "id\ncaf\u00e9\n"}, {},
                     [CAT, DOG, ("test", "caf\u00e9", "")], id="composed and decomposed names are one"),
        pytest.param("train/1.jpg train/2.jpg", {"train": "id,filename,label\n1,2.jpg,a\n2,1.jpg,b\n"}, {},
                     [("train", "1.jpg", "b"), ("train", "2.jpg", "a")],
                     id="a running number that names files by chance is no id"),
        pytest.param("train/1.jpg train/2.jpg train/1.txt", {"train": "id,label\n1,a\n2,b\n"}, {},
                     [("train", "1.jpg", "a"), ("train", "2.jpg", "b")], id="a text beside an image is not meant"),
        pytest.param("train/cat/1.jpg train/dog/2.jpg Public/3.jpg Private/4.jpg", {"sample": "id\n4\n3\n"}, {},
                     [CAT, DOG, ("test", "3", ""), ("test", "4", "")], id="a sample may span two test folders"),
    ],
)  # fmt: skip
def test_images_and_labels_are_found_where_they_lie(tmp_path, files, csvs, settings, expected):
    assert found(write_files(tmp_path, *files.split(), **csvs), **settings) == expected


def test_a_class_is_spelled_composed_whoever_wrote_its_folder(tmp_path):
    write_files(tmp_path, "train/cafe\u0301/1.jpg", "train/dog/2.jpg", "test/3.jpg")
    assert [label for split, _, label in found(tmp_path) if split == "train"] == ["caf\u00e9", "dog"]


def test_what_is_left_aside_is_noted(tmp_path):
    write_files(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "val/cat/3.jpg", "test/4.jpg", "val/notes.txt")
    (tmp_path / "labels.csv").write_text("name,breed\ncat,felis\ndog,canis\n")
    assert found(tmp_path) == [CAT, DOG, ("test", "4", "")]
    assert find_dataset(tmp_path, PrepareSettings()).notes == (
        "labels.csv lists the classes: labels are the folders of the images",
        "1 file is neither a training nor a test image, left out: val/cat/3.jpg",
    )


def test_hidden_and_system_files_are_left_out_and_counted(tmp_path):
    write_files(
        tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "train/.DS_Store", "train/cat/Thumbs.db", "__MACOSX/x.jpg"
    )
    dataset = find_dataset(tmp_path, PrepareSettings())
    assert [item.image_id for item in dataset.items] == ["cat/1.jpg", "dog/2.jpg"]
    assert dataset.hidden == ("__MACOSX", "train/.DS_Store", "train/cat/Thumbs.db")


def test_one_of_a_hundred_ids_of_the_sample_may_have_no_file_and_is_unreadable(tmp_path):
    files = [f"test/{n}.jpg" for n in range(99)]
    write_files(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", *files, sample="id\n" + "\n".join(map(str, range(100))))
    test = [item for item in find_dataset(tmp_path, PrepareSettings()).items if item.split == "test"]
    assert sorted(item.image_id for item in test) == sorted(map(str, range(100)))
    faults = {item.image_id: str(item.file.fault) for item in test if item.file.fault}
    assert faults == {"99": "no file of this name"}
    (tmp_path / files[0]).unlink()
    assert refusal(found, tmp_path)[0] == "2 ids of sample_submission.csv have no file in test: 0, 99"


@pytest.mark.parametrize(
    ("files", "csvs", "image_id", "reason"),
    [
        ("train/cat/1.jpg train/dog/2.jpg train/3.jpg", {}, "3.jpg", "no label: it lies beside the class folders"),
        ("train/cat/1.jpg train/dog/2.jpg test/a.jpg test/b.jpg", {"sample": "id\na\n"}, "b.jpg",
         "not listed: sample_submission.csv"),
        ("train/1.jpg train/2.jpg train/5.jpg", {"train": "id,label\n1,a\n2,b\n"}, "5.jpg", "not listed: train.csv"),
        ("train/1.jpg train/2.jpg", {"train": "id,label\n1,a\n2,b\n1,b\n2,b\n"}, "1.jpg",
         "two labels: a and b in train.csv"),
    ],
)  # fmt: skip
def test_a_file_without_one_label_or_that_no_csv_names_is_left_out(tmp_path, files, csvs, image_id, reason):
    items = find_dataset(write_files(tmp_path, *files.split(), **csvs), PrepareSettings()).items
    (item,) = [one for one in items if one.is_left_out]
    assert (item.image_id, reason_text(item.reasons)) == (image_id, reason)


@pytest.mark.parametrize("ids", [("7", "8"), ("7.jpg", "8.png"), ("Public/7.jpg", "Public/8.png"), ("./7.jpg", "8")])
def test_sample_ids_find_their_files_with_and_without_extension_and_folder(tmp_path, ids):
    write_files(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "Public/7.jpg", "Public/8.png")
    write_files(tmp_path, sample="id,predicted\n" + "".join(f"{i},0\n" for i in ids))
    assert [image_id for split, image_id, _ in found(tmp_path) if split == "test"] == list(ids)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffid,label\r\n007,cat\r\n\r\n1e5,NA\r\n",
        "id;label\n007;cat\n1e5;NA\n",
        "\n\nid\tlabel\n 007 \tcat \n1e5\tNA\n\n\n",
        '"id","label","note"\n"007","cat","a, b"\n"1e5","NA",""\n',
        "label|id\ncat|007\nNA|1e5",
        "\n\nid,label\n,\n007,cat\n1e5,NA\n",
        'Image_ID,Class-Name,note\n007.jpg,cat,\n1e5.jpg,NA,"a, b"\n',
        "id,label\r007,cat\r1e5,NA\r",
    ],
)
def test_a_csv_is_read_however_it_was_saved_and_ids_and_labels_stay_text(tmp_path, text):
    write_files(tmp_path, "train/007.jpg", "train/1e5.jpg", "test/007.jpg", "test/1e5.jpg", train=text, sample=text)
    ending = ".jpg" if ".jpg" in text else ""
    assert found(tmp_path) == [
        *(("train", "007.jpg", "cat"), ("train", "1e5.jpg", "NA")),
        *(("test", f"007{ending}", ""), ("test", f"1e5{ending}", "")),
    ]


def test_the_sample_tells_public_from_private(tmp_path):
    write_files(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "Public/a.jpg", "Private/b.jpg")
    assert refusal(found, tmp_path) == (
        f"{tmp_path} has 2 folders of test images: Private, Public",
        "choose one with `--test-folder Private`",
    )
    write_files(tmp_path, sample="id\na\n")
    assert found(tmp_path)[-1] == ("test", "a", "")


def test_ids_of_training_images_find_their_files_with_and_without_extension_and_folder(tmp_path):
    write_files(tmp_path, *(f"train/{n}.jpg" for n in range(3)), train="id,label\n0,NA\n1.jpg,b\ntrain/2.jpg,007\n")
    assert [label for _, _, label in found(tmp_path)] == ["NA", "b", "007"]


def test_a_name_in_another_letter_case_found_no_file_unless_two_files_differ_in_it_alone(tmp_path):
    write_files(tmp_path, "train/X.JPG", "train/y.jpg", "train/Y.jpg", "train/Z.jpg", "train/z.JPG", "Test/A.PNG")
    csvs = {"train": "id,label\nx.jpg,a\nY.jpg,b\ny.jpg,c\nz.jpg,d\n", "sample": "id\na.png\n"}
    assert found(write_files(tmp_path, **csvs)) == [
        *(("train", name, label) for name, label in (("X.JPG", "a"), ("Y.jpg", "b"), ("y.jpg", "c"))),
        ("test", "a.png", ""),
    ]


def test_a_readme_among_the_test_images_became_a_test_id_where_no_sample_says_what_is_one(tmp_path):
    write_files(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "test/a.jpg", "test/README.TXT", "test/more/a.xml")
    dataset = find_dataset(tmp_path, PrepareSettings())
    assert [item.image_id for item in dataset.items] == ["cat/1.jpg", "dog/2.jpg", "a"]
    assert dataset.notes == ("2 texts and tables among the test images, left out: test/README.TXT, test/more/a.xml",)
    write_files(tmp_path, sample="id\na\nREADME.txt\n")
    assert found(tmp_path)[2:] == [("test", "README.txt", ""), ("test", "a", "")]


TRAIN = "train/cat/1.jpg train/dog/2.jpg"
NO_DATA = "give the folder that holds the training images: `python run.py prepare DATA`"
SORTS = "train/1.jpg train.csv=picture,sort,source\n1,a,web\n"


@pytest.mark.parametrize(
    ("files", "settings", "message", "hint"),
    [
        ("x", {"data": "none"}, "there is no folder DATA/none", NO_DATA),
        ("x.zip", {"data": "x.zip"}, "DATA/x.zip is not a folder", NO_DATA),
        ("", {}, "DATA holds no file", "`python run.py prepare DATA` with the folder of the images"),
        ("train/ test/1.jpg", {}, "DATA/train holds no file", "name another folder with `--train-folder NAME`"),
        ("photos/1.jpg classes.csv", {}, "DATA has no folder of training images; it holds classes.csv, photos",
         "name it with `--train-folder NAME`, or the CSV with `--train-csv NAME`"),
        (TRAIN, {"train_folder": "../x"},
         "`--train-folder` names ../x, which may lead outside the data folder: it is not read", None),
        ("train/cat/1.jpg train/cat/2.jpg", {},
         "all training images of train have the label cat: two classes or more are needed", None),
        ("train/1.jpg train/2.jpg", {}, "train holds no class folder",
         "put the images of each class into a folder of its name"),
        (f"{TRAIN} test/a.jpg sample_submission.csv=id\na\nb\nc\nd\ne\n", {},
         "4 ids of sample_submission.csv have no file in test: b, c, d and 1 more",
         "put the files there, or name the folder with `--test-folder NAME`"),
        (SORTS.replace("1,", "9,"), {}, "train.csv has no id column; it has picture, sort, source",
         "name it with `--id-column COLUMN`"),
        (SORTS, {"id_column": "picture"}, "train.csv has no label column; it has picture, sort, source",
         "name it with `--label-column COLUMN`"),
        (SORTS, {"id_column": "x"}, "train.csv has no column x; it has picture, sort, source", None),
        ("train/1.jpg train/2.jpg train.csv=id,image\n7,1\n8,2\n", {},
         "train.csv has no label column; it has id, image", "name it with `--label-column COLUMN`"),
    ],
)  # fmt: skip
def test_what_is_no_competition_is_refused_in_one_sentence(tmp_path, files, settings, message, hint):
    for entry in files.split(" ") if files else []:
        path, _, text = entry.partition("=")
        write_files(tmp_path, path) if not path.endswith("/") else (tmp_path / path).mkdir()
        if text:
            (tmp_path / path).write_text(text)
    said = refusal(found, tmp_path / settings.pop("data", ""), **settings)
    assert said == (message.replace("DATA", str(tmp_path)), hint)


def test_two_test_files_with_one_stem_are_refused_unless_a_sample_tells_them_apart(tmp_path):
    write_files(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "test/a.jpg", "test/a.png")
    assert refusal(found, tmp_path)[0] == "1 test ids stand for several files, first a: test/a.jpg and test/a.png"
    write_files(tmp_path, sample="id\na\n")
    assert refusal(found, tmp_path)[0] == "the id a fits 2 files: test/a.jpg, test/a.png"
    write_files(tmp_path, sample="id\na.png\na.jpg\n")
    assert [image_id for split, image_id, _ in found(tmp_path) if split == "test"] == ["a.jpg", "a.png"]


@pytest.mark.parametrize(
    ("csv", "text", "message"),
    [
        ("sample", "", "sample_submission.csv is empty"),
        ("sample", "id,predicted\n", "sample_submission.csv has no ids"),
        ("sample", "id,predicted\na,0\na,1\n", "sample_submission.csv has the id a twice"),
        ("sample", "id,predicted\na,0\n,1\n", "row 3 of sample_submission.csv has no id"),
        ("sample", "id,predicted\na,0,1\n", "row 2 of sample_submission.csv has 3 cells where its header has 2"),
        ("sample", "id,predicted\na,0\na.jpg,1\n", "the ids a and a.jpg of sample_submission.csv both mean test/a.jpg"),
        ("train", "", "train.csv is empty"),
        ("train", "\n\n", "train.csv is empty"),
        ("train", "id,label\n", "none of the 0 ids of train.csv has a file below train: "),
        ("train", "id,label\n9,a\n8,b\n", "none of the 2 ids of train.csv has a file below train: 9, 8"),
        ("train", "id,label\n1,a\n,b\n", "row 3 of train.csv has no id"),
        ("train", "id,label\n\n1,a\n\n,b\n", "row 5 of train.csv has no id"),
        ("train", "id,label\n1,a\n2,b,c\n", "row 3 of train.csv has 3 cells where its header has 2"),
        ("train", "id,label\n1,a\n2\n", "row 3 of train.csv has 1 cells where its header has 2"),
        ("train", "id,label\n1,\n2,\n", "train.csv holds no class folder"),
        ("train", 'id,label\n1,"a\n2,b\n', "train.csv cannot be read as CSV: unexpected end of data, in line 3"),
        ("train", "a" * 200_000, "train.csv cannot be read as CSV: field larger than field limit (131072), in line 1"),
    ],
    ids=lambda given: given[:60],
)
def test_a_csv_that_is_no_list_of_ids_or_labels_is_refused(tmp_path, csv, text, message):
    texts = {"train": "id,label\n1,x\n2,y\n", "sample": "id\na\n", csv: text}
    write_files(tmp_path, "train/1.jpg", "train/2.jpg", "test/a.jpg", **texts)
    assert refusal(found, tmp_path)[0] == message


@pytest.mark.parametrize(
    ("train", "sample", "settings"),
    [
        ("image,species\n1,x\n2,y\n", "image,species\na,x\n", {}),  # it was refused: `train.csv has no label column`
        ("species,source,photo\nx,web,1\ny,web,2\n", "photo,species\na,x\n", {}),
        ("image,label,target\n1,p,x\n2,q,y\n", "image,target\na,x\n", {}),  # `label` was taken, though never asked for
        ("image,species\n1,x\n2,y\n", "image,guess\na,x\n", {}),
        ("image,genus,species\n1,x,p\n2,y,q\n", "image,species\na,p\n", {"label_column": "genus"}),
        ("image,species\n1,x\n2,y\n", "id\na\n", {}),
        ("species,photo\nx,1\ny,2\n", "id\na\n", {}),
        ("photo,label\n1,x\n2,y\n", "id\na\n", {}),
    ],
)
def test_columns_are_those_named_or_shared_with_the_sample_and_of_two_the_one_of_files_is_the_ids(
    tmp_path, train, sample, settings
):
    write_files(tmp_path, "train/1.jpg", "train/2.jpg", "test/a.jpg", train=train, sample=sample)
    assert found(tmp_path, **settings) == [("train", "1.jpg", "x"), ("train", "2.jpg", "y"), ("test", "a", "")]


def test_a_csv_that_is_no_utf8_is_refused():
    assert refusal(read_csv, b"id,label\n\xff\xfe,1\n", name="labels.csv")[0] == "labels.csv is not UTF-8 text"


def test_a_link_to_a_folder_of_the_data_stands_for_that_folder(tmp_path):
    """It was refused: `train holds no file`, since its files are listed where they lie."""
    write_files(tmp_path, "images/cat/1.jpg", "images/dog/2.jpg")
    (tmp_path / "train").symlink_to("images")
    for settings in ({}, {"train_folder": "train"}, {"train_folder": "images"}):
        assert found(tmp_path, **settings) == [("train", "cat/1.jpg", "cat"), ("train", "dog/2.jpg", "dog")]
    assert find_dataset(tmp_path, PrepareSettings()).notes[0] == (
        "1 link leads to a folder that is read already: train is images"
    )


def test_data_whose_folders_are_links_to_another_disk_is_read(tmp_path):
    """It was refused: `no folder of training images; it holds TrainVal`."""
    data, disk = tmp_path / "data", tmp_path / "disk"
    write_files(disk, "TrainVal/cat/1.jpg", "TrainVal/dog/2.jpg", "Public/a.jpg", "more/3.jpg", "4.jpg")
    write_files(disk, sample="id,predicted\na,cat\n")
    data.mkdir()
    for name in ("TrainVal", "Public"):
        (data / name).symlink_to(disk / name)
    (data / "sample_submission.csv").symlink_to(disk / "sample_submission.csv")
    (disk / "TrainVal" / "cow").symlink_to("../more")
    (disk / "TrainVal" / "dog" / "one.jpg").symlink_to("../../4.jpg")
    dataset = find_dataset(data, PrepareSettings())
    expected = ["cat/1.jpg", "cow/3.jpg", "dog/2.jpg", "dog/one.jpg", "a"]
    assert [(item.image_id, item.file.fault) for item in dataset.items] == [(name, None) for name in expected]
    assert dataset.notes == ()
    assert found(data, train_folder="TrainVal") == found(data)


def test_a_link_to_a_folder_that_holds_it_is_not_followed_and_named(tmp_path):
    data, disk = tmp_path / "data", tmp_path / "disk"
    write_files(tmp_path, "secret/3.jpg")
    write_files(disk, "train/cat/1.jpg", "train/dog/2.jpg", "4.jpg")
    data.mkdir()
    (data / "train").symlink_to(disk / "train")
    (data / "up").symlink_to("..")  # around DATA: `secret` is no part of it
    (disk / "train" / "cat" / "up").symlink_to("../..")  # around the link, on the other disk
    (disk / "train" / "cat" / "back").symlink_to(data)
    dataset = find_dataset(data, PrepareSettings())
    assert [item.image_id for item in dataset.items] == ["cat/1.jpg", "dog/2.jpg"]
    assert dataset.notes[0] == ("3 links lead to a folder around it, not followed: train/cat/back, train/cat/up, up")


def test_two_links_to_one_folder_read_it_once_and_say_so(tmp_path):
    write_files(tmp_path / "disk", "1.jpg")
    write_files(tmp_path / "data", "train/dog/2.jpg")
    for name in ("cat", "cow"):
        (tmp_path / "data" / "train" / name).symlink_to(tmp_path / "disk")
    dataset = find_dataset(tmp_path / "data", PrepareSettings())
    assert [item.image_id for item in dataset.items] == ["cat/1.jpg", "dog/2.jpg"]
    assert dataset.notes[0] == "1 link leads to a folder that is read already: train/cow is train/cat"


def test_a_pipe_is_named_and_never_opened(tmp_path):
    write_files(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg")
    os.mkfifo(tmp_path / "train/cat/pipe.jpg")
    assert find_dataset(tmp_path, PrepareSettings()).items[1].file.fault == ("not a regular file", "")
    os.mkfifo(tmp_path / "train.csv")
    assert refusal(found, tmp_path)[0] == "train.csv is not read: not a regular file"
