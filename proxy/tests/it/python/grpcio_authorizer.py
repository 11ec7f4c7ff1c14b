"""An external authorizer with grpcio: what lies under /ask/open is open. Prints the port that it listens on.

usage: grpcio_authorizer.py
"""

from concurrent import futures

import grpc


def fields(data):
    """Numbers and values of a protobuf message; of varints and what has a length."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        value = varint()
        if key & 7 == 2:
            length, value = value, data[at : at + value]
            at += length
        yield key >> 3, value


def member(data, *numbers):
    for number in numbers:
        data = next((value for found, value in fields(data) if found == number), b"")
    return data


def message(number, content):
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def check(request, _context):
    path = member(request, 1, 4, 2, 4).decode()
    principal = member(request, 1, 1, 4)
    if path.startswith("/ask/open"):
        header = message(1, b"x-caller") + message(2, principal)
        return message(1, b"") + message(3, message(2, message(1, header)))
    forbidden = b"\x08\x93\x03"
    return message(1, b"\x08\x07") + message(2, message(1, forbidden) + message(3, b"not open"))


handler = grpc.method_handlers_generic_handler(
    "envoy.service.auth.v3.Authorization",
    {"Check": grpc.unary_unary_rpc_method_handler(check)},
)
server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
server.add_generic_rpc_handlers((handler,))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
server.wait_for_termination()
