"""The page in a browser, as a person uses it: by pointer, by keyboard, with a camera that shows a made-up world."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving import TOKEN, Served, serving

from x2sam_rt.data.synthetic import ClipSettings, make_clip
from x2sam_rt.media.colors import color_of
from x2sam_rt.media.rle import decode_mask
from x2sam_rt.media.video import VideoWriter
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.regions import Prompt

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (make test-serve)")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (apt-get install chromium)")
AXE = Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
SIDE, FRAMES = 192, 24
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]  # fmt: skip
REMEMBER_WHAT_IS_ASKED = """() => {
    const real = window.fetch;
    window.fetch = (path, options) => {
        if (path === "v1/image") window.asked = options.body.get("instruction");
        return real(path, options);
    };
}"""
expect = playwright.expect


@pytest.fixture(scope="module")
def clip() -> list[np.ndarray]:
    return list(make_clip(3, ClipSettings(side=SIDE, frames=FRAMES)).frames)


@pytest.fixture(scope="module")
def media(clip: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clip.mp4, photo.png, and camera.mjpeg, which the browser's fake camera shows again and again."""
    folder = tmp_path_factory.mktemp("media")
    with VideoWriter(folder / "clip.mp4", SIDE, SIDE, 12) as video:
        for frame in clip:
            video.write(frame)
    Image.fromarray(clip[0]).save(folder / "photo.png")
    with (folder / "camera.mjpeg").open("wb") as camera:
        for frame in clip:
            Image.fromarray(frame).save(camera, "JPEG", quality=95)
    return folder


@pytest.fixture(scope="module")
def browser(media: Path) -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as started:
        camera = f"--use-file-for-fake-video-capture={media / 'camera.mjpeg'}"
        yield started.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, camera])


@pytest.fixture
def page(browser: playwright.Browser, served: Served) -> Iterator[playwright.Page]:
    """The page, with the token given, that must not complain in its console."""
    yield from opened(browser, served)


def opened(browser: playwright.Browser, served: Served, **options: object) -> Iterator[playwright.Page]:
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(60_000)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(served.url)
    page.get_by_label("This server wants a token").fill(TOKEN)
    page.get_by_role("button", name="Enter").click()
    expect(page.locator("#server")).to_contain_text("streams at once")
    complaints.clear()  # the refusals before the token was given
    yield page
    page.context.close()
    assert complaints == []


def legend(page: playwright.Page) -> playwright.Locator:
    return page.get_by_role("list", name="On this frame").get_by_role("listitem")


def segment(page: playwright.Page, phrase: str) -> None:
    page.get_by_label("A phrase").check()
    page.get_by_label("Phrase", exact=True).fill(phrase)
    page.keyboard.press("Enter")
    expect(legend(page).filter(has_text=phrase).first).to_be_visible(timeout=60_000)


def use_camera(page: playwright.Page) -> None:
    page.get_by_role("button", name="Use the camera").click()
    expect(page.get_by_role("status")).to_contain_text("The camera is open")


def downloaded(page: playwright.Page, button: str) -> bytes:
    with page.expect_download() as caught:
        page.get_by_role("button", name=button).click()
    return Path(caught.value.path()).read_bytes()


def records(page: playwright.Page, button: str = "Masks of all frames") -> list[dict]:
    return [json.loads(line) for line in downloaded(page, button).decode().splitlines()]


def ask_drawn(page: playwright.Page) -> None:
    expect(page.locator("#drawn")).to_have_text("Drawn: 1.")
    page.get_by_role("button", name="Segment", exact=True).click()
    expect(legend(page).filter(has_text="region 1").first).to_be_visible(timeout=60_000)


def test_an_images_masks_are_those_of_the_runtime(
    page: playwright.Page, media: Path, clip: list[np.ndarray], onnx_bundle: Path
) -> None:
    page.set_input_files("#file", media / "photo.png")
    segment(page, "the red circle")
    with Runtime.load(onnx_bundle) as runtime:
        expected = runtime.segment_image(clip[0], Instruction(phrases=("the red circle",)))
    assert records(page) == [expected.record()]
    painted = np.asarray(Image.open(io.BytesIO(downloaded(page, "This frame, painted"))).convert("RGB"))
    (found,) = expected.segments
    assert painted.shape == clip[0].shape
    inner = found.mask & (painted != clip[0]).any(-1)
    assert inner.sum() > 0.9 * found.area  # the label may lie on it
    assert (painted[found.mask] == color_of(found.id)).all(-1).any()


