"""Tests packs: the ensemble as one file, and what it predicts of pictures without the work folder."""

import itertools
import json
import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import run
from ensemble.blend.apply import open_members
from ensemble.blend.blend_json import load_blend
from folds.base.errors import UserError
from folds.base.progress import silently
from folds.base.workspace import Workspace, digest
from folds.pixels.store import open_store
from folds.split.assign import load_folds
from models.backbones import resolve_backbone
from models.input.resample import network_input
from models.input.views import view_boxes, view_size
from models.predict.onnx import onnx_bytes
from models.predict.packed import packed_log_probs, view_costs
from models.runs import plan_runs
from models.settings import TrainSettings
from submissions.offline import infer as infer_module
from submissions.offline.infer import affordable, infer
from submissions.offline.make_pack import _changed_runs, make_pack
from submissions.offline.pack_file import OpenPack
from submissions.settings import InferSettings, PackSettings
from tests.competition import TRAIN, fingerprint, make_competition, refusal
from tests.ensemble.small import change_json
from tests.models.small import save_body

SMALL = ["--backbone", "test_resnet", "--image-size", "32", "--precision", "fp32", "--device", "cpu"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """(data folder, work folder, pack, plans): a trained run, a probe and its neighbours, blended and packed."""
    folder = tmp_path_factory.mktemp("packed")
    data, work = make_competition(folder / "data", n_test=30), folder / "work"
    weights = save_body(folder / "weights.safetensors")
    (data / "Public" / "002.jpg").write_bytes(b"no image")
    used, views = [*SMALL, "--weights", str(weights)], ["--views", "centre,mirror,centre@48"]
    for step in (
        ["prepare", str(data), "--store-size", "40", "--workers", "1"],
        ["split", "--n-folds", "2"],
        ["probe", *used, *views],
        ["train", *used, *views, "--epochs", "2", "--batch-size", "8", "--sampling-power", "0.5", "--lr", "1e-3"],
        ["knn", "--run", "test_resnet-probe", *used, *views],
        ["blend", "--keep", "equal"],
        ["submit"],
        ["pack", *used],
    ):
        assert run.main([*step, "--work", str(work)]) == 0
    plans = plan_runs(TrainSettings(backbone=("test_resnet",), image_size=32, weights=(str(weights),)), {})
    return data, Workspace(work), work / "submissions" / "blend.pack.zip", plans


@pytest.fixture
def blocks_of_eight(monkeypatch):
    monkeypatch.setattr(infer_module, "FIRST", 4)
    monkeypatch.setattr(infer_module, "BLOCK", 8)


def settings(tmp_path, data, **more):
    return InferSettings(out=tmp_path / "out.csv", sample=data / "sample_submission.csv", workers=1, **more)


@pytest.fixture
def unpacked(packed, tmp_path):
    with zipfile.ZipFile(packed[2]) as archive:
        archive.extractall(tmp_path / "pack")
    return tmp_path / "pack"


def test_the_own_test_folder_gets_the_bytes_of_submit_and_nothing_is_written_there(packed, tmp_path, typed):
    data, work, pack, _ = packed
    before = fingerprint(data)
    sample, out = data / "sample_submission.csv", tmp_path / "out.csv"
    said = typed("infer", pack, data / "Public", "--out", out, "--sample", sample).out
    assert out.read_bytes() == (work.submissions / "blend.csv").read_bytes()
    assert "30 rows, valid" in said
    assert "1 unreadable picture got the most frequent classes: 002" in said
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    assert fingerprint(data) == before


def test_a_sample_that_shows_no_separator_leaves_that_of_the_pack(packed, unpacked, tmp_path):
    """It was taken for one that shows blanks."""
    change_json(unpacked / "pack.json", label_separator=";")
    (tmp_path / "one.csv").write_text("id,predicted\n" + "".join(f"{i:03d},0\n" for i in range(30)))
    asked = InferSettings(out=tmp_path / "out.csv", sample=tmp_path / "one.csv", workers=1)
    infer(unpacked, packed[0] / "Public", asked)
    assert all(line.count(";") == 2 for line in asked.out.read_text().splitlines()[1:])


def test_it_goes_on_after_a_stop_at_any_block_with_the_same_bytes(packed, tmp_path, blocks_of_eight):
    data, work, pack, _ = packed
    asked, stops = settings(tmp_path, data), 0

    def stopping(items, *, what, total, unit="images", each=1):
        for i, item in enumerate(items):
            if unit == "blocks" and i == 1:
                raise KeyboardInterrupt
            yield item

    for _ in range(5):  # blocks of 4, 8, 8, 8 and 2 pictures: one more is done in each turn
        try:
            infer(pack, data / "Public", asked, track=stopping)
        except KeyboardInterrupt:
            stops += 1
            assert len(list((tmp_path / "out.csv.parts").glob("block-*"))) == stops
    assert stops == 4
    assert asked.out.read_bytes() == (work.submissions / "blend.csv").read_bytes()


def test_a_folder_with_what_was_in_the_zip_is_a_pack_too_and_names_are_ids_without_a_sample(packed, unpacked, tmp_path):
    made = infer(unpacked, packed[0] / "TrainVal", InferSettings(out=tmp_path / "out.csv", workers=1))
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert (lines[0], made.rows) == ("id,predicted", 32)
    assert lines[1].startswith("0/0-0,")


def test_without_time_the_csv_is_valid_and_a_second_call_goes_on_with_the_part_that_was_chosen(
    packed, tmp_path, blocks_of_eight
):
    data, _, pack, _ = packed
    said = []
    cut = infer(pack, data / "Public", settings(tmp_path, data, max_hours=0.0), say=said.append)
    assert (cut.rows, len(cut.unseen)) == (30, 30)
    assert cut.part == OpenPack(pack).pack.smaller[-1]
    (view,) = next(iter(cut.part.members.values()))
    begin = rf"the whole ensemble would take \d:\d\d; 1 of 3 members under {view} \(out-of-fold top-3 error"
    assert re.match(begin, said[0]), said
    rest = infer(pack, data / "Public", settings(tmp_path, data))  # goes on with the part that was chosen
    assert (rest.unseen, rest.part, (tmp_path / "out.csv.parts").exists()) == ((), cut.part, False)
    enough = infer(pack, data / "Public", settings(tmp_path, data, max_hours=1.0))
    assert (enough.unseen, enough.part) == ((), enough.whole)


def test_the_first_block_of_a_call_that_goes_on_was_begun_without_time_for_it(packed, tmp_path, blocks_of_eight):
    data, _, pack, _ = packed
    asked = settings(tmp_path, data, max_hours=1.0)

    def stopping(items, *, what, total, unit="images", each=1):
        yield from itertools.islice(items, 1) if unit == "blocks" else items

    infer(pack, data / "Public", asked, track=stopping)
    done = sorted((tmp_path / "out.csv.parts").glob("block-*"))
    for path in done:  # each picture had taken an hour
        with np.load(path) as block:
            np.savez(path, **{**block, "per_picture": 3600.0})
    again = infer(pack, data / "Public", asked)
    assert sorted((tmp_path / "out.csv.parts").glob("block-*")) == done
    assert len(again.unseen) > 0


def test_the_first_way_that_the_time_suffices_for_is_taken_and_the_cheapest_where_it_suffices_for_none():
    assert [affordable([9.0, 5.0, 2.0], left=left) for left in (9.0, 8.9, 5.0, 2.0, 1.0)] == [0, 1, 1, 2, 2]


def test_a_run_whose_tensors_change_its_error_is_named(packed, unpacked):
    work = packed[1]
    given = open_members(work, load_blend(work.blend)), load_folds(work), open_store(work)
    assert _changed_runs(OpenPack(unpacked), *given, device="cpu", track=silently) == []
    head = json.loads((unpacked / "pack.json").read_text())
    for file in sorted((unpacked / "test_resnet").glob("*.safetensors")):
        state = load_file(file)
        state["fc.weight"], state["fc.bias"] = -state["fc.weight"], -state["fc.bias"]
        save_file(state, file)
        head["files"][f"test_resnet/{file.name}"] = digest(file.read_bytes())
    (unpacked / "pack.json").write_text(json.dumps(head))
    assert _changed_runs(OpenPack(unpacked), *given, device="cpu", track=silently) == ["test_resnet"]


def test_parts_of_the_ensemble_get_cheaper_and_the_whole_one_comes_first(packed):
    pack = OpenPack(packed[2]).pack
    left = [[len(views) for views in part.members.values()] for part in pack.smaller]
    assert left == [[3, 3, 3], [2, 2, 2], [1, 1, 1], [1, 1], [1]]
    costs = [part.cost for part in pack.smaller]
    assert costs[0] == 1.0
    assert costs == sorted(costs, reverse=True)
    assert pack.recipe(pack.smaller[4].members).weights.sum() == pytest.approx(1.0)


def test_a_view_of_a_larger_side_costs_what_its_pixels_cost(packed):
    costs = view_costs(OpenPack(packed[2]).pack.runs["test_resnet"])
    cost = {view: sum(each.values()) for view, each in costs.items()}
    assert cost["centre"] == cost["mirror"]
    assert 1.5 < cost["centre@48"] / cost["centre"] < 4  # 2.25 times the pixels; maps are rounded up to whole ones


def test_what_runs_share_is_packed_and_paid_once_and_no_training_image_is_packed(packed):
    pack = OpenPack(packed[2]).pack
    with zipfile.ZipFile(packed[2]) as archive:
        names, head = archive.namelist(), archive.read("pack.json").decode()
    assert len(names) == len(set(names))
    assert "0-0" not in head
    assert json.loads(head)["images_per_class"] == [8, 8, 8, 8]
    probe, neighbours = (view_costs(pack.runs[f"test_resnet-probe{more}"])["centre"] for more in ("", "-knn"))
    assert probe.items() < neighbours.items()
    without = next(part for part in pack.smaller if len(part.members) == 2)
    assert list(without.members) == ["test_resnet-probe", "test_resnet-probe-knn"]  # one body for both


def test_networks_trained_from_scratch_were_packed_with_licences_of_weights(packed, whole, tmp_path, typed):
    assert all(one.licence for one in OpenPack(packed[2]).pack.runs.values())
    assert "starting weights" not in typed("pack", *TRAIN, "--out", tmp_path / "x.zip", "--work", whole).out


def test_float16_is_taken_where_no_error_changes_and_a_limit_leaves_members_out(packed, tmp_path):
    _, work, pack, plans = packed
    whole = make_pack(work, PackSettings(out=tmp_path / "half.zip", half=True), plans, device="cpu")
    assert whole.pack.is_half != bool(whole.refused_half)
    assert whole.bytes < 0.6 * pack.stat().st_size or whole.refused_half
    limit = 0.9 * pack.stat().st_size / 1e6
    small = make_pack(work, PackSettings(out=tmp_path / "small.zip", limit_mb=limit), plans, device="cpu")
    assert small.bytes <= limit * 1e6
    shared = ["test_resnet-probe", "test_resnet-probe-knn"]  # one backbone
    assert list(small.pack.members) == list(small.part.members) == shared
    assert all(len(member.views) == 3 for member in small.pack.members.values())
    assert whole.part is None
    tiny = PackSettings(out=tmp_path / "none.zip", limit_mb=0.001)
    with pytest.raises(UserError, match=r"^the smallest member takes \d+\.\d MB, and the limit is 0\.0 MB$"):
        make_pack(work, tiny, plans, device="cpu")
    assert not tiny.out.exists()


def test_a_probe_without_its_weights_at_hand_is_refused(packed, tmp_path):
    _, work, _, plans = packed
    other = [replace(plans[0], weights=save_body(tmp_path / "other.safetensors", seed=4))]
    message, hint = refusal(make_pack, work, PackSettings(out=tmp_path / "pack.zip"), other, device="cpu")
    assert message.startswith("test_resnet-probe is a probe of test_resnet.r160_in1k with the weights ")
    assert hint.startswith("`python run.py pack --backbone test_resnet.r160_in1k --weights FILE`")


def test_what_cannot_be_predicted_is_refused_in_one_sentence(packed, unpacked, tmp_path):
    data, _, pack, _ = packed
    pictures, asked = data / "Public", settings(tmp_path, data)
    text, more = tmp_path / "text.zip", tmp_path / "more.csv"
    assert refusal(infer, tmp_path / "no.zip", pictures, asked)[0].startswith("there is no pack ")
    text.write_text("no zip")
    assert "is no pack, or a damaged one: " in refusal(infer, text, pictures, asked)[0]
    inside = refusal(infer, pack, pictures, replace(asked, out=pictures / "out.csv"))[0]
    assert inside.endswith("lies in the folder of the pictures, which is never written to")
    tensors = next(unpacked.glob("*/fold0.safetensors"))
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x7f")
    damaged = refusal(infer, unpacked, pictures, asked)[0]
    assert re.search(r"checksum mismatch, .*fold0.safetensors changed after it was packed$", damaged)
    more.write_text("id,predicted\n000,0 1 2\nnever,0 1 2\n")
    assert refusal(infer, pack, pictures, InferSettings(out=tmp_path / "other.csv", sample=more)) == (
        "1 ids of more.csv have no file in DATA: never",
        f"DATA is {pictures} here: give the folder that holds these pictures",
    )
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/test.zip").write_bytes(b"PK")
    assert refusal(infer, pack, tmp_path / "texts", InferSettings(out=tmp_path / "texts.csv", workers=1)) == (
        f"{tmp_path / 'texts'} holds no picture: test.zip",
        "give the folder that holds the pictures",
    )
    begun = refusal(infer, pack, data / "TrainVal" / "0", InferSettings(out=tmp_path / "out.csv", workers=1))[0]
    assert begun.endswith("out.csv.parts was begun with another pack or other pictures")


def test_each_network_as_onnx_says_what_torch_says(packed, tmp_path, typed):
    """A network with views of two sides, and a probe with views of one; an export takes seconds: one of each."""
    import onnxruntime

    _, whole, pack, plans = packed
    work, alone = Workspace(shutil.copytree(whole.root, tmp_path / "work")), OpenPack(pack)
    shutil.rmtree(work.fold("test_resnet", 1))
    typed("blend", "--members", "test_resnet", "--partial", "--work", work.root)
    opened = OpenPack(make_pack(work, PackSettings(onnx=True), plans, device="cpu").path)
    assert [(name, *one.parts) for name, one in opened.pack.runs.items()] == [("test_resnet", "fold0")]
    probe = replace(alone.pack.runs["test_resnet-probe"], views=("centre", "mirror"))
    exported = [
        (opened.pack.runs["test_resnet"], opened.read, opened.read("test_resnet/fold0.onnx")),
        (probe, alone.read, onnx_bytes(probe, alone.read, "fold0", n_classes=4)),
    ]
    store = open_store(work)
    rows = np.flatnonzero(store.split == "test")[:5]
    backbone, pixels = resolve_backbone("test_resnet"), torch.from_numpy(np.stack([store.pixels[row] for row in rows]))
    sides = {"width": store.width[rows], "height": store.height[rows]}
    for one, read, data in exported:
        assert str(Path(torch.__file__).parent).encode() not in data  # nor any other path of this machine
        session = onnxruntime.InferenceSession(data)
        wanted = packed_log_probs(one, read, store, rows, n_classes=4, device_name="cpu", parts=["fold0"])[0]
        for v, view in enumerate(one.views):
            boxes = view_boxes(view, **sides, crop_share=backbone.crop_share)
            images = network_input(pixels, boxes, size=view_size(view, 32), backbone=backbone)
            found = session.run(None, {"images": images.numpy()})[0]
            np.testing.assert_allclose(np.exp(found), np.exp(wanted[:, v]), atol=1e-3)  # features: float16
