"""One gRPC call in plain text with grpcio, through an outbound listener: its status as JSON.

usage: grpcio_client.py TARGET AUTHORITY unary|stream PATH [NAME=VALUE]...
"""

import json
import sys

import grpc

target, authority, shape, path = sys.argv[1:5]
metadata = [tuple(pair.split("=", 1)) for pair in sys.argv[5:]]
options = [("grpc.default_authority", authority), ("grpc.enable_http_proxy", 0)]
with grpc.insecure_channel(target, options=options) as channel:
    try:
        if shape == "unary":
            answer = [channel.unary_unary(path)(b"hello", timeout=20, metadata=metadata)]
        else:
            messages = iter([b"one", b"two", b"three"])
            call = channel.stream_stream(path)(messages, timeout=20, metadata=metadata)
            answer = list(call)
        result = {"status": 0, "message": None, "answer": [part.decode() for part in answer]}
    except grpc.RpcError as error:
        result = {"status": error.code().value[0], "message": error.details(), "answer": None}
print(json.dumps(result))
