#!/usr/bin/env python3
"""Opens reports in headless Chromium: no error on the console, nothing fetched, every figure drawn, no page wider than a
phone; screenshots light, dark and narrow, and a PDF.

usage: scripts/report_check.py OUT REPORT.html [REPORT.html ...]
"""

import base64
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --hide-scrollbars --remote-debugging-pipe""".split()

# What is wrong with the page as it stands.
PROBLEMS = """(() => {
  const wrong = [], wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  if (wide > 0) wrong.push(`the page is ${wide} px wider than the window`);
  for (const svg of document.querySelectorAll('svg.drawing')) {
    const box = svg.getBoundingClientRect();
    const text = [...svg.querySelectorAll('text')];
    if (box.width < 100 || box.height < 50) wrong.push(`${svg.id} is not drawn`);
    if (!svg.querySelector('title').textContent) wrong.push(`${svg.id} has no title`);
    if (/NaN|Infinity|undefined/.test(svg.outerHTML)) wrong.push(`${svg.id} holds no numbers`);
    for (const t of text) {
      const b = t.getBBox(), v = svg.viewBox.baseVal, turned = t.hasAttribute('transform');
      if (!turned && (b.x < -1 || b.x + b.width > v.width + 1 || b.y < -1 || b.y + b.height > v.height + 1))
        wrong.push(`${svg.id}: “${t.textContent}” leaves the drawing`);
    }
  }
  const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
  const twice = ids.filter((id, i) => ids.indexOf(id) !== i);
  if (twice.length) wrong.push(`ids used twice: ${twice}`);
  for (const a of document.querySelectorAll('a'))
    if (!document.getElementById(a.getAttribute('href').slice(1))) wrong.push(`${a.href} leads nowhere`);
  return {wrong, drawings: document.querySelectorAll('svg.drawing').length, tables: document.querySelectorAll('table').length,
          height: Math.ceil(document.documentElement.scrollHeight)};
})()"""


class Browser:
    """Chromium, spoken to through a pipe."""

    def __init__(self, profile):
        program = os.environ.get("CHROMIUM") or next(
            filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
        if not program:
            sys.exit("no Chromium found: install it (apt-get install chromium) or name one in CHROMIUM")
        (to_read, self.to), (self.answers, from_write) = os.pipe(), os.pipe()
        words = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        shell = f'exec 3<&{to_read} 4>&{from_write}; exec "$@"'
        self.log = open(pathlib.Path(profile) / "stderr.txt", "wb")
        self.process = subprocess.Popen(["bash", "-c", shell, "bash", *words], pass_fds=(to_read, from_write),
                                        stdout=self.log, stderr=self.log)
        os.close(to_read), os.close(from_write)
        self.number, self.buffer, self.events, self.session = 0, b"", [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network"]:
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                if "error" in answer:
                    sys.exit(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def receive(self):
        while b"\0" not in self.buffer:
            more = os.read(self.answers, 1 << 16)
            if not more:
                sys.exit(f"Chromium ended; {self.log.name} may say why")
            self.buffer += more
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def open(self, path):
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self.receive())

    def complaints(self):
        """Errors on the console, and requests beyond the page itself."""
        for event in self.events:
            method, params = event.get("method"), event.get("params", {})
            if method == "Log.entryAdded":
                yield f"console: {params['entry']['text']}"
            elif method == "Runtime.consoleAPICalled":
                yield f"console: {params['args']}"
            elif method == "Runtime.exceptionThrown":
                yield f"exception: {params['exceptionDetails']['text']}"
            elif method == "Network.requestWillBeSent" and not params["request"]["url"].startswith("file:"):
                yield f"asks the network for {params['request']['url']}"

    def evaluate(self, code):
        return self.call("Runtime.evaluate", expression=code, returnByValue=True)["result"]["value"]

    def close(self):
        self.session = None
        os.write(self.to, b'{"id":0,"method":"Browser.close"}\0')
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


def look(browser, report, out):
    """Every view of a report; what is wrong with it."""
    name = "-".join([p for p in report.resolve().parts[-3:-1]]) or "report"
    wrong, found = [], {}
    for view, width, theme in [("light", 1200, "light"), ("dark", 1200, "dark"), ("narrow", 360, "light"),
                               ("narrow-dark", 360, "dark")]:
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.call("Emulation.setDeviceMetricsOverride", **metrics)
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        browser.open(report)
        found = browser.evaluate(PROBLEMS)
        wrong += [f"{report} ({view}): {problem}" for problem in [*browser.complaints(), *found["wrong"]]]
        clip = {"x": 0, "y": 0, "width": width, "height": min(found["height"], 16000), "scale": 1}
        image = browser.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        (out / f"{name}-{view}.png").write_bytes(base64.b64decode(image))
    paper = browser.call("Page.printToPDF", printBackground=False)["data"]
    (out / f"{name}.pdf").write_bytes(base64.b64decode(paper))
    figures = sorted((report.parent / "figures").glob("*.svg"))
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    for figure in figures:
        browser.open(figure)
        drawn = browser.evaluate("document.documentElement.localName") == "svg"
        wrong += [f"{figure}: {c}" for c in browser.complaints()] + ([] if drawn else [f"{figure} is no drawing"])
    if found["drawings"] != len(figures):
        wrong.append(f"{report}: {found['drawings']} drawings, but {len(figures)} files in figures")
    print(f"{report}: {found['drawings']} drawings, {found['tables']} tables, {len(figures)} figures; {len(wrong)} problems")
    return wrong


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(profile)
        wrong = [problem for report in sys.argv[2:] for problem in look(browser, pathlib.Path(report), out)]
        browser.close()
    print("\n".join(wrong) or f"nothing wrong; screenshots in {out}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
