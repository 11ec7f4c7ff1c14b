//! Putting spans together to an `ExportTraceServiceRequest` without encoding them again.
//!
//! Specification: Protocol Buffers, "Encoding"; field numbers of OTLP's `trace_service.proto` and
//! `trace.proto`.

use bytes::{BufMut as _, Bytes, BytesMut};
use picket_api::attributes::SCOPE;

use crate::store::cursors::Outgoing;

/// Keys of length-delimited fields: number << 3 | 2.
const FIRST: u8 = 1 << 3 | 2;
const SECOND: u8 = 2 << 3 | 2;

/// One message with all spans, in order; neighbours of one resource share it.
pub(super) fn encode(spans: &[Outgoing]) -> Bytes {
    let scope = scope();
    let mut message = BytesMut::new();
    for group in spans.chunk_by(|a, b| a.resource_id == b.resource_id) {
        let Some(first) = group.first() else { continue };
        let spans_length: usize = group.iter().map(|record| field_length(record.span.len())).sum();
        let scope_spans = field_length(scope.len()) + spans_length;
        let resource_spans = field_length(first.resource.len()) + field_length(scope_spans);
        put_key(&mut message, FIRST, resource_spans);
        put(&mut message, FIRST, &first.resource);
        put_key(&mut message, SECOND, scope_spans);
        put(&mut message, FIRST, &scope);
        for record in group {
            put(&mut message, SECOND, &record.span);
        }
    }
    message.freeze()
}

/// `InstrumentationScope { name }`
fn scope() -> Bytes {
    let mut scope = BytesMut::new();
    put(&mut scope, FIRST, SCOPE.as_bytes());
    scope.freeze()
}

fn put(out: &mut BytesMut, key: u8, content: &[u8]) {
    put_key(out, key, content.len());
    out.put_slice(content);
}

fn put_key(out: &mut BytesMut, key: u8, length: usize) {
    out.put_u8(key);
    let mut rest = length;
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

/// Key, length and content.
fn field_length(content: usize) -> usize {
    let bits = usize::BITS - (content | 1).leading_zeros();
    1 + bits.div_ceil(7) as usize + content
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::Span;
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_receiver_decodes_what_was_put_together() {
        let outgoing = |row: i64, resource_id: i64, size: usize| Outgoing {
            row,
            resource_id,
            resource: Resource {
                dropped_attributes_count: resource_id as u32,
                ..Resource::default()
            }
            .encode_to_vec()
            .into(),
            span: Span { name: "x".repeat(size), ..Span::default() }.encode_to_vec().into(),
        };
        let spans = [
            outgoing(1, 7, 1),
            outgoing(2, 7, 127),
            outgoing(3, 8, 128),
            outgoing(4, 8, 16_384),
            outgoing(5, 7, 3_000_000),
        ];
        let message = ExportTraceServiceRequest::decode(encode(&spans)).unwrap();
        let shape: Vec<(u32, &str, Vec<usize>)> = message
            .resource_spans
            .iter()
            .map(|group| {
                let resource = group.resource.as_ref().unwrap().dropped_attributes_count;
                let scope = &group.scope_spans[0];
                let sizes = scope.spans.iter().map(|s| s.name.len()).collect();
                (resource, scope.scope.as_ref().unwrap().name.as_str(), sizes)
            })
            .collect();
        let expected =
            [(7, SCOPE, vec![1, 127]), (8, SCOPE, vec![128, 16_384]), (7, SCOPE, vec![3_000_000])];
        assert_eq!(shape, expected);
    }
}
