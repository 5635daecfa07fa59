#!/usr/bin/env python3
"""Looks at the web page in a real browser: three daemons with a real etcd, each page at two widths and in two themes, what is
seen on it, what can be done with it, and what it shows when a node goes down while it is open.

Usage: check.py BULKHEAD [DIRECTORY-FOR-SCREENSHOTS]. Needs root, etcd, Chromium, and playwright from PyPI."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

PATIENCE = 60_000
# What the browser itself says of answers that refuse, and of a node that is down: both are meant.
REFUSALS = ("Failed to load resource: the server responded with a status of 4", "Failed to load resource: net::ERR_")
SIZES = {"1440": (1440, 900), "390": (390, 844)}


def free_port():
    """A port below those that outgoing connections take."""
    for port in range(11000 + os.getpid() % 4000, 30000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in free_port.given:
            free_port.given.add(port)
            return port
    raise SystemExit("no port is free")


free_port.given = set()


def eventually(what, so, limit=60):
    end = time.monotonic() + limit
    while not so():
        if time.monotonic() > end:
            raise SystemExit(f"not in time: {what}")
        time.sleep(0.2)


class Node:
    """A daemon in directories of its own."""

    def __init__(self, bulkhead, base, name, store):
        self.bulkhead, self.name, self.dir = bulkhead, name, base / name
        self.dir.mkdir()
        self.port, self.process = free_port(), None
        self.flags = [
            "daemon", "--config", "/dev/null", "--node-name", name, "--docker-api", "", "--store", store,
            "--socket", self.at("c.sock"), "--docker-socket", self.at("d.sock"), "--state-dir", self.at("state"),
            "--run-dir", self.at("run"), "--mounts-dir", self.at("mounts"), "--lease", "3s",
            "--data-address", f"127.0.0.1:{free_port()}", "--api-listen", f"127.0.0.1:{self.port}",
        ]

    def at(self, name):
        return str(self.dir / name)

    def log(self):
        log = self.dir / "log"
        return log.read_text() if log.exists() else ""

    def start(self):
        ready = self.log().count("the API is served")
        self.process = subprocess.Popen([self.bulkhead, *self.flags], stderr=open(self.at("log"), "a"))
        eventually(f"{self.name} serves its API", lambda: self.log().count("the API is served") > ready)

    def stop(self):
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(40)
            self.process = None

    def cli(self, *arguments):
        environment = {**os.environ, "BULKHEAD_CONTROL_SOCKET": self.at("c.sock")}
        done = subprocess.run([self.bulkhead, *arguments], env=environment, capture_output=True, text=True, timeout=150)
        if done.returncode not in (0, 5):
            raise SystemExit(f"{arguments}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def docker(self, call, **body):
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(100)
            stream.connect(self.at("d.sock"))
            text = json.dumps(body).encode()
            stream.sendall(b"POST /VolumeDriver.%s HTTP/1.1\r\nHost: d\r\nContent-Length: %d\r\n\r\n%s" % (call.encode(), len(text), text))
            answer = b""
            while piece := stream.recv(65536):
                answer += piece
        said = json.loads(answer.split(b"\r\n\r\n", 1)[1])
        if said.get("Err"):
            raise SystemExit(f"{call}: {said}")
        return said


def look(browser, nodes, shots):
    first = nodes[0]
    viewer, admin = (first.cli("token", "create", role, "--role", role) for role in ("viewer", "admin"))
    address = f"https://127.0.0.1:{first.port}/"
    context = browser.new_context(ignore_https_errors=True, viewport={"width": 1440, "height": 900})
    page = context.new_page()
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" and not said.text.startswith(REFUSALS) else None)
    foreign = []
    page.on("request", lambda request: foreign.append(request.url) if not request.url.startswith((address, "data:")) else None)

    page.goto(address)
    main = page.locator("main")
    expect(main).to_contain_text("Sign in")
    page.get_by_label("Token").fill("bulkhead-wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").first).to_contain_text("not known here")
    page.get_by_label("Token").fill(admin)
    page.keyboard.press("Enter")
    expect(main).to_contain_text("healthy", timeout=PATIENCE)
    expect(main).to_contain_text("3 ok")

    # A volume is made, looked at, used.
    page.get_by_role("link", name="Volumes", exact=True).click()
    page.get_by_role("button", name="Create a volume").click()
    page.get_by_label("Name").fill("shop")
    page.get_by_label("Size").fill("64M")
    page.get_by_label("Replicas").fill("2")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(main.get_by_role("link", name="shop")).to_be_visible(timeout=PATIENCE)
    mounted = first.docker("Mount", Name="shop", ID="a")["Mountpoint"]
    (Path(mounted) / "file").write_bytes(os.urandom(1 << 20))
    page.get_by_role("link", name="shop").click()
    expect(main).to_contain_text("attached", timeout=PATIENCE)
    expect(main).to_contain_text("in sync")
    expect(main.locator("svg polyline").first).to_be_attached(timeout=PATIENCE)
    page.get_by_role("button", name="Change the number of replicas").click()
    page.get_by_label("How many").fill("9")
    page.get_by_role("button", name="Change", exact=True).click()
    expect(page.locator("dialog")).to_contain_text("1 to")
    page.get_by_label("How many").fill("3")
    page.get_by_role("button", name="Change", exact=True).click()
    expect(main).to_contain_text("n3", timeout=PATIENCE)
    expect(main.locator(".pill", has_text="in sync")).to_have_count(3, timeout=PATIENCE)

    page.get_by_role("link", name="Classes").click()
    page.get_by_role("button", name="Create a storage class").click()
    page.get_by_label("Name").fill("gold")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(main).to_contain_text("gold", timeout=PATIENCE)

    # What makes machines nodes, from the flags of the command line; what is secret stands in no address.
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("link", name="Add nodes").click()
    expect(page.get_by_label("What to print")).to_be_visible(timeout=PATIENCE)
    page.get_by_label("store", exact=True).fill("etcd://h1:2379")
    password = page.get_by_label("store-password", exact=True)
    expect(password).to_have_attribute("type", "password")
    password.fill("s3cret-word")
    page.get_by_label("pool", exact=True).fill("relative")
    page.get_by_role("button", name="Show").click()
    expect(main.get_by_role("alert")).to_contain_text("begins with /")
    page.get_by_label("pool", exact=True).fill("/dev/nvme1n1\n/var/lib/bulkhead/p.img=5G")
    page.wait_for_timeout(2500)
    page.get_by_role("button", name="Show").click()
    expect(main.locator("pre")).to_contain_text("pool /dev/nvme1n1")
    expect(main.locator("pre")).to_contain_text("s3cret-word")
    page.get_by_label("What to print").select_option("stack")
    page.get_by_label("image", exact=True).fill("registry:5000/bulkhead:1")
    page.get_by_label("store-password", exact=True).fill("")
    page.get_by_role("button", name="Show").click()
    expect(main.locator("pre")).to_contain_text("mode: global")
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, location.href])")
    if any("s3cret-word" in text for text in [*asked, kept]):
        raise SystemExit("a secret stands where others see it")

    # Every page in every size and theme, without a word that sticks out.
    for route, name in [("#/", "overview"), ("#/nodes", "nodes"), ("#/nodes/n2", "node"), ("#/volumes", "volumes"), ("#/volumes/shop", "volume"), ("#/classes", "classes"), ("#/events", "events"), ("#/generate", "generate")]:
        for width, (wide, high) in SIZES.items():
            page.set_viewport_size({"width": wide, "height": high})
            for theme in ("light", "dark"):
                page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
                page.goto(address + route)
                expect(main.locator(".card").first).to_be_visible(timeout=PATIENCE)
                page.wait_for_timeout(300)
                over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                if over > 0:
                    raise SystemExit(f"{name} at {width}: {over} pixels stick out")
                if shots:
                    page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
                    page.screenshot(path=shots / f"{name}-{width}-{theme}.png")
    page.set_viewport_size({"width": 1440, "height": 900})

    # By keyboard alone: the first stop leads past the head.
    page.goto(address + "#/")
    page.reload()
    expect(main).to_contain_text("healthy", timeout=PATIENCE)
    page.keyboard.press("Tab")
    if page.evaluate("document.activeElement.className") != "skip":
        raise SystemExit("the first stop of the keyboard is not the way to the content")
    page.evaluate("document.activeElement.blur()")

    # A node goes down while the page is open, and comes back.
    nodes[1].stop()
    expect(main).to_contain_text("gives no sign of life", timeout=PATIENCE)
    expect(main).to_contain_text("needs attention")
    expect(main).not_to_contain_text("Nothing is wrong that is known", timeout=PATIENCE)
    expect(main).to_contain_text("shop shows its replicas", timeout=PATIENCE)
    if shots:
        page.screenshot(path=shots / "node-down-1440-light.png", full_page=True)
    nodes[1].start()
    expect(main).to_contain_text("Nothing is wrong that is known", timeout=PATIENCE)
    expect(main.locator(".pill", has_text="healthy")).to_be_visible(timeout=PATIENCE)
    page.goto(address + "#/events")
    expect(main).to_contain_text("cleared node-away", timeout=PATIENCE)

    # The node that serves the page goes down: the page says so, and goes on when it is back.
    first.docker("Unmount", Name="shop", ID="a")
    first.stop()
    expect(page.get_by_role("alert").first).to_contain_text("does not answer", timeout=PATIENCE)
    first.start()
    expect(page.get_by_role("alert").first).to_be_hidden(timeout=PATIENCE)

    # To delete asks first; a viewer may not.
    page.goto(address + "#/volumes/shop")
    page.get_by_role("button", name="Delete").click()
    page.get_by_label("Write shop to confirm").fill("shop")
    page.locator("dialog").get_by_role("button", name="Delete").click()
    expect(main).to_contain_text("There is no volume yet", timeout=PATIENCE)
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("Token").fill(viewer)
    page.keyboard.press("Enter")
    page.goto(address + "#/volumes")
    page.get_by_role("button", name="Create a volume").click()
    page.get_by_label("Name").fill("mine")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.locator("dialog")).to_contain_text("only allows to look")
    if faults or foreign:
        raise SystemExit(f"the page has faults: {faults}, and asked others: {foreign}")
    context.close()


def main():
    bulkhead = str(Path(sys.argv[1]).resolve())
    shots = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    if shots:
        shots.mkdir(parents=True, exist_ok=True)
    base = Path(tempfile.mkdtemp(prefix="bhui", dir="/tmp"))
    client, peer = free_port(), free_port()
    etcd = subprocess.Popen(
        ["etcd", "--name", "m", "--data-dir", str(base / "etcd"), "--listen-client-urls", f"http://127.0.0.1:{client}",
         "--advertise-client-urls", f"http://127.0.0.1:{client}", "--listen-peer-urls", f"http://127.0.0.1:{peer}",
         "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}", "--initial-cluster", f"m=http://127.0.0.1:{peer}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    nodes = [Node(bulkhead, base, f"n{n}", f"etcd://127.0.0.1:{client}") for n in (1, 2, 3)]
    try:
        for node in nodes:
            node.start()
            node.cli("pool", "add", node.at("pool.img"), "--size", "2G")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            look(browser, nodes, shots)
            browser.close()
        print("The page shows what is so, and does what it is told.")
    except BaseException:
        for node in nodes:
            print(f"--- {node.name}\n" + "\n".join(node.log().splitlines()[-25:]), file=sys.stderr)
        raise
    finally:
        for node in nodes:
            try:
                node.stop()
            except Exception as error:
                print(f"{node.name}: {error}", file=sys.stderr)
                node.process and node.process.kill()
        etcd.terminate()
        etcd.wait(20)
        shutil.rmtree(base, ignore_errors=True)


main()
