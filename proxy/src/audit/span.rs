//! Writes parts of an OTLP span straight to protobuf bytes.
//!
//! Protobuf merges by concatenation: fields written later replace earlier ones, repeated fields
//! append. So a span is written in parts, each once, at the moment its facts are known, and the
//! parts one after the other are the span, which nobody decodes on the way to the store. (The spool
//! has long names as [`super::packed`] says.) `opentelemetry-proto` decodes the bytes in the tests,
//! so the encoder cannot drift.
//!
//! Specification: OTLP 1.x `opentelemetry/proto/trace/v1/trace.proto`, protobuf wire format.

use picket_certs::leaf::write_hex;

use super::packed::Short;

/// Which side of a call the span is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpanKind {
    /// Neither: about the proxy itself.
    Internal = 1,
    /// Inbound.
    Server = 2,
    /// Outbound.
    Client = 3,
}

// Field numbers of `Span`.
const TRACE_ID: u32 = 1;
const SPAN_ID: u32 = 2;
const PARENT_SPAN_ID: u32 = 4;
const NAME: u32 = 5;
const KIND: u32 = 6;
const START: u32 = 7;
const END: u32 = 8;
const ATTRIBUTES: u32 = 9;
const EVENTS: u32 = 11;
const LINKS: u32 = 13;
const STATUS: u32 = 15;
const FLAGS: u32 = 16;

// Wire types.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;
const FIXED32: u32 = 5;

// Tags of the fields of an attribute, for which one byte is enough.
pub(super) const ATTRIBUTE: u8 = one_byte_tag(ATTRIBUTES);
pub(super) const KEY: u8 = one_byte_tag(1);
pub(super) const VALUE: u8 = one_byte_tag(2);
/// AnyValue: string_value.
const ONE_TEXT: u8 = one_byte_tag(1);

/// The tag of a length-delimited field.
const fn one_byte_tag(field: u32) -> u8 {
    assert!(field < 16);
    (field << 3 | BYTES) as u8
}

/// Appends fields of one `Span` message to a buffer.
pub(crate) struct SpanPart<'a> {
    out: &'a mut Vec<u8>,
    packed: Option<Packed<'a>>,
}

/// The same part as [`super::packed`] has it.
struct Packed<'a> {
    out: &'a mut Vec<u8>,
    /// So much of the part is in it.
    done: usize,
}

