//! Texts of a client's choosing, as they may stand in a record.

use http::Method;

/// Longest text of a client's choosing that is recorded, in bytes.
const MAX_TEXT: usize = 2048;

/// Whether it is a method that everybody knows.
pub(super) fn is_known(method: &Method) -> bool {
    [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::CONNECT,
        Method::OPTIONS,
        Method::TRACE,
        Method::PATCH,
    ]
    .contains(method)
}

/// The query with its keys alone: values may be secrets or personal data.
pub(super) fn redacted(query: &str) -> String {
    let mut out = String::with_capacity(query.len().min(MAX_TEXT));
    for pair in query.split('&') {
        if out.len() > MAX_TEXT {
            break;
        }
        if !out.is_empty() {
            out.push('&');
        }
        // Without a `=` the whole might be a value.
        if let Some((key, _)) = pair.split_once('=') {
            out.push_str(cut(key));
            out.push('=');
        }
        out.push_str("REDACTED");
    }
    out
}

/// At most [`MAX_TEXT`] bytes of a text.
pub(super) fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_keeps_its_keys_and_none_of_its_values() {
        assert_eq!(redacted("a=1&b=&secret&c=x=y"), "a=REDACTED&b=REDACTED&REDACTED&c=REDACTED");
        assert!(redacted(&"k=v&".repeat(10_000)).len() < 2 * MAX_TEXT);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let long = "é".repeat(MAX_TEXT);
        assert_eq!(cut(&long).len(), MAX_TEXT);
        let odd = format!("a{long}");
        assert_eq!(cut(&odd).len(), MAX_TEXT - 1);
    }
}
