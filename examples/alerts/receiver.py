#!/usr/bin/env python3
"""Receives what alertmanager.yml sends and prints it; cries when the heartbeat stops.

    receiver.py [PORT [SECONDS]]        9095, and after how long without a heartbeat (600)
"""
import http.server
import json
import sys
import threading
import time

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 9095
SECONDS = float(sys.argv[2]) if len(sys.argv) > 2 else 600
last = [time.monotonic()]


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.end_headers()
        if self.path == "/dead-man":
            last[0] = time.monotonic()
        for alert in message["alerts"]:
            # Annotations hold values of requests: printed as data.
            summary = json.dumps(alert["annotations"].get("summary", ""))
            print(self.path, alert["status"], alert["labels"]["alertname"], summary, flush=True)

    def log_message(self, *_):
        pass


def watch():
    while True:
        time.sleep(min(SECONDS / 4, 10))
        if time.monotonic() - last[0] > SECONDS:
            print(f"NO HEARTBEAT for {time.monotonic() - last[0]:.0f} s", flush=True)


threading.Thread(target=watch, daemon=True).start()
http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Receiver).serve_forever()
