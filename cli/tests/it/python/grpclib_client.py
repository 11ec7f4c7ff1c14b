"""One unary gRPC call over mTLS with grpclib: its status, message and answer as JSON.

usage: grpclib_client.py HOST PORT CERTIFICATE KEY BUNDLE PATH [NAME=VALUE]...
"""

import asyncio
import json
import ssl
import sys

from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError


class Bytes(CodecBase):
    """Messages as they are: no protobuf is needed to speak gRPC."""

    # grpclib takes a bare application/grpc for this one alone.
    __content_subtype__ = "proto"

    def encode(self, message, message_type):
        return message

    def decode(self, data, message_type):
        return data


async def main():
    host, port, certificate, key, bundle, path = sys.argv[1:7]
    metadata = dict(pair.split("=", 1) for pair in sys.argv[7:])
    context = ssl.create_default_context(cafile=bundle)
    # A SPIFFE certificate has no DNS name; its chain is verified nevertheless.
    context.check_hostname = False
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    channel = Channel(host, int(port), ssl=context, codec=Bytes())
    method = UnaryUnaryMethod(channel, path, bytes, bytes)
    try:
        answer = await method(b"hello", timeout=20, metadata=metadata)
        result = {"status": 0, "message": None, "answer": answer.decode()}
    except GRPCError as error:
        result = {"status": error.status.value, "message": error.message, "answer": None}
    finally:
        channel.close()
    print(json.dumps(result))


asyncio.run(main())
