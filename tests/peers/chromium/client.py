"""Chromium as a client of the matrix: `client.py CA CERT KEY HOST` obeys lines on stdin (../README.md).

Run it in a mount namespace of its own (`unshare --mount`): the policy that selects the client certificate, the
certificate store and the profiles lie on file systems that vanish with it. A slot is a browser context, which has a TLS
session cache of its own. The net log tells what was on the wire.
"""

import base64
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

CHROMIUM = "/usr/lib/chromium/chromium"
POLICIES = Path("/etc/chromium")
PATIENCE = 10
# Events of the net log are written in batches; after this long without the one that is awaited others are provoked.
NUDGE = 0.2
FLAGS = [
    "--headless=new",
    "--remote-debugging-pipe",
    # Root has no sandbox. All there is to visit are the lab's servers.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-proxy-server",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
]
# Numbers of RFC 8446 4 and 4.2, RFC 5077 3.2.
CLIENT_HELLO, SERVER_HELLO = 1, 2
EXTENSION_TICKET, EXTENSION_PRE_SHARED_KEY = 35, 41
VERSIONS = {"tls1.2": "TLS 1.2", "tls1.3": "TLS 1.3"}


class Failed(Exception):
    """A visit that did not end as it should."""


def run(*words):
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{words[0]}: {done.stdout.strip()} {done.stderr.strip()}")
    return done.stdout


def prepare(home, ca, cert, key, host):
    """Lays out certificate store and policy where only this process and its children see them."""
    home.mkdir(exist_ok=True)
    for place in (home, POLICIES):
        run("mount", "-t", "tmpfs", "steer-chromium", str(place))
    store, bundle = home / ".pki/nssdb", home / "client.p12"
    store.mkdir(parents=True)
    run("certutil", "-N", "-d", f"sql:{store}", "--empty-password")
    run("certutil", "-A", "-d", f"sql:{store}", "-n", "lab", "-t", "C,,", "-i", ca)
    run("openssl", "pkcs12", "-export", "-in", cert, "-inkey", key, "-passout", "pass:", "-out", str(bundle))
    run("pk12util", "-i", str(bundle), "-d", f"sql:{store}", "-W", "")
    managed = POLICIES / "policies/managed"
    managed.mkdir(parents=True)
    select_any = json.dumps({"pattern": f"https://{host}", "filter": {}})
    (managed / "lab.json").write_text(json.dumps({"AutoSelectCertificateForUrls": [select_any]}))


class NetLog:
    """What Chromium writes of its sockets: by source id, the parameters of events by name."""

    def __init__(self, path):
        self.path, self.file, self.rest, self.names, self.sockets = path, None, "", {}, {}

    def read(self):
        if self.file is None:
            if not self.path.exists():
                return
            self.file = self.path.open(encoding="utf-8")
        *lines, self.rest = (self.rest + self.file.read()).split("\n")
        for line in lines:
            if line.startswith('{"constants"'):
                types = json.loads(line.rstrip(",") + "}")["constants"]["logEventTypes"]
                self.names = {number: name for name, number in types.items()}
            elif line.startswith("{"):
                event = json.loads(line.rstrip(","))
                events = self.sockets.setdefault(event["source"]["id"], {})
                if "params" in event:
                    events.setdefault(self.names[event["type"]], []).append(event["params"])

    def connected(self, socket):
        """The events of a socket, once its handshake is over."""
        self.read()
        events = self.sockets.get(socket, {})
        return events if "SSL_CONNECT" in events else None