def test_a_camera_is_segmented_live_and_words_change_meanwhile(page: playwright.Page) -> None:
    use_camera(page)
    segment(page, "the red circle")
    segment(page, "the dog")
    page.get_by_label("All it can name").check()
    page.get_by_label("Categories").check()
    page.get_by_label("Things, to be told apart").fill("circle, square")
    page.get_by_label("Stuff, as one").fill("sky")
    page.get_by_label("Drawn as").select_option("semantic")
    page.get_by_role("button", name="Segment", exact=True).click()
    expect(legend(page).filter(has_text=re.compile("circle|square|sky")).first).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("The answer holds: circle, square, sky.")
    expect(page.locator("#latency-now")).to_contain_text("frames/s")
    expect(page.locator("#memory-now")).to_contain_text("MiB")
    kept = records(page)
    labels = [{one["label"] for one in record["segments"]} for record in kept]
    assert {"the red circle"} in labels
    assert {"the dog"} in labels
    assert [record["frame"] for record in kept] == sorted({record["frame"] for record in kept})
    assert all(record["size"] == [SIDE, SIDE] for record in kept)


def test_a_video_waits_for_its_masks_and_ends(page: playwright.Page, media: Path) -> None:
    page.set_input_files("#file", media / "clip.mp4")
    expect(page.get_by_role("status")).to_contain_text("is open", timeout=60_000)
    segment(page, "the red circle")
    expect(page.get_by_role("status")).to_contain_text("The video has ended", timeout=60_000)
    kept = records(page)
    assert len(kept) >= FRAMES // 2
    for record in kept:
        for one in record["segments"]:
            assert decode_mask(one["rle"], *record["size"]).sum() == one["area"]


def test_a_box_is_drawn_with_the_pointer(page: playwright.Page, media: Path) -> None:
    page.set_input_files("#file", media / "clip.mp4")
    page.get_by_label("Box").check()
    area = page.locator("#drawing").bounding_box()
    assert area is not None
    page.mouse.move(area["x"] + area["width"] / 4, area["y"] + area["height"] / 4)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] * 3 / 4)
    page.mouse.up()
    ask_drawn(page)


