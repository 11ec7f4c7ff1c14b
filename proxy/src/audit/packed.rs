//! How the attributes that every record has stand in the spool: with a byte in the place of the name.
//!
//! Names are more than half of what a record says. What is hashed and sent is the whole span; the spool has it packed,
//! and its reader unpacks it to the same bytes.
//!
//! A packed part is a row of fields of `Span`, as in protobuf, and of attributes in this form:
//!
//! ```text
//! token u8 | value: a varint, or a length (varint) and a text, or the bytes that the attribute has in hexadecimal
//! ```
//! A token has wire type 7, which protobuf has not, so that no field begins with it.

use picket_api::attributes as names;

use super::span::{self, SpanPart};

/// An attribute that can be packed. Its field is written as a whole, since a request has a dozen of them: `N` bytes are
/// the same in each.
pub(super) struct Short<const N: usize> {
    pub(super) token: u8,
    /// tag | size | tag of the key | its length | key | tag of the value | its size. The sizes are 0 here.
    pub(super) head: [u8; N],
}

/// What of a head is not the key, in bytes.
const AROUND: usize = 6;

impl<const N: usize> Short<N> {
    #[allow(clippy::indexing_slicing, reason = "it runs when this is compiled")]
    const fn new(number: u8, name: &str) -> Self {
        let mut head = [0; N];
        let key = name.as_bytes();
        assert!(key.len() + AROUND == N && N < 0x60 && number < 16);
        (head[0], head[2], head[3], head[N - 2]) =
            (span::ATTRIBUTE, span::KEY, key.len() as u8, span::VALUE);
        let mut at = 0;
        while at < key.len() {
            head[at + 4] = key[at];
            at += 1;
        }
        Self { token: number << 3 | 7, head }
    }

    pub(super) fn name(&self) -> &str {
        let key = self.head.get(4..N - 2).unwrap_or_default();
        std::str::from_utf8(key).unwrap_or_default()
    }
}

/// What a value is.
enum Form {
    Int,
    Text,
    /// So many bytes, which are a text of twice as many digits.
    Hex(usize),
}

/// Each with its number, which is for ever: there are spools of earlier versions.
macro_rules! shorts {
    ($($number:literal $name:ident $form:expr;)*) => {
        $(pub(super) const $name: &Short<{ names::$name.len() + AROUND }> =
            &Short::new($number, names::$name);)*

        #[cfg(test)]
        const TOKENS: &[u8] = &[$($name.token),*];

        /// Writes the attribute with this token, whose value `packed` begins with; returns what follows it. None if there
        /// is no such token or no such value.
        fn unpack<'a>(token: u8, packed: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
            let mut part = SpanPart::new(out);
            $(if token == $name.token {
                return unpack_as(&mut part, $name, &$form, packed);
            })*
            None
        }
    };
}

shorts! {
    0 SEQUENCE Form::Int;
    1 URL_PATH Form::Text;
    2 DECISION_ID Form::Hex(8);
    3 POLICY_TIME Form::Int;
    4 STATUS Form::Int;
    5 UPSTREAM_TIME Form::Int;
    6 REQUEST_BODY_SIZE Form::Int;
    7 RESPONSE_BODY_SIZE Form::Int;
    8 ENDING Form::Text;
    9 CHAIN_POSITION Form::Int;
    10 CHAIN_PREVIOUS Form::Hex(32);
}

/// The part as it was before it was packed; none if it is not in this form.
pub(crate) fn unpacked(mut packed: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(packed.len() * 4);
    while let Some((first, rest)) = packed.split_first() {
        packed = if first & 7 == 7 {
            unpack(*first, rest, &mut out)?
        } else {
            let (field, rest) = packed.split_at_checked(span::field_length(packed)?)?;
            out.extend_from_slice(field);
            rest
        };
    }
    Some(out)
}

fn unpack_as<'a, const N: usize>(
    part: &mut SpanPart<'_>,
    short: &Short<N>,
    form: &Form,
    packed: &'a [u8],
) -> Option<&'a [u8]> {
    match *form {
        Form::Int => {
            let (value, rest) = span::read_varint(packed)?;
            part.short_int(short, value.cast_signed());
            Some(rest)
        }
        Form::Text => {
            let (length, rest) = span::read_varint(packed)?;
            let (text, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            part.short_text(short, std::str::from_utf8(text).ok()?);
            Some(rest)
        }
        Form::Hex(length) => {
            let (bytes, rest) = packed.split_at_checked(length)?;
            part.short_hex(short, bytes);
            Some(rest)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part with everything in it, as it is, and packed.
    fn part() -> (Vec<u8>, Vec<u8>) {
        let (mut whole, mut packed) = (Vec::new(), Vec::new());
        let mut part = SpanPart::packing(&mut whole, &mut packed);
        part.identity(&[7; 16], &[0xff; 8], None);
        part.flags(1);
        part.short_int(SEQUENCE, i64::MAX);
        part.short_text(URL_PATH, &"/é".repeat(700));
        part.short_text(URL_PATH, "");
        part.text("a", "b");
        part.short_hex(DECISION_ID, &[0xab; 8]);
        part.short_int(STATUS, -1);
        part.short_text(ENDING, "completed");
        part.int("n", 300);
        part.event(4, "e", &[("k", "v")]);
        part.short_hex(CHAIN_PREVIOUS, &[9; 32]);
        part.short_int(CHAIN_POSITION, 0);
        part.end(7);
        part.close();
        (whole, packed)
    }

    #[test]
    fn what_was_packed_is_what_it_was() {
        use opentelemetry_proto::tonic::trace::v1::Span;
        use prost::Message as _;
        let (whole, packed) = part();
        assert_eq!(unpacked(&packed).unwrap(), whole);
        assert!(packed.len() + 180 < whole.len(), "{} of {}", packed.len(), whole.len());
        let span = Span::decode(whole.as_slice()).unwrap();
        assert_eq!(span.attributes.len(), 9, "an empty text is left out");
        assert_eq!(span.end_time_unix_nano, 7);
        let mut plain = Vec::new();
        let mut part = SpanPart::new(&mut plain);
        part.short_int(SEQUENCE, 5);
        part.close();
        assert_eq!(unpacked(&plain).unwrap(), plain, "without a token it is what it is");
    }

    #[test]
    fn a_part_that_is_cut_or_strange_is_none() {
        let (whole, packed) = part();
        let unpacked_to = |length: usize| unpacked(packed.get(..length).unwrap());
        let cut = (0..packed.len()).filter_map(unpacked_to);
        assert!(cut.clone().count() < packed.len(), "not every cut is between fields");
        assert!(cut.into_iter().all(|part| whole.starts_with(&part)));
        for strange in [&[0x7f, 1][..], &[0x0b], &[0x0a, 0x80], &[0x0f, 2, 0xff, 0xff], &[0]] {
            assert_eq!(unpacked(strange), None, "{strange:x?}");
        }
    }

    #[test]
    fn each_token_is_for_one_attribute_and_begins_no_field() {
        let mut tokens = TOKENS.to_vec();
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), TOKENS.len());
        assert!(tokens.iter().all(|token| token & 7 == 7 && *token < 0x80));
    }
}
