//! The original client's address, as far as trusted hops vouch for it.
//!
//! With `n` trusted proxies in front, the `n`th entry of `x-forwarded-for` from the right was written
//! by one of them; whatever stands further left the client may have made up. With none, the header
//! says nothing.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client's address; none if no hop is trusted or the header has fewer entries than hops.
pub(crate) fn client(headers: &HeaderMap, trusted_hops: usize) -> Option<IpAddr> {
    if trusted_hops == 0 {
        return None;
    }
    let values: Vec<&str> = headers
        .get_all(X_FORWARDED_FOR)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let position = values.len().checked_sub(trusted_hops)?;
    values.get(position)?.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(values: &[&'static str], hops: usize) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_static(value));
        }
        client(&headers, hops).map(|ip| ip.to_string())
    }

    #[test]
    fn only_what_trusted_hops_wrote_counts() {
        let all = ["6.6.6.6, 1.1.1.1", "2.2.2.2"];
        assert_eq!(of(&all, 0), None);
        assert_eq!(of(&all, 1).as_deref(), Some("2.2.2.2"));
        assert_eq!(of(&all, 2).as_deref(), Some("1.1.1.1"));
        assert_eq!(of(&all, 4), None, "fewer entries than hops: nobody wrote it");
        assert_eq!(of(&["nonsense"], 1), None);
        assert_eq!(of(&["::ffff:3.3.3.3"], 1).as_deref(), Some("3.3.3.3"));
    }
}