def test_a_point_is_placed_with_the_keyboard_alone(
    page: playwright.Page, media: Path, clip: list[np.ndarray], onnx_bundle: Path
) -> None:
    """And lies where the cross-hair was said to be; masks are those of the runtime."""
    page.set_input_files("#file", media / "photo.png")
    expect(page.locator("#frame[data-filled]")).to_be_visible()
    page.get_by_label("Point").focus()
    page.keyboard.press("Space")
    page.locator("#frame").focus()
    for key in ("ArrowLeft", "ArrowLeft", "Shift+ArrowUp"):
        page.keyboard.press(key)
    x, y = SIDE // 2 - 16, SIDE // 2 - 1
    expect(page.get_by_role("status")).to_contain_text(f"{x}, {y}")
    page.keyboard.press("Enter")
    page.evaluate(REMEMBER_WHAT_IS_ASKED)
    ask_drawn(page)
    region = {"kind": "point", "vertices": [[x, y]], "radius": SIDE // 32}
    assert json.loads(page.evaluate("window.asked")) == {"task": "interactive", "regions": [region]}
    with Runtime.load(onnx_bundle) as runtime:
        point = Prompt.point(x, y, radius=SIDE // 32)
        expected = runtime.segment_image(clip[0], Instruction("interactive", regions=(point,)))
    assert expected.segments
    assert records(page) == [expected.record()]


def test_scribbles_and_boxes_by_keyboard_can_be_given_up(page: playwright.Page, media: Path) -> None:
    page.set_input_files("#file", media / "photo.png")
    expect(page.locator("#frame[data-filled]")).to_be_visible()
    drawn = page.locator("#drawn")
    for tool in ("Scribble", "Box"):
        page.get_by_label(tool).check()
        page.locator("#frame").focus()
        for key in ("ArrowDown", "Enter", "ArrowRight", "ArrowRight", "Enter"):
            page.keyboard.press(key)
    expect(drawn).to_have_text("Drawn: 2.")
    for key in ("ArrowDown", "Enter", "ArrowDown", "Escape"):
        page.keyboard.press(key)
    expect(drawn).to_have_text("Drawn: 2.")
    page.keyboard.press("Backspace")
    expect(drawn).to_have_text("Drawn: 1.")
    page.get_by_role("button", name="Clear drawing").click()
    expect(drawn).to_contain_text("Nothing is drawn yet")


def test_the_whole_file_is_segmented_on_the_server(page: playwright.Page, media: Path) -> None:
    page.set_input_files("#file", media / "clip.mp4")
    page.get_by_label("Phrase", exact=True).fill("the red circle")
    page.get_by_role("button", name="Segment the whole file").click()
    expect(page.get_by_role("status")).to_contain_text(f"segmented: {FRAMES} frames", timeout=60_000)
    assert [record["frame"] for record in records(page, "Its masks")] == list(range(FRAMES))


def test_what_cannot_be_done_is_said_in_words(page: playwright.Page, media: Path, tmp_path: Path) -> None:
    alert = page.get_by_role("alert")
    (tmp_path / "notes.txt").write_text("no picture")
    page.set_input_files("#file", tmp_path / "notes.txt")
    expect(alert).to_contain_text("notes.txt is no video or image")
    page.set_input_files("#file", media / "clip.mp4")
    page.get_by_label("Categories").check()
    page.get_by_role("button", name="Segment", exact=True).click()
    expect(alert).to_contain_text("An empty category list")
    page.get_by_label("Things, to be told apart").fill("circle")
    page.get_by_role("button", name="Segment", exact=True).click()
    expect(alert).to_be_empty()
    expect(page.get_by_role("status")).to_contain_text("The video has ended", timeout=60_000)


def test_a_wrong_token_is_asked_for_again(browser: playwright.Browser, served: Served) -> None:
    page = browser.new_context().new_page()
    page.goto(served.url)
    page.get_by_label("This server wants a token").fill("a token that somebody guessed")
    page.get_by_role("button", name="Enter").click()
    expect(page.get_by_role("alert")).to_contain_text("Bring the server's token")
    expect(page.get_by_label("This server wants a token")).to_be_focused()
    page.context.close()


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_it_fits_and_is_accessible(
    browser: playwright.Browser, served: Served, media: Path, width: int, scheme: str
) -> None:
    options = {"viewport": {"width": width, "height": 760}, "color_scheme": scheme, "has_touch": width < 500}
    for page in opened(browser, served, **options):
        page.set_input_files("#file", media / "photo.png")
        segment(page, "the red circle")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for button in page.locator("button:visible, .button").all():
            area = button.bounding_box()
            assert area is not None
            assert area["height"] >= 44
        if AXE.is_file():
            page.evaluate(AXE.read_text())
            found = page.evaluate(
                "axe.run().then(({violations}) => violations.map(({id, nodes}) => [id, nodes.length]))"
            )
            assert found == []


def test_everything_is_reached_by_tab(page: playwright.Page, media: Path) -> None:
    page.set_input_files("#file", media / "photo.png")
    expect(page.get_by_role("button", name="Segment", exact=True)).to_be_enabled()
    page.evaluate("document.activeElement.blur()")
    seen = []
    for _ in range(12):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.name"))
    assert seen[:7] == ["file", "camera", "frame", "tool", "mode", "phrase", None]  # the summary of More
    assert "submit" in seen


def test_a_stream_goes_on_when_its_worker_ends(browser: playwright.Browser, onnx_bundle: Path, tmp_path: Path) -> None:
    with serving(onnx_bundle, tmp_path, "--max-pixels=40000", "--save-every=3") as server:
        for page in opened(browser, server):
            use_camera(page)
            segment(page, "the red circle")
            server.workers()[0].kill()
            expect(page.get_by_role("alert")).to_contain_text("and goes on from", timeout=60_000)
            require_frames_go_on(page)


def test_a_stream_goes_on_from_its_own_snapshot_with_the_next_server(
    browser: playwright.Browser, onnx_bundle: Path, tmp_path: Path
) -> None:
    """On the same port, as behind one address; the words asked last hold."""
    with serving(onnx_bundle, tmp_path / "first") as first:
        opening = opened(browser, first)
        page = next(opening)
        use_camera(page)
        segment(page, "the red circle")
        segment(page, "the dog")
        require_frames_go_on(page)
        first.process.kill()
        expect(page.get_by_role("alert")).to_contain_text("Trying again in")
        with serving(onnx_bundle, tmp_path / "second", port=int(first.url.rpartition(":")[2])):
            expect(page.get_by_role("alert")).to_contain_text("and goes on from frame", timeout=60_000)
            require_frames_go_on(page)
            expect(legend(page).filter(has_text="the dog").first).to_be_visible()
            page.context.close()  # its console has the connections that failed


def require_frames_go_on(page: playwright.Page) -> None:
    """Behind those that there are: the frames since a snapshot come a second time first, in the same places."""
    before, deadline = len(records(page)), time.monotonic() + 60
    while len(records(page)) <= before:
        assert time.monotonic() < deadline, f"no frame came behind the {before} that there are"
        page.wait_for_timeout(100)