impl<'a> SpanPart<'a> {
    /// Begins a part at the end of `out`.
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, packed: None }
    }

    /// Begins a part that is packed besides. In the end it must be closed.
    pub(super) fn packing(out: &'a mut Vec<u8>, packed: &'a mut Vec<u8>) -> Self {
        let done = out.len();
        Self { out, packed: Some(Packed { out: packed, done }) }
    }

    /// Packs what was written since `from` by what `write` writes.
    #[inline]
    fn pack(&mut self, from: usize, write: impl FnOnce(&mut Vec<u8>)) {
        if let Some(packed) = &mut self.packed {
            if packed.done < from {
                packed.out.extend_from_slice(self.out.get(packed.done..from).unwrap_or_default());
            }
            write(packed.out);
            packed.done = self.out.len();
        }
    }

    /// Ends the part.
    pub(super) fn close(mut self) {
        self.pack(self.out.len(), |_| {});
    }

    /// Writes the head of an attribute whose value is a message of `size` bytes.
    #[inline]
    fn head<const N: usize>(&mut self, short: &Short<N>, size: usize) {
        let mut head = short.head;
        if let [_, field, .., value] = head.as_mut_slice() {
            (*field, *value) = ((N - 2 + size) as u8, size as u8);
        }
        self.out.extend_from_slice(&head);
    }

    /// A whole-number attribute that can be packed.
    #[inline]
    pub(super) fn short_int<const N: usize>(&mut self, short: &Short<N>, value: i64) {
        let (from, value) = (self.out.len(), value.cast_unsigned());
        self.head(short, 1 + varint_size(value));
        tag(self.out, 3, VARINT);
        varint(self.out, value);
        self.pack(from, |packed| {
            packed.push(short.token);
            varint(packed, value);
        });
    }

    /// A text attribute that can be packed.
    #[inline]
    pub(super) fn short_text<const N: usize>(&mut self, short: &Short<N>, value: &str) {
        let from = self.out.len();
        if value.is_empty() {
            return;
        }
        if N + value.len() < 0x80 {
            self.head(short, value.len() + 2);
            self.out.extend_from_slice(&[ONE_TEXT, value.len() as u8]);
            self.out.extend_from_slice(value.as_bytes());
        } else {
            self.text(short.name(), value);
        }
        self.pack(from, |packed| {
            packed.push(short.token);
            varint(packed, value.len() as u64);
            packed.extend_from_slice(value.as_bytes());
        });
    }

    /// A text attribute that can be packed: these bytes, at most 32, in hexadecimal.
    #[inline]
    pub(super) fn short_hex<const N: usize>(&mut self, short: &Short<N>, bytes: &[u8]) {
        let (from, length) = (self.out.len(), bytes.len() * 2);
        debug_assert!(N + length < 0x80);
        self.head(short, length + 2);
        self.out.extend_from_slice(&[ONE_TEXT, length as u8]);
        let digits = self.out.len();
        self.out.resize(digits + length, 0);
        write_hex(bytes, self.out.get_mut(digits..).unwrap_or_default());
        self.pack(from, |packed| {
            packed.push(short.token);
            packed.extend_from_slice(bytes);
        });
    }

    /// Who the span is, and when it began.
    pub(crate) fn identity(&mut self, trace: &[u8; 16], span: &[u8; 8], parent: Option<&[u8; 8]>) {
        bytes(self.out, TRACE_ID, trace);
        bytes(self.out, SPAN_ID, span);
        if let Some(parent) = parent {
            bytes(self.out, PARENT_SPAN_ID, parent);
        }
    }

    /// A span that this one has to do with and that is not its parent.
    pub(crate) fn link(&mut self, trace: &[u8; 16], span: &[u8; 8]) {
        // Link: trace_id (1), span_id (2).
        open_field(self.out, LINKS, field_size(1, trace.len()) + field_size(2, span.len()));
        bytes(self.out, 1, trace);
        bytes(self.out, 2, span);
    }

    /// The W3C trace flags.
    pub(crate) fn flags(&mut self, flags: u8) {
        tag(self.out, FLAGS, FIXED32);
        self.out.extend_from_slice(&u32::from(flags).to_le_bytes());
    }

    /// The side of the call.
    pub(crate) fn kind(&mut self, kind: SpanKind) {
        tag(self.out, KIND, VARINT);
        varint(self.out, kind as u64);
    }

    /// The name; a later one replaces it.
    pub(crate) fn name(&mut self, parts: &[&str]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        tag(self.out, NAME, BYTES);
        varint(self.out, length as u64);
        for part in parts {
            self.out.extend_from_slice(part.as_bytes());
        }
    }

    /// Nanoseconds since 1970 at which it began.
    pub(crate) fn start(&mut self, nanos: u64) {
        fixed64(self.out, START, nanos);
    }

    /// Nanoseconds since 1970 at which it ended.
    pub(crate) fn end(&mut self, nanos: u64) {
        fixed64(self.out, END, nanos);
    }

    /// Marks the span as an error, with words.
    pub(crate) fn error(&mut self, message: &str) {
        const ERROR: u64 = 2;
        let length = field_size(2, message.len()) + 2;
        tag(self.out, STATUS, BYTES);
        varint(self.out, length as u64);
        bytes(self.out, 2, message.as_bytes());
        tag(self.out, 3, VARINT);
        varint(self.out, ERROR);
    }

    /// A text attribute. An empty text is left out: it says nothing.
    pub(crate) fn text(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            text_attribute(self.out, ATTRIBUTES, key, value);
        }
    }

    /// A whole-number attribute.
    pub(crate) fn int(&mut self, key: &str, value: i64) {
        int_attribute(self.out, ATTRIBUTES, key, value);
    }

    /// An attribute that is a list of texts; left out if empty.
    pub(crate) fn texts<S: AsRef<str>>(&mut self, key: &str, values: &[S]) {
        texts_attribute(self.out, ATTRIBUTES, key, values);
    }

    /// An event inside the span, with text attributes (empty ones are left out).
    pub(crate) fn event(&mut self, nanos: u64, name: &str, attributes: &[(&str, &str)]) {
        // Event: time_unix_nano (1, fixed64), name (2), attributes (3).
        let given = || attributes.iter().filter(|(_, value)| !value.is_empty());
        let size = 9
            + field_size(2, name.len())
            + given().map(|(key, value)| field_size(3, text_size(key, value))).sum::<usize>();
        tag(self.out, EVENTS, BYTES);
        varint(self.out, size as u64);
        fixed64(self.out, 1, nanos);
        bytes(self.out, 2, name.as_bytes());
        for (key, value) in given() {
            text_attribute(self.out, 3, key, value);
        }
    }
}

