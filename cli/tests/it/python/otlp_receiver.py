"""An OTLP/gRPC trace receiver that prints each span it gets as a line of JSON.

usage: otlp_receiver.py HOST:PORT
"""

import json
import sys
from concurrent import futures

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2


def plain(value):
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None


def flat(attributes):
    keys = [attribute.key for attribute in attributes]
    assert len(keys) == len(set(keys)), f"a key stands in a span twice: {sorted(keys)}"
    return {attribute.key: plain(attribute.value) for attribute in attributes}


def line(resource, scope, span):
    return {
        "resource": flat(resource.attributes),
        "scope": scope.name,
        "trace": span.trace_id.hex(),
        "span": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "name": span.name,
        "kind": trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        "start": span.start_time_unix_nano,
        "end": span.end_time_unix_nano,
        "status": trace_pb2.Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        "message": span.status.message,
        "attributes": flat(span.attributes),
        "events": [{"name": event.name} | flat(event.attributes) for event in span.events],
        "links": [{"trace": link.trace_id.hex(), "span": link.span_id.hex()} for link in span.links],
    }


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    def Export(self, request, context):
        for group in request.resource_spans:
            for scoped in group.scope_spans:
                for span in scoped.spans:
                    print(json.dumps(line(group.resource, scoped.scope, span)), flush=True)
        return trace_service_pb2.ExportTraceServiceResponse()


server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Receiver(), server)
assert server.add_insecure_port(sys.argv[1]), "the port is taken"
server.start()
print("ready", flush=True)
server.wait_for_termination()
