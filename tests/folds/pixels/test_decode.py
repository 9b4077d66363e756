import base64
import shutil

import numpy as np
import pytest
from PIL import Image

from folds.find.reasons import reason_text
from folds.manifest.hashes import perceptual_hashes, thumbnail
from folds.pixels.decode import decode
from folds.pixels.formats import FORMATS
from tests.faults.pictures import by_hand, lying_png

SIZE = 32
# 24 x 16 pixels, red on the left and blue on the right, as pillow-heif 1.8 writes them.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAXxtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9j"
    "AAAAAERAAAEAAQAAAAABoAABAAAAAAAAAEoAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/Glw"
    "cnAAAADcaXBjbwAAAHVodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQApQgEBA3AA"
    "AAMAkAAAAwAAAwAeoCCBBZbqrprm4CGgwIAAAAyAAAADAIRiAAEABkQBwXPBiQAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABA"
    "AAAAQAAAAChjbGFwAAAAGAAAAAEAAAAQAAAAAf///9gAAAAC////0AAAAAIAAAAQcGl4aQAAAAADCAgIAAAAGGlwbWEAAAAAAAAAAQABBYEC"
    "AwWEAAAAUm1kYXQAAABGKAGvCchqRhojm1H/F/f6F6GvAtGA9Uc9ekrhFCZujSotF0kSKktA+7abgADcKTz9L0Dzld4vcWsy6cv5srFOgOMj"
    "Va17LA=="
)


def notes(path):
    return reason_text(decode(path, size=SIZE)[0].reasons)


def saved(picture, path, **options):
    picture.save(path, **options)
    return path


def test_a_clean_picture_has_no_notes_and_its_square_is_pillows_antialiased_resize(tmp_path, picture):
    facts, pixels = decode(saved(picture(1), tmp_path / "a.png"), size=SIZE)
    assert (facts.format, facts.mode, facts.width, facts.height) == ("PNG", "RGB", 64, 48)
    assert (reason_text(facts.reasons), facts.decoded) == ("", 1.0)
    assert (pixels.shape, pixels.dtype) == ((SIZE, SIZE, 3), np.uint8)
    assert (pixels == np.asarray(picture(1).resize((SIZE, SIZE), Image.Resampling.BICUBIC))).all()


@pytest.mark.parametrize(
    ("content", "notes"),
    [
        (b"", "zero-byte"),
        (b"<html>not found</html>", "not an image"),
        (b"\x00" * 500, "not an image"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "truncated: 0% decoded, JPEG header"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "truncated: 0% decoded, PNG header"),
        (lying_png(60_000), "too large: 60000 x 60000 pixels"),
    ],
)
def test_files_without_a_picture_are_named(tmp_path, content, notes):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    facts, pixels = decode(path, size=SIZE)
    assert (reason_text(facts.reasons), facts.decoded, pixels) == (notes, 0.0, None)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (HEIC, "HEIC"),
        (HEIC.replace(b"ftypheic", b"ftypheix"), "HEIC"),
        (HEIC.replace(b"ftypheic", b"ftyphevc"), "HEIC"),
        (HEIC.replace(b"ftypheic", b"ftypmif1"), "HEIC"),  # the codec stands among the other brands
        (b"\0\0\0\x18ftypmsf1\0\0\0\0msf1miaf" + bytes(99), "HEIF"),
    ],
)
def test_a_heic_file_is_named_with_what_reads_it_where_nothing_does(tmp_path, monkeypatch, content, what):
    """It was `not an image`."""
    monkeypatch.setattr("folds.pixels.decode.FORMATS", [form for form in FORMATS if form != "HEIF"])
    (tmp_path / "a.heic").write_bytes(content)
    facts, pixels = decode(tmp_path / "a.heic", size=SIZE)
    assert (reason_text(facts.reasons), pixels) == (f"no decoder: {what}, which `pip install pillow-heif` reads", None)


