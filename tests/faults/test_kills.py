"""Kills processes over the whole way: the same command then makes the bytes of an undisturbed one."""

import random

import pytest

from tests.faults.tally import count
from tests.faults.whole import again_in, differing, left_over, made_in

STAGES = (  # (before which event, how often it happened before, the last part of the file's name)
    ("os.rename", 1, "pixels-32.u8"),
    ("os.rename", 1, "manifest.csv"),
    ("os.rename", 1, "folds.json"),
    ("os.rename", 2, "checkpoint.safetensors"),
    ("os.rename", 1, "oof.npz"),
    ("os.rename", 1, "done.json"),
    ("os.rename", 1, "study.log"),
    ("os.rename", 1, "blend.csv"),
)


def test_a_kill_at_every_stage_of_the_way_changes_no_byte(tmp_path, nursery, world):
    place = again_in(tmp_path, "stages", world)
    for event, nth, name in STAGES:
        code, out = nursery.run(["all", "data"], folder=place, die={"event": event, "nth": nth, "name": name})
        assert code == -9, f"{name}: {out}"
        count("kills")
    code, out = nursery.run(["all", "data"], folder=place)
    assert code == 0, out
    assert differing(made_in(place / "work"), world[1]) == []
    assert left_over(place / "work") == []


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(30))
def test_a_kill_at_any_moment_changes_no_byte(tmp_path, nursery, world, seed):
    rng = random.Random(seed)
    place = again_in(tmp_path, "any", world)
    die = {"seconds": rng.uniform(0.0, 6.0)} if seed % 3 == 0 else {"nth": rng.randint(1, world[2])}
    code, out = nursery.run(["all", "data"], folder=place, die=die)
    assert code in (-9, 0), out
    count("kills", int(code == -9))
    code, out = nursery.run(["all", "data"], folder=place)
    assert code == 0, out
    assert differing(made_in(place / "work"), world[1]) == []
