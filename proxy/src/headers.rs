//! Headers that belong to one hop, and headers that only a proxy may set.
//!
//! Specification: RFC 9110 section 7.6.1 (Connection), RFC 9113 section 8.2.2, RFC 6455 section 4.

use http::header::{
    CONNECTION, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, StatusCode, Version};

/// Tells the service who called; never believed from a caller.
pub(crate) const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const PROXY_AUTHORIZATION: HeaderName = HeaderName::from_static("proxy-authorization");

/// Names that begin so are ours alone.
const OWN_PREFIX: &str = "x-picket-";

/// Whether a request asks to change the protocol of its connection (HTTP/1.1 only).
pub(crate) fn wants_upgrade(version: Version, method: &Method, headers: &HeaderMap) -> bool {
    version == Version::HTTP_11
        && *method == Method::GET
        && headers.contains_key(UPGRADE)
        && connection_names(headers, "upgrade")
}

/// Removes the headers that `Connection` names, and itself. From a request before anything is decided: what a caller
/// names there must not be among what is decided on, nor take away what the proxy itself adds.
pub(crate) fn strip_named(headers: &mut HeaderMap) {
    // Nearly every message has no Connection header, and then nothing is to be searched for.
    if !headers.contains_key(CONNECTION) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // These are looked at once more.
        .filter(|name| ![UPGRADE, HOST, TE].contains(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
}

/// Whether a header concerns one hop only, or how its message is framed.
pub(crate) fn is_hop(name: &HeaderName) -> bool {
    [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, EXPECT].contains(name)
        || [KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHORIZATION].contains(name)
}

/// Removes what concerns the hop that the message came over. An upgrade that is to be passed on
/// keeps its two headers.
pub(crate) fn strip_hop(headers: &mut HeaderMap, keep_upgrade: bool) {
    strip_named(headers);
    for name in [KEEP_ALIVE, PROXY_CONNECTION, TRANSFER_ENCODING, TRAILER] {
        if headers.contains_key(&name) {
            headers.remove(name);
        }
    }
    if keep_upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(UPGRADE);
    }
}

/// Brings a request's headers into the form for the next hop.
pub(crate) fn prepare_request(headers: &mut HeaderMap, keep_upgrade: bool) {
    let trailers = headers.get(TE).is_some_and(|te| te.as_bytes() == b"trailers");
    strip_hop(headers, keep_upgrade);
    headers.remove(TE);
    if trailers {
        // gRPC asks for it, and it means the same on every hop.
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    headers.remove(PROXY_AUTHORIZATION);
    // hyper has answered it already.
    headers.remove(EXPECT);
    join_cookies(headers);
}

/// Removes everything by which a caller could pretend to be vouched for.
pub(crate) fn strip_forgeable(headers: &mut HeaderMap) {
    headers.remove(XFCC);
    let own: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(OWN_PREFIX)).cloned().collect();
    for name in own {
        headers.remove(name);
    }
}

/// RFC 9113 section 8.2.3: HTTP/2 may split the cookie header, HTTP/1.1 may not.
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(mut joined) = HeaderValue::from_bytes(&all.join(b"; ".as_slice())) {
        joined.set_sensitive(true);
        headers.insert(COOKIE, joined);
    }
}

/// Brings a response's headers into the form for the next hop.
pub(crate) fn prepare_response(status: StatusCode, headers: &mut HeaderMap) {
    strip_hop(headers, status == StatusCode::SWITCHING_PROTOCOLS);
}

fn connection_names(headers: &HeaderMap, wanted: &str) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|name| name.trim().eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())
            })
            .collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn what_belongs_to_a_hop_stays_there() {
        let mut headers = map(&[
            ("connection", "close, X-Hop, host"),
            ("host", "orders"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip"),
            ("upgrade", "h2c"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("proxy-authorization", "Basic x"),
            ("x-end", "2"),
        ]);
        prepare_request(&mut headers, false);
        assert_eq!(names(&headers), ["host", "x-end"]);
    }

    #[test]
    fn an_upgrade_and_grpc_keep_what_they_need() {
        let mut headers = map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        assert!(wants_upgrade(Version::HTTP_11, &Method::GET, &headers));
        assert!(!wants_upgrade(Version::HTTP_2, &Method::GET, &headers));
        prepare_request(&mut headers, true);
        assert_eq!(headers.get(UPGRADE).unwrap(), "websocket");
        assert_eq!(headers.get(CONNECTION).unwrap(), "upgrade");
        let mut headers = map(&[("te", "trailers")]);
        prepare_request(&mut headers, false);
        assert_eq!(headers.get(TE).unwrap(), "trailers");
    }

    #[test]
    fn whoever_names_a_header_of_ours_takes_only_his_own_away() {
        let mut headers =
            map(&[("connection", "close, X-User, te"), ("x-user", "forged"), ("te", "trailers")]);
        strip_named(&mut headers);
        headers.insert("x-user", HeaderValue::from_static("ana"));
        prepare_request(&mut headers, false);
        assert_eq!(names(&headers), ["te", "x-user"]);
        assert_eq!(headers.get("x-user").unwrap(), "ana");
    }

    #[test]
    fn cookies_that_were_split_are_joined() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1"));
        headers.append(COOKIE, HeaderValue::from_static("b=2"));
        prepare_request(&mut headers, false);
        assert_eq!(headers.get_all(COOKIE).iter().count(), 1);
        assert_eq!(headers.get(COOKIE).unwrap(), "a=1; b=2");
    }

    #[test]
    fn nobody_vouches_for_himself() {
        let mut headers = map(&[
            ("x-forwarded-client-cert", "By=x;URI=spiffe://example.org/ns/shop/sa/admin"),
            ("x-picket-principal", "admin"),
            ("x-picketed", "stays"),
        ]);
        strip_forgeable(&mut headers);
        assert_eq!(names(&headers), ["x-picketed"]);
    }
}
