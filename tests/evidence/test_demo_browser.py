"""The demo page in a real browser: Chromium without a window, driven by selenium.

    apt install chromium chromium-driver

Google's Chrome with its driver does as well. Without either the tests are skipped.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from attnorm.evidence.demo_examples import EXAMPLES

from .demo_server import CLASSIFIERS, DETECTORS, serving

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="needs Chromium or Chrome and its driver: apt install chromium-driver"
)
PATIENCE_S = 60  # a busy machine takes its time; nothing here measures it
PHONE, DESKTOP = (390, 844), (1280, 900)


class Visitor:
    """Somebody with a browser.

    Args:
        browser: without a window; its network log is on.
        url: of the page.
    """

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self.browser = browser
        self.requests()  # forgets those of the page before
        browser.get(url)
        self.wait_for(lambda: self.browser.find_elements(By.CSS_SELECTOR, "input[type=file]"))

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        return WebDriverWait(self.browser, PATIENCE_S).until(lambda _: condition())

    def upload(self, path: Path) -> None:
        self.wait_for(lambda: self.browser.find_elements(By.CSS_SELECTOR, "input[type=file]"))
        self.browser.find_element(By.CSS_SELECTOR, "input[type=file]").send_keys(str(path))

    def text(self) -> str:
        return self.browser.find_element(By.TAG_NAME, "body").text

    def wait_for_text(self, *words: str) -> str:
        self.wait_for(lambda: all(word in self.text() for word in words))
        return self.text()

    def pictures(self) -> list[str]:
        """Addresses of the pictures with objects, of those that have been loaded."""
        found = self.browser.find_elements(By.CSS_SELECTOR, ".objects img")
        return [image.get_attribute("src") or "" for image in found if int(image.get_property("naturalWidth"))]  # type: ignore[call-overload]

    def is_wider_than(self, size: tuple[int, int]) -> bool:
        """Whether a screen of a size in CSS pixels has to be moved sideways."""
        screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        return bool(self.browser.execute_script("return document.documentElement.scrollWidth > window.innerWidth"))

    def requests(self) -> set[str]:
        """Everything that the page has asked for since the last time, but for data within itself."""
        events = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return {url for url in sent if not url.startswith(("data:", "blob:"))}


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    # The sandbox needs rights that containers do not have; /dev/shm is small there.
    flags = "headless=new no-sandbox disable-gpu disable-dev-shm-usage disable-background-networking"
    for flag in (*flags.split(), f"window-size={DESKTOP[0]},{DESKTOP[1]}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    made = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield made
    made.quit()


def test_pictures_that_are_classified(browser: webdriver.Chrome, tmp_path: Path):
    """An image, a text, a file that is too large, an image again; nothing is asked of another machine."""
    EXAMPLES["fashion_mnist"]()["trousers"].save(tmp_path / "mine.png")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "large.png").write_bytes(os.urandom(1_200_000))
    with serving(*CLASSIFIERS) as url:
        visitor = Visitor(browser, url)
        visitor.upload(tmp_path / "mine.png")
        said = visitor.wait_for_text("ms per image", "mine.png, as the network sees it")
        assert said.count("Trouser\n100%") == 2
        assert said.count("ms per image") == 2
        assert "272,186 parameters\nno AN layer" in said
        assert "287,594 parameters\n9 AN layers, K = 10 to 20" in said
        (picture,) = browser.find_elements(By.CSS_SELECTOR, ".mixture svg")
        assert str(picture.get_attribute("aria-label")).startswith("Mixture weights λ of resnet20_cifar_an")
        assert [size for size in (PHONE, DESKTOP) if visitor.is_wider_than(size)] == []

        visitor.upload(tmp_path / "notes.txt")
        said = visitor.wait_for_text("notes.txt cannot be shown: its content is none of AVIF")
        assert "ms per image" not in said
        visitor.upload(tmp_path / "large.png")
        visitor.wait_for_text("exceed the maximum allowed size of 1.0 Mb", "large.png")

        browser.find_elements(By.CSS_SELECTOR, ".gallery-item")[3].click()
        said = visitor.wait_for_text("ms per image", "boot.png, as the network sees it")
        assert said.count("Ankle boot\n100%") == 2
        assert "cannot be shown" not in said
        asked = visitor.requests()
        assert len(asked) > 10
        assert {address for address in asked if not address.startswith(url)} == set()


def test_pictures_with_objects(browser: webdriver.Chrome):
    """Boxes and masks of both detectors; the slider draws them anew."""
    with serving(*DETECTORS) as url:
        visitor = Visitor(browser, url)
        browser.find_elements(By.CSS_SELECTOR, ".gallery-item")[0].click()
        visitor.wait_for_text("Show objects with a score above", "quartiles")
        before = visitor.wait_for(lambda: found if len(found := visitor.pictures()) == 2 else None)
        browser.find_element(By.CSS_SELECTOR, "input[type=range]").send_keys(Keys.HOME)
        visitor.wait_for(lambda: len(after := visitor.pictures()) == 2 and not set(after) & set(before))
        assert {address for address in visitor.requests() if not address.startswith(url)} == set()
