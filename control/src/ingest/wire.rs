//! Taking an `ExportTraceServiceRequest` apart without decoding what is in it.
//!
//! Three levels are opened (request, resource spans, scope spans); the resources and spans that are
//! found are slices of the message, byte for byte.
//!
//! Specification: Protocol Buffers, "Encoding"; field numbers of OTLP's `trace_service.proto` and
//! `trace.proto`.

use bytes::{Buf as _, Bytes};

/// The message is not protobuf, or has more spans than any sender of ours batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error("the message is not an ExportTraceServiceRequest")]
    Malformed,
    #[error("the message has more than {MAX_SPANS} spans or resources: send smaller batches")]
    TooMany,
}

/// Spans of one message: an empty one costs two bytes on the wire and much more here.
const MAX_SPANS: usize = 100_000;

/// The spans of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// `opentelemetry.proto.resource.v1.Resource`; empty if it was left out.
    pub(crate) resource: Bytes,
    /// `opentelemetry.proto.trace.v1.Span`, each.
    pub(crate) spans: Vec<Bytes>,
}

const RESOURCE_SPANS: u64 = 1;
const RESOURCE: u64 = 1;
const SCOPE_SPANS: u64 = 2;
const SPANS: u64 = 2;

/// Finds resources and spans.
pub(crate) fn split(message: &Bytes) -> Result<Vec<Group>, WireError> {
    let mut groups = Vec::new();
    let mut count = 0_usize;
    for field in Fields(message.clone()) {
        let Some(resource_spans) = field?.message(RESOURCE_SPANS) else { continue };
        let mut group = Group { resource: Bytes::new(), spans: Vec::new() };
        for field in Fields(resource_spans) {
            let field = field?;
            if let Some(scope_spans) = field.message(SCOPE_SPANS) {
                for field in Fields(scope_spans) {
                    group.spans.extend(field?.message(SPANS));
                    if group.spans.len() > MAX_SPANS {
                        return Err(WireError::TooMany);
                    }
                }
            } else if let Some(resource) = field.message(RESOURCE) {
                group.resource = resource;
            }
        }
        // One without a span costs as much as one with it.
        count += group.spans.len() + 1;
        if count > MAX_SPANS {
            return Err(WireError::TooMany);
        }
        groups.push(group);
    }
    Ok(groups)
}

struct Field {
    number: u64,
    /// Of a length-delimited field.
    content: Option<Bytes>,
}

impl Field {
    fn message(&self, number: u64) -> Option<Bytes> {
        if self.number == number { self.content.clone() } else { None }
    }
}

/// The fields of a message, in order.
struct Fields(Bytes);

impl Fields {
    fn read(&mut self) -> Option<Field> {
        let key = self.varint()?;
        let number = key >> 3;
        if number == 0 {
            return None;
        }
        let content = match key & 7 {
            0 => {
                self.varint()?;
                None
            }
            1 => self.take(8).map(|_| None)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Some(self.take(length)?)
            }
            5 => self.take(4).map(|_| None)?,
            _ => return None,
        };
        Some(Field { number, content })
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.0.try_get_u8().ok()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<Bytes> {
        (length <= self.0.len()).then(|| self.0.split_to(length))
    }
}

impl Iterator for Fields {
    type Item = Result<Field, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.read().ok_or(WireError::Malformed);
        if field.is_err() {
            self.0.clear();
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
    use prost::Message as _;

    use super::*;

    fn span(name: &str) -> Span {
        Span { name: name.to_owned(), start_time_unix_nano: 7, ..Span::default() }
    }

    fn request() -> ExportTraceServiceRequest {
        let scope = |names: &[&str]| ScopeSpans {
            scope: Some(InstrumentationScope { name: "s".to_owned(), ..Default::default() }),
            spans: names.iter().map(|name| span(name)).collect(),
            schema_url: "u".to_owned(),
        };
        let resource = |dropped, scopes| ResourceSpans {
            resource: Some(Resource { dropped_attributes_count: dropped, ..Default::default() }),
            scope_spans: scopes,
            schema_url: String::new(),
        };
        ExportTraceServiceRequest {
            resource_spans: vec![
                resource(1, vec![scope(&["a", "b"]), scope(&["c"])]),
                resource(2, vec![scope(&["d"])]),
                ResourceSpans::default(),
            ],
        }
    }

    #[test]
    fn spans_come_out_byte_for_byte() {
        let groups = split(&request().encode_to_vec().into()).unwrap();
        let names: Vec<Vec<String>> = groups
            .iter()
            .map(|g| g.spans.iter().map(|s| Span::decode(s.clone()).unwrap().name).collect())
            .collect();
        assert_eq!(names, [vec!["a", "b", "c"], vec!["d"], vec![]]);
        assert_eq!(groups[0].spans[0], span("a").encode_to_vec());
        let resource = Resource::decode(groups[1].resource.clone()).unwrap();
        assert_eq!(resource.dropped_attributes_count, 2);
    }

    #[test]
    fn no_truncation_and_no_flipped_bit_does_more_than_fail() {
        let bytes = request().encode_to_vec();
        for end in 0..bytes.len() {
            // Some prefixes are whole messages; none may do worse than be refused.
            let _either = split(&Bytes::copy_from_slice(&bytes[..end]));
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _either = split(&flipped.into());
        }
        for bad in [&[0x0a][..], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], &[0x07], &[0x00, 0x00]] {
            assert_eq!(split(&Bytes::copy_from_slice(bad)), Err(WireError::Malformed));
        }
        let many = [0x0a, 0x00].repeat(MAX_SPANS + 1);
        assert_eq!(split(&many.into()).map(|g| g.len()), Err(WireError::TooMany));
    }
}