def test_a_heic_file_is_read_where_pillow_heif_is_installed(tmp_path):
    pytest.importorskip("pillow_heif")
    (tmp_path / "a.jpg").write_bytes(HEIC)
    facts, pixels = decode(tmp_path / "a.jpg", size=SIZE)
    assert (facts.format, facts.width, facts.height) == ("HEIF", 24, 16)
    assert reason_text(facts.reasons) == "wrong extension: HEIF named .jpg"
    assert pixels[4, 4] == pytest.approx([200, 40, 40], abs=8)
    assert pixels[4, -4] == pytest.approx([40, 40, 200], abs=8)


def test_an_avif_sequence_is_read_or_its_damage_named(tmp_path, picture):
    """A damaged one was `not an image`."""
    path = saved(picture(1), tmp_path / "a.avif", save_all=True, append_images=[picture(2)])
    assert path.read_bytes()[4:12] == b"ftypavis"
    assert notes(path) == "animated: first frame"
    path.write_bytes(path.read_bytes()[:100])
    assert notes(path) == "truncated: 0% decoded, AVIF header"


def test_a_file_that_is_gone_is_named(tmp_path):
    assert notes(tmp_path / "gone.jpg") == "cannot be read: No such file or directory"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "TIFF", "GIF"])
def test_a_truncated_picture_tells_how_much_decoded(tmp_path, form):
    noise = np.random.default_rng(0).integers(1, 256, size=(400, 300, 3), dtype=np.uint8)  # takes the same bytes a row
    path = saved(Image.fromarray(noise), tmp_path / f"a.{form.lower()}", format=form, quality=90)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    facts, pixels = decode(path, size=SIZE)
    assert reason_text(facts.reasons).startswith("truncated: ")
    assert reason_text(facts.reasons).endswith("% decoded")
    assert 0.4 < facts.decoded < 0.65
    assert pixels is not None


@pytest.mark.parametrize(
    ("is_progressive", "kept", "said"),
    [(False, slice(-20), "99% decoded"), (True, slice(3000), "100% of the rows decoded, coarsely")],
)
def test_a_jpeg_that_lacks_its_end_is_never_whole_and_a_progressive_one_coarse(
    tmp_path, picture, is_progressive, kept, said
):
    path = saved(picture(1, width=300, height=200), tmp_path / "a.jpg", progressive=is_progressive)
    path.write_bytes(path.read_bytes()[kept])
    assert notes(path) == f"truncated: {said}"


def test_a_stream_that_its_decoder_has_closed_is_opened_anew(tmp_path):
    """FTEX closes the file as soon as it has read it; a damaged one ended `prepare` with a ValueError."""
    (tmp_path / "a.ftc").write_bytes(dict(by_hand())["FTEX"][:2000])
    assert notes(tmp_path / "a.ftc").startswith(("truncated: ", "damaged: "))


def test_broken_bytes_inside_are_damage_and_not_truncation(tmp_path, picture):
    path = saved(picture(1), tmp_path / "a.png")
    content, half = path.read_bytes(), path.stat().st_size // 2
    path.write_bytes(content[:half] + bytes(40) + content[half + 40 :])
    facts, _ = decode(path, size=SIZE)
    assert reason_text(facts.reasons).startswith("damaged: ")
    assert 0 < facts.decoded < 1


@pytest.mark.parametrize(
    ("name", "form", "said"),
    [
        *(("a.jpg", form, f"wrong extension: {form} named .jpg") for form in ("PNG", "GIF", "BMP", "TIFF", "WEBP")),
        *((name, "JPEG", "") for name in ("a.JPG", "a.jpeg", "a.jfif", "a")),
    ],
)
def test_a_wrong_extension_is_kept_and_other_spellings_of_one_are_right(tmp_path, picture, name, form, said):
    facts, pixels = decode(saved(picture(1), tmp_path / name, format=form), size=SIZE)
    assert reason_text(facts.reasons) == said
    assert pixels is not None


