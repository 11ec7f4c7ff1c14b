"""A WebSocket in plain text with websockets, through an outbound listener: prints the first answer, then how it ended.

usage: websocket_client.py HOST:PORT AUTHORITY PATH [NAME=VALUE]...
"""

import json
import socket
import sys
import time

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

target, authority, path = sys.argv[1:4]
headers = [tuple(pair.split("=", 1)) for pair in sys.argv[4:]]
host, port = target.rsplit(":", 1)
stream = socket.create_connection((host, int(port)))
with connect(
    f"ws://{authority}{path}", sock=stream, proxy=None, additional_headers=headers, ping_interval=None
) as websocket:
    websocket.send("hello")
    print(json.dumps({"answer": websocket.recv(timeout=20)}), flush=True)
    try:
        websocket.recv(timeout=60)
        ended = {"code": None, "reason": "a message"}
    except ConnectionClosed as closed:
        received = closed.rcvd
        ended = {"code": received and received.code, "reason": received and received.reason}
    print(json.dumps(ended | {"at": time.time()}), flush=True)