/// Writes an OTLP `Resource` with text attributes (empty ones are left out) and a list of texts.
pub(crate) fn resource(attributes: &[(&str, &str)], (key, list): (&str, &[String])) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in attributes.iter().filter(|(_, value)| !value.is_empty()) {
        text_attribute(&mut out, 1, key, value);
    }
    texts_attribute(&mut out, 1, key, list);
    out
}

/// Begins a length-delimited field whose content, of `length` bytes, the caller writes next.
pub(crate) fn open_field(out: &mut Vec<u8>, field: u32, length: usize) {
    tag(out, field, BYTES);
    varint(out, length as u64);
}

/// The bytes that a length-delimited field with `length` bytes of content takes.
pub(crate) fn field_size(field: u32, length: usize) -> usize {
    varint_size(u64::from(field << 3)) + varint_size(length as u64) + length
}

// KeyValue: key (1), value (2) { AnyValue.string_value (1) }
fn text_size(key: &str, value: &str) -> usize {
    field_size(1, key.len()) + field_size(2, field_size(1, value.len()))
}

/// Most attributes are short: then each length is one byte, and the bytes between key and value are known at once.
fn text_attribute(out: &mut Vec<u8>, field: u32, key: &str, value: &str) {
    let size = key.len() + value.len() + 6;
    if field < 16 && size < 0x80 {
        out.reserve(size + 2);
        out.extend_from_slice(&[one_byte_tag(field), size as u8, KEY, key.len() as u8]);
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(&[VALUE, value.len() as u8 + 2, ONE_TEXT, value.len() as u8]);
        out.extend_from_slice(value.as_bytes());
        return;
    }
    open_field(out, field, text_size(key, value));
    bytes(out, 1, key.as_bytes());
    open_field(out, 2, field_size(1, value.len()));
    bytes(out, 1, value.as_bytes());
}

// KeyValue: key (1), value (2) { AnyValue.array_value (5) { ArrayValue.values (1) { AnyValue.string_value (1) } } }
fn texts_attribute<S: AsRef<str>>(out: &mut Vec<u8>, field: u32, key: &str, values: &[S]) {
    if values.is_empty() {
        return;
    }
    let element = |value: &S| field_size(1, value.as_ref().len());
    let array: usize = values.iter().map(|value| field_size(1, element(value))).sum();
    let any = field_size(5, array);
    open_field(out, field, field_size(1, key.len()) + field_size(2, any));
    bytes(out, 1, key.as_bytes());
    open_field(out, 2, any);
    open_field(out, 5, array);
    for value in values {
        open_field(out, 1, element(value));
        bytes(out, 1, value.as_ref().as_bytes());
    }
}

// KeyValue: key (1), value (2) { AnyValue.int_value (3) }
fn int_attribute(out: &mut Vec<u8>, field: u32, key: &str, value: i64) {
    let value = value.cast_unsigned();
    let any = 1 + varint_size(value);
    let size = field_size(1, key.len()) + field_size(2, any);
    open_field(out, field, size);
    bytes(out, 1, key.as_bytes());
    open_field(out, 2, any);
    tag(out, 3, VARINT);
    varint(out, value);
}

fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    open_field(out, field, value.len());
    out.extend_from_slice(value);
}

fn fixed64(out: &mut Vec<u8>, field: u32, value: u64) {
    tag(out, field, FIXED64);
    out.extend_from_slice(&value.to_le_bytes());
}

fn tag(out: &mut Vec<u8>, field: u32, wire_type: u32) {
    varint(out, u64::from(field << 3 | wire_type));
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The varint that `bytes` begins with, and what follows it.
pub(super) fn read_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let last = bytes.iter().take(10).position(|byte| *byte < 0x80)?;
    let (varint, rest) = bytes.split_at_checked(last + 1)?;
    let value = varint.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
    Some((value, rest))
}