RED, BLUE, WHITE = [255, 0, 0], [0, 0, 255], [255, 255, 255]


def grey(level):
    return [level] * 3


def halves(mode, left, right, *, palette=None):
    image = Image.new(mode, (40, 40), right)
    image.paste(left, (0, 0, 20, 40))
    if palette:
        image.putpalette(palette)
    return image


def deep(kind, left, right):
    values = np.full((40, 40), right, dtype=kind)
    values[:, :20] = left
    values[0, 0] = np.nan if kind == "f4" else left
    return Image.fromarray(values)


@pytest.mark.parametrize(
    ("image", "name", "note", "left", "right"),
    [
        (halves("CMYK", (0, 255, 255, 0), (0, 0, 0, 0)), "a.tif", "CMYK", RED, WHITE),
        (halves("RGBA", (0, 0, 0, 128), (0, 0, 0, 0)), "a.png", "alpha: on white", grey(127), WHITE),
        (halves("LA", (0, 128), (0, 0)), "a.png", "alpha: on white", grey(127), WHITE),
        (halves("P", 1, 0, palette=[*RED, *BLUE]), "a.gif", "alpha: on white", BLUE, WHITE),
        (deep("u2", 0, 257), "a.png", "16-bit", grey(0), grey(1)),
        (deep("u2", 128 * 257, 255 * 257), "a.png", "16-bit", grey(128), grey(255)),
        (deep("i4", 0, 200), "a.tif", "32-bit", grey(0), grey(200)),
        (deep("i4", 0, 65_535), "a.tif", "32-bit", grey(0), grey(255)),
        (deep("i4", 0, 1_000_000), "a.tif", "32-bit", grey(0), grey(255)),
        (deep("f4", 0, 1.0), "a.tif", "float", grey(0), grey(255)),
        (deep("f4", 0, 200.0), "a.tif", "float", grey(0), grey(200)),
        (deep("f4", 0, 5000.0), "a.tif", "float", grey(0), grey(255)),
    ],
)
def test_any_kind_of_pixels_becomes_rgb_with_deep_levels_scaled_and_transparent_ones_white(
    tmp_path, image, name, note, left, right
):
    """Half transparent black is half white; a level that is no number is black and leaves the others as they are."""
    facts, pixels = decode(saved(image, tmp_path / name, **({"transparency": 0} if image.mode == "P" else {})), size=40)
    assert (facts.mode, reason_text(facts.reasons)) == (image.mode, note)
    assert pixels[20, [5, 35]].tolist() == [left, right]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_its_first_frame(tmp_path, form):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    options = {"lossless": True} if form == "WEBP" else {}
    path = saved(frames[0], tmp_path / f"a.{form.lower()}", save_all=True, append_images=frames[1:], **options)
    facts, pixels = decode(path, size=SIZE)
    assert reason_text(facts.reasons) == "animated: first frame"
    assert pixels[0, 0].tolist() == RED


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_is_turned_upright(tmp_path, orientation):
    upright = Image.new("RGB", (40, 20), (255, 255, 255))
    upright.paste((255, 0, 0), (0, 0, 20, 10))  # red is at the top left
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Transpose members that the camera would have applied
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    facts, pixels = decode(saved(stored, tmp_path / "a.png", exif=exif), size=40)
    assert (facts.width, facts.height) == (40, 20)
    assert reason_text(facts.reasons) == ("" if orientation == 1 else f"turned: EXIF {orientation}")
    assert pixels[8, 8].tolist() == [255, 0, 0]
    assert pixels[30, 30].tolist() == [255, 255, 255]


