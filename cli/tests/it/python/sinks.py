"""Receivers of alerts that are not ours.

sinks.py http PORT OUT: answers as the path says (/500, /400, /429, /302, /hang); a line of JSON for each request.
sinks.py smtp PORT OUT [CERTIFICATE KEY]: takes mail (aiosmtpd); with a certificate only after STARTTLS and AUTH.
"""

import json
import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

kind, port, out = sys.argv[1], int(sys.argv[2]), open(sys.argv[3], "a", buffering=1)


class Answers(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        line = {"at": time.time(), "path": self.path, "key": self.headers["idempotency-key"]}
        out.write(json.dumps(line) + "\n")
        if self.path == "/hang":
            time.sleep(60)
            return
        self.send_response(int(self.path[1:4]))
        self.send_header("location", "/200")
        if self.path == "/429":
            self.send_header("retry-after", "4")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


if kind == "http":
    ThreadingHTTPServer(("127.0.0.1", port), Answers).serve_forever()

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult


class Mails:
    async def handle_DATA(self, server, session, envelope):
        line = {
            "tls": session.ssl is not None,
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "text": envelope.content.decode(),
        }
        out.write(json.dumps(line) + "\n")
        return "250 taken"


def login(server, session, envelope, mechanism, data):
    good = (data.login, data.password) == (b"picket", b"pass word")
    return AuthResult(success=good, handled=False)


options = {}
if len(sys.argv) > 4:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[4], sys.argv[5])
    options = {
        "tls_context": context,
        "require_starttls": True,
        "auth_required": True,
        "authenticator": login,
    }
Controller(Mails(), hostname="127.0.0.1", port=port, **options).start()
while True:
    time.sleep(60)