/// The bytes that the field takes that `bytes` begins with.
pub(super) fn field_length(bytes: &[u8]) -> Option<usize> {
    let (tag, rest) = read_varint(bytes)?;
    let rest = match u32::try_from(tag & 7).ok()? {
        _ if tag < 8 => return None,
        VARINT => read_varint(rest)?.1,
        FIXED64 => rest.get(8..)?,
        FIXED32 => rest.get(4..)?,
        BYTES => {
            let (length, rest) = read_varint(rest)?;
            rest.get(usize::try_from(length).ok()?..)?
        }
        _ => return None,
    };
    Some(bytes.len() - rest.len())
}

fn varint_size(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::Span;
    use prost::Message as _;

    use super::*;

    #[test]
    fn parts_one_after_the_other_are_the_span() {
        let mut out = Vec::new();
        let mut part = SpanPart::new(&mut out);
        part.identity(&[7; 16], &[8; 8], Some(&[9; 8]));
        part.kind(SpanKind::Server);
        part.name(&["GET"]);
        part.start(u64::MAX);
        part.flags(1);
        part.link(&[1; 16], &[2; 8]);
        part.text("url.path", "/charge");
        part.text("empty", "");
        part.int("negative", -5);
        part.int("large", i64::MAX);
        let mut second = SpanPart::new(&mut out);
        second.name(&["GET", " ", "/charge"]);
        second.end(3);
        second.texts("list", &["a", "", &"long".repeat(100)]);
        second.texts::<&str>("nothing", &[]);
        second.event(4, "picket.authz.denied", &[("policy", "shop/payments"), ("rule", "")]);
        second.error("denied");

        let span = Span::decode(out.as_slice()).unwrap();
        assert_eq!(span.trace_id, [7; 16]);
        assert_eq!(span.span_id, [8; 8]);
        assert_eq!(span.parent_span_id, [9; 8]);
        assert_eq!((span.kind, span.flags), (SpanKind::Server as i32, 1));
        assert_eq!((span.start_time_unix_nano, span.end_time_unix_nano), (u64::MAX, 3));
        assert_eq!(span.name, "GET /charge");
        let link = span.links.first().unwrap();
        assert_eq!(
            (link.trace_id.as_slice(), link.span_id.as_slice()),
            (&[1; 16][..], &[2; 8][..])
        );
        let status = span.status.unwrap();
        assert_eq!((status.code, status.message.as_str()), (2, "denied"));
        let value = |key: &str| {
            let found = span.attributes.iter().find(|a| a.key == key);
            found.and_then(|a| a.value.clone()).and_then(|v| v.value)
        };
        assert_eq!(value("url.path"), Some(Value::StringValue("/charge".into())));
        assert_eq!(value("negative"), Some(Value::IntValue(-5)));
        assert_eq!(value("large"), Some(Value::IntValue(i64::MAX)));
        assert_eq!((value("empty"), value("nothing")), (None, None));
        let Some(Value::ArrayValue(list)) = value("list") else { panic!("no list") };
        let last = list.values.last().and_then(|v| v.value.clone());
        assert_eq!(list.values.len(), 3);
        assert_eq!(last, Some(Value::StringValue("long".repeat(100))));
        assert_eq!(span.events.len(), 1);
        assert_eq!(span.events[0].time_unix_nano, 4);
        assert_eq!(span.events[0].attributes.len(), 1);
    }

    #[test]
    fn varints_have_the_size_that_is_announced() {
        for shift in 0..64 {
            for value in [1_u64 << shift, (1_u64 << shift) - 1, (1_u64 << shift) | 1] {
                let mut out = Vec::new();
                varint(&mut out, value);
                assert_eq!(out.len(), varint_size(value), "{value}");
                let decoded = prost::encoding::decode_varint(&mut out.as_slice()).unwrap();
                assert_eq!(decoded, value);
            }
        }
    }

    #[test]
    fn a_resource_is_read_by_others() {
        let texts = [("service.name", "orders"), ("service.version", "")];
        let out = resource(&texts, ("picket.labels", &["app=orders".to_owned()]));
        let decoded = Resource::decode(out.as_slice()).unwrap();
        let keys: Vec<&str> = decoded.attributes.iter().map(|a| a.key.as_str()).collect();
        assert_eq!(keys, ["service.name", "picket.labels"]);
        let decoded =
            Resource::decode(resource(&texts, ("picket.labels", &[])).as_slice()).unwrap();
        assert_eq!(decoded.attributes.len(), 1);
    }
}
