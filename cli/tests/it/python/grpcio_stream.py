"""A gRPC stream in plain text with grpcio, through an outbound listener: prints the first answer, then how it ended.

usage: grpcio_stream.py TARGET AUTHORITY PATH [NAME=VALUE]...
"""

import json
import sys
import threading
import time

import grpc

target, authority, path = sys.argv[1:4]
metadata = [tuple(pair.split("=", 1)) for pair in sys.argv[4:]]
options = [("grpc.default_authority", authority), ("grpc.enable_http_proxy", 0)]
ended = threading.Event()


def messages():
    yield b"hello"
    ended.wait(60)


with grpc.insecure_channel(target, options=options) as channel:
    call = channel.stream_stream(path)(messages(), timeout=60, metadata=metadata)
    print(json.dumps({"answer": next(call).decode()}), flush=True)
    try:
        next(call)
        result = {"code": None, "reason": "a message"}
    except StopIteration:
        result = {"code": 0, "reason": "the end"}
    except grpc.RpcError as error:
        result = {"code": error.code().value[0], "reason": error.details()}
    print(json.dumps(result | {"at": time.time()}), flush=True)
    ended.set()