class Browser:
    """Chromium for one target address: the name resolves to it for as long as the process lives."""

    def __init__(self, home, host, target):
        profile = home / target
        self.log = NetLog(home / f"{target}.netlog")
        orders, self.orders = os.pipe()
        self.answers, answers = os.pipe()
        flags = [f"--user-data-dir={profile}", f"--log-net-log={self.log.path}"]
        rules = f"--host-resolver-rules=MAP {host} {target},MAP * ^NOTFOUND"
        # Chromium reads orders from descriptor 3 and writes answers to 4; it dies with this process.
        shell = f'exec "$@" 3<&{orders} 4>&{answers}'
        words = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", shell, "sh", CHROMIUM, *FLAGS, *flags, rules]
        self.process = subprocess.Popen(
            words,
            env={**os.environ, "HOME": str(home)},
            pass_fds=(orders, answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(orders)
        os.close(answers)
        self.received, self.n_orders, self.events = b"", 0, []

    def order(self, method, session=None, **parameters):
        """One call of the DevTools protocol."""
        self.n_orders += 1
        message = {"id": self.n_orders, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self.orders, json.dumps(message).encode() + b"\0")
        number, deadline = self.n_orders, time.monotonic() + PATIENCE
        answer = self.await_message(lambda message: message.get("id") == number, deadline, method)
        if "error" in answer:
            raise Failed(f"{method}: {answer['error'].get('message')}")
        return answer["result"]

    def await_message(self, wanted, deadline, what):
        """The first message that is wanted; events that come before it are kept."""
        while True:
            while b"\0" in self.received:
                message, self.received = self.received.split(b"\0", 1)
                message = json.loads(message)
                if wanted(message):
                    return message
                if "method" in message:
                    self.events.append(message)
            if not select.select([self.answers], [], [], max(0, deadline - time.monotonic()))[0]:
                raise Failed(f"no answer to {what}")
            piece = os.read(self.answers, 1 << 16)
            if not piece:
                raise Failed("chromium ended")
            self.received += piece

    def await_event(self, wanted, what):
        for event in self.events:
            if wanted(event):
                return event["params"]
        return self.await_message(wanted, time.monotonic() + PATIENCE, what)["params"]


class Slot:
    """One simulated client: a browser context with one page."""

    def __init__(self, browser):
        self.browser = browser
        self.context = browser.order("Target.createBrowserContext")["browserContextId"]
        page = browser.order("Target.createTarget", url="about:blank", browserContextId=self.context)
        attached = browser.order("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self.page = attached["sessionId"]
        browser.order("Network.enable", self.page)
        browser.order("Network.setCacheDisabled", self.page, cacheDisabled=True)
        # A second connection would take a ticket of its own.
        browser.order("Network.setBlockedURLs", self.page, urls=["*favicon*"])
        self.session_ids, self.seen = set(), set()

    def close(self):
        self.browser.order("Target.disposeBrowserContext", browserContextId=self.context)

    def visit(self, url, version, source):
        browser = self.browser
        browser.events.clear()
        loader = browser.order("Page.navigate", self.page, url=url)
        if "errorText" in loader:
            raise Failed(loader["errorText"])
        loader = loader["loaderId"]

        def of_page(*methods):
            return lambda m: m.get("method") in methods and m["params"].get("requestId") == loader

        response = browser.await_event(of_page("Network.responseReceived"), url)["response"]
        browser.await_event(of_page("Network.loadingFinished", "Network.loadingFailed"), url)
        events = self.events_of(int(response["connectionId"]))
        done = events["SSL_CONNECT"][-1]
        local = events["TCP_CONNECT"][-1].get("local_address", "")
        if response["status"] != 200 or done.get("version") != VERSIONS[version] or not local.startswith(f"{source}:"):
            raise Failed(f"status {response['status']}, {done} from {local}")
        offered = self.offered(events)
        return f"ok {offered:d} {done['is_resumed']:d} {response['securityDetails']['subjectName']}"

    def events_of(self, socket):
        """Events of the page's connection, which must be a new one."""
        if socket in self.seen:
            raise Failed(f"connection {socket} was used again")
        self.seen.add(socket)
        deadline = time.monotonic() + PATIENCE
        nudge = time.monotonic() + NUDGE
        while time.monotonic() < deadline:
            events = self.browser.log.connected(socket)
            if events is not None:
                self.browser.log.sockets.clear()
                return events
            if time.monotonic() > nudge:
                self.browser.order("Page.navigate", self.page, url="https://nowhere.test/")
                nudge = time.monotonic() + NUDGE
            time.sleep(0.005)
        raise Failed(f"the net log has nothing of connection {socket}")

    def offered(self, events):
        """Whether the hello on the wire offered a session; the IDs that servers gave are kept to tell theirs."""
        hello = message(events["SSL_HANDSHAKE_MESSAGE_SENT"], CLIENT_HELLO)
        answer = message(events["SSL_HANDSHAKE_MESSAGE_RECEIVED"], SERVER_HELLO)
        session_id, extensions = read_hello(hello)
        offered = (
            EXTENSION_PRE_SHARED_KEY in extensions
            or len(extensions.get(EXTENSION_TICKET, b"")) > 0
            or session_id in self.session_ids
        )
        given = answer[39 : 39 + answer[38]]
        if given:
            self.session_ids.add(given)
        return offered


def message(logged, kind):
    """The first handshake message of a kind; of those with secrets the net log has no bytes."""
    return base64.b64decode(next(entry["bytes"] for entry in logged if entry["type"] == kind))


def read_hello(hello):
    """Session ID and extensions of a ClientHello with its handshake header (RFC 8446 4.1.2)."""
    at = 4 + 2 + 32
    session_id = hello[at + 1 : at + 1 + hello[at]]
    at += 1 + hello[at]
    at += 2 + int.from_bytes(hello[at : at + 2], "big")
    at += 1 + hello[at]
    at += 2
    extensions = {}
    while at < len(hello):
        kind, size = int.from_bytes(hello[at : at + 2], "big"), int.from_bytes(hello[at + 2 : at + 4], "big")
        extensions[kind] = hello[at + 4 : at + 4 + size]
        at += 4 + size
    return session_id, extensions


def come_from(source, target):
    """Chromium cannot bind: the route to the target names the address to come from."""
    route = json.loads(run("ip", "-json", "route", "get", target))[0]
    run("ip", "route", "replace", target, "via", route["gateway"], "dev", route["dev"], "src", source)


def main(ca, cert, key, host):
    home = Path(ca).parent / "chromium"
    prepare(home, ca, cert, key, host)
    browsers, slots = {}, {}
    for line in sys.stdin:
        try:
            match line.split():
                case ["forget", name]:
                    for slot in [slot for slot in slots if slot[0] == name]:
                        slots.pop(slot).close()
                    answer = "ok"
                case ["connect", name, version, source, target, port]:
                    come_from(source, target)
                    if target not in browsers:
                        browsers[target] = Browser(home, host, target)
                    slot = name, target
                    if slot not in slots:
                        slots[slot] = Slot(browsers[target])
                    answer = slots[slot].visit(f"https://{host}:{port}/", version, source)
                case _:
                    answer = f"error not understood: {line.strip()}"
        except (Failed, OSError, LookupError, StopIteration, ValueError) as error:
            answer = "error " + repr(error).replace("\n", " ")
        print(answer, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:5])
