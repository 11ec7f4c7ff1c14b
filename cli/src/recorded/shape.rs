//! The shape of a path: what is constant in it, and what names one thing among many.

/// A path with `{*}` for each segment that looks like the name of one thing among many.
pub(crate) fn shape(path: &str) -> String {
    let segments: Vec<&str> =
        path.split('/').map(|s| if is_variable(s) { "{*}" } else { s }).collect();
    segments.join("/")
}

/// Whether a segment looks like a number, a UUID, a hash or another generated name.
pub(crate) fn is_variable(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    let digits = bytes.iter().filter(|byte| byte.is_ascii_digit()).count();
    let is_hex = bytes.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-');
    if digits == 0 {
        return false;
    }
    let is_number = digits == bytes.len();
    // A UUID, a hash, the digits of an identifier.
    let is_hash = is_hex && bytes.len() >= 8;
    // `ord_8Xk2q9`, `2026-01-31`, `a1b2c3`: as many digits as make it unlikely to be a word.
    let is_mixed = digits >= 3 && digits * 4 >= bytes.len();
    // Long and random, as tokens and base64 are.
    let is_long = bytes.len() >= 20;
    is_number || is_hash || is_mixed || is_long
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_one_thing_among_many_is_left_open() {
        for (path, expected) in [
            ("/", "/"),
            ("/orders/7", "/orders/{*}"),
            ("/orders/7/items/0012/", "/orders/{*}/items/{*}/"),
            ("/v1/users/3fa85f64-5717-4562-b3fc-2c963f66afa6", "/v1/users/{*}"),
            ("/files/9f86d081884c7d65", "/files/{*}"),
            ("/days/2026-01-31", "/days/{*}"),
            ("/orders/ord_8Xk2q9Zb4Lm0pQr7TsVw", "/orders/{*}"),
            ("/api/v2/health", "/api/v2/health"),
            ("/grpc.Shop/List", "/grpc.Shop/List"),
            ("/deadbeef", "/deadbeef"),
            ("/oauth2/token", "/oauth2/token"),
        ] {
            assert_eq!(shape(path), expected);
        }
    }
}
