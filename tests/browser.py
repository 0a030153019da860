"""A headless Chromium, where there is one."""

import contextlib
import shutil

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@contextlib.contextmanager
def open_page(path, width=1200, height=1000, dark=False):
    """Opens a file or a page of this machine; skips where there is no browser.

    There is no network beyond 127.0.0.1. `path` is a path or an address.

    Yields:
        Selenium's driver, and a function that gives the console's messages.
    """
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    driver_path = shutil.which("chromedriver")
    if browser is None or driver_path is None:
        pytest.skip(
            "no browser: install chromium and chromedriver (Debian: "
            "apt-get install chromium chromium-driver)"
        )
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    # Containers have little shared memory.
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
    ):
        options.add_argument(f"--{argument}")
    # Names that must be looked up are not found: there is no network.
    options.add_argument(
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    )
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(driver_path)
    driver = webdriver.Chrome(options, service)
    try:
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {
                "width": width,
                "height": height,
                "deviceScaleFactor": 1,
                "mobile": False,
            },
        )
        theme = {
            "name": "prefers-color-scheme",
            "value": "dark" if dark else "light",
        }
        driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [theme]}
        )
        is_address = isinstance(path, str)
        driver.get(path if is_address else path.resolve().as_uri())
        yield driver, lambda: driver.get_log("browser")
    finally:
        driver.quit()
