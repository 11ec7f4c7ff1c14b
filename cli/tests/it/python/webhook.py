"""A receiver of signed webhooks, of the standard library alone.

webhook.py PORT SECRET OUT: checks the signature of each notice by itself and writes a line of JSON for it.
"""

import hashlib
import hmac
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

port, secret, out = int(sys.argv[1]), sys.argv[2].encode(), open(sys.argv[3], "a", buffering=1)


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        parts = dict(part.split("=", 1) for part in self.headers["picket-signature"].split(","))
        signed = parts["t"].encode() + b"." + body
        good = hmac.compare_digest(hmac.new(secret, signed, hashlib.sha256).hexdigest(), parts["v1"])
        fresh = abs(time.time() - int(parts["t"])) < 300
        line = {
            "at": time.time(),
            "good": good and fresh,
            "key": self.headers["idempotency-key"],
            "notice": json.loads(body),
        }
        out.write(json.dumps(line) + "\n")
        self.send_response(204 if good and fresh else 401)
        self.end_headers()

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", port), Receiver).serve_forever()
