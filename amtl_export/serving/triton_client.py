"""Sends the sample request to a server and compares its answers: python client.py [http://127.0.0.1:8000]."""

import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

WAIT_S = 60  # for a server that is starting: until somebody listens

here = Path(__file__).resolve().parent
server = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
request = urllib.request.Request(
    f"{server}/v2/models/{here.name}/infer",
    data=(here / "samples" / "request.json").read_bytes(),
    headers={"Content-Type": "application/json"},
)
begun = time.monotonic()
while True:
    try:
        answer = urllib.request.urlopen(request, timeout=60)
        break
    except urllib.error.HTTPError as error:
        sys.exit(f"{server} answers {error.code}: {error.read().decode(errors='replace')}")
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ConnectionRefusedError) or time.monotonic() - begun > WAIT_S:
            sys.exit(f"{server} does not answer: {error.reason}")
        time.sleep(0.2)
with answer:
    found = {output["name"]: output["data"] for output in json.load(answer)["outputs"]}
expected = {o["name"]: o["data"] for o in json.loads((here / "samples" / "response.json").read_text())["outputs"]}
for name, values in expected.items():
    print(name, found[name])
    if max((abs(a - b) for a, b in zip(found[name], values, strict=True)), default=0) > 1e-5:
        sys.exit(f"{name} should be {values}")