def test_a_turned_tiff_is_turned_once(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    facts, _ = decode(saved(Image.new("RGB", (40, 20)), tmp_path / "a.tif", exif=exif), size=SIZE)
    assert (facts.width, facts.height) == (20, 40)


def test_broken_exif_does_not_cost_the_picture(tmp_path, picture):
    path = saved(picture(1), tmp_path / "a.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff" + b"\xfe" * 40)
    facts, pixels = decode(path, size=SIZE)
    assert facts.decoded == 1.0
    assert pixels is not None


def test_a_huge_jpeg_is_decoded_at_an_eighth(tmp_path):
    Image.new("L", (20_010, 10_000), 90).save(tmp_path / "a.jpg")  # just more than MAX_PIXELS
    facts, pixels = decode(tmp_path / "a.jpg", size=SIZE)
    assert (facts.width, facts.height, reason_text(facts.reasons)) == (20_010, 10_000, "large: 20010 x 10000 pixels")
    assert abs(int(pixels[5, 5, 0]) - 90) <= 1


def photograph(seed, *, width=1000, height=750):
    """Soft blotches, a few sharp edges and noise."""
    rng = np.random.default_rng(seed)
    cells = Image.fromarray(rng.integers(0, 256, size=(15, 20, 3), dtype=np.uint8))
    levels = np.asarray(cells.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    levels[height // 3 :, width // 2 :] += 60
    return Image.fromarray((levels + rng.normal(0, 6, levels.shape)).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(("quality", "colours"), [(75, "4:2:0"), (95, "4:4:4")])
def test_a_large_jpeg_decoded_smaller_is_within_two_levels_of_the_whole_with_its_hash(tmp_path, quality, colours):
    path = saved(photograph(1), tmp_path / "a.jpg", quality=quality, subsampling=colours)
    facts, pixels = decode(path, size=96)
    whole = Image.open(path).resize((96, 96), Image.Resampling.BICUBIC)
    apart = np.abs(pixels.astype(int) - np.asarray(whole))
    assert (facts.width, facts.height) == (1000, 750)
    assert 0 < apart.mean() < 0.5  # it was decoded smaller, and
    assert np.percentile(apart, 99) <= 2
    assert (int(facts.phash, 16) ^ perceptual_hashes(whole)[0]).bit_count() <= 2
    assert decode(shutil.copy(path, tmp_path / "b.jpeg"), size=96)[0].digest == facts.digest


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999])
def test_damage_of_a_large_jpeg_is_named_alike_whether_decoded_smaller_or_whole(tmp_path, share):
    path = saved(photograph(3), tmp_path / "a.jpg", quality=90)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    smaller, whole = (decode(path, size=size)[0] for size in (96, 600))
    assert smaller.decoded == pytest.approx(whole.decoded, abs=0.01)
    assert [reason.code for reason in smaller.reasons] == [reason.code for reason in whole.reasons] == ["truncated"]
    middle = int(share * len(content) / 2)
    path.write_bytes(content[:middle] + bytes(200) + content[middle + 200 :])
    smaller, whole = (decode(path, size=size)[0] for size in (96, 600))
    assert [reason.code for reason in smaller.reasons] == [reason.code for reason in whole.reasons]


@pytest.mark.parametrize("shape", [(1, 1), (1200, 6), (5, 900)])
def test_extreme_shapes_are_named_and_kept(tmp_path, shape):
    facts, pixels = decode(saved(Image.new("RGB", shape, (1, 2, 3)), tmp_path / "a.png"), size=SIZE)
    assert reason_text(facts.reasons) == f"extreme shape: {shape[0]} x {shape[1]}"
    assert (pixels == (1, 2, 3)).all()


def test_equal_pixels_have_equal_digests_in_any_format(tmp_path, picture):
    changed = picture(1)
    changed.putpixel((3, 3), (0, 0, 0))
    pictures = {"a.png": picture(1), "a.bmp": picture(1), "b.png": changed}
    digests = [decode(saved(image, tmp_path / name), size=SIZE)[0].digest for name, image in pictures.items()]
    assert digests[0] == digests[1] != digests[2]


def test_a_thumbnail_is_the_mean_of_its_areas():
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[0, 0] = 200
    assert thumbnail(pixels)[0, 0].tolist() == [50, 50, 50]
