//! Brings a request into the one spelling that is decided on, recorded and forwarded.
//!
//! From here on nobody looks at what the client wrote: the request itself carries the normalised
//! target and exactly one host.
//!
//! Specification: RFC 9112 section 3.2 and 3.3, RFC 9113 section 8.3.1.

use std::borrow::Cow;

use http::header::HOST;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, Request, Uri};
use picket_policy::path;

use crate::error::Malformed;

/// A request in its normal spelling.
pub(crate) struct Normalized<B> {
    /// Its target is a path and perhaps a query, its `Host` header is set.
    request: Request<B>,
    changed: bool,
}

impl<B> Normalized<B> {
    pub(crate) fn request(&self) -> &Request<B> {
        &self.request
    }

    /// The headers, to be brought into the form for the next hop.
    pub(crate) fn headers_mut(&mut self) -> &mut http::HeaderMap {
        self.request.headers_mut()
    }

    /// The same without its body, to be decided on again.
    pub(crate) fn head(&self) -> Normalized<()> {
        let mut head = Request::new(());
        head.method_mut().clone_from(self.request.method());
        head.uri_mut().clone_from(self.request.uri());
        head.headers_mut().clone_from(self.request.headers());
        Normalized { request: head, changed: self.changed }
    }

    pub(crate) fn path(&self) -> &str {
        self.request.uri().path()
    }

    /// The path, if it is not the one that was sent.
    pub(crate) fn changed_path(&self) -> Option<&str> {
        self.changed.then(|| self.path())
    }

    /// The host that the client addressed.
    pub(crate) fn host(&self) -> Option<&HeaderValue> {
        self.request.headers().get(HOST)
    }

    /// Replaces the query, which a token may have been taken from.
    pub(crate) fn set_query(&mut self, query: Option<&str>) -> Result<(), Malformed> {
        let path = self.path();
        let target = match query {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        *self.request.uri_mut() = origin_form(target)?;
        Ok(())
    }

    pub(crate) fn into_request(self) -> Request<B> {
        self.request
    }
}

/// Normalises a request to the service.
pub(crate) fn request<B>(mut request: Request<B>) -> Result<Normalized<B>, Malformed> {
    if request.method() == Method::CONNECT {
        return Err(Malformed::Connect);
    }
    let host = host(&request)?;
    let changed = target(&mut request)?;
    request.headers_mut().insert(HOST, host);
    Ok(Normalized { request, changed })
}

/// The host as the client addressed it: the target's authority, else the only `Host` header.
fn host<B>(request: &Request<B>) -> Result<HeaderValue, Malformed> {
    let mut headers = request.headers().get_all(HOST).iter();
    let header = headers.next();
    if headers.next().is_some() {
        return Err(Malformed::Host);
    }
    let host = match (request.uri().authority(), header) {
        (None, Some(header)) => header.clone(),
        (Some(authority), header) => {
            let same = |header: &HeaderValue| {
                header.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes())
            };
            if header.is_some_and(|header| !same(header)) {
                return Err(Malformed::HostMismatch);
            }
            HeaderValue::from_str(authority.as_str()).map_err(|_| Malformed::Host)?
        }
        (None, None) => return Err(Malformed::Host),
    };
    match Authority::try_from(host.as_bytes()) {
        Ok(authority) if !authority.as_str().contains('@') => Ok(host),
        _ => Err(Malformed::Host),
    }
}

/// Rewrites the target to origin form with the path in its normal spelling; says whether the path
/// changed.
fn target<B>(request: &mut Request<B>) -> Result<bool, Malformed> {
    let uri = request.uri();
    if uri.path() == "*" && request.method() == Method::OPTIONS {
        // RFC 9112 section 3.2.4; policies see it as the root.
        *request.uri_mut() = origin_form("/".to_owned())?;
        return Ok(true);
    }
    let sent = uri.path_and_query().map_or("", PathAndQuery::as_str);
    let target = path::normalize(sent).map_err(Malformed::Path)?;
    let changed = matches!(target.path, Cow::Owned(_));
    let rewritten = match target.to_forward(sent) {
        Cow::Owned(rewritten) => Some(rewritten),
        // Absolute form and HTTP/2 have a scheme and an authority that do not belong here.
        Cow::Borrowed(_) if uri.authority().is_some() => Some(sent.to_owned()),
        Cow::Borrowed(_) => None,
    };
    if let Some(rewritten) = rewritten {
        *request.uri_mut() = origin_form(rewritten)?;
    }
    Ok(changed)
}

fn origin_form(target: String) -> Result<Uri, Malformed> {
    Uri::try_from(target).map_err(|_| Malformed::Target)
}

#[cfg(test)]
mod tests {
    use http::Version;
    use picket_policy::path::PathError;

    use super::*;

    fn normalized(uri: &str, hosts: &[&str]) -> Result<(String, String), Malformed> {
        let mut builder = Request::builder().uri(uri);
        for host in hosts {
            builder = builder.header(HOST, *host);
        }
        let normalized = request(builder.body(()).unwrap())?;
        let host = normalized.host().unwrap().to_str().unwrap().to_owned();
        Ok((normalized.request().uri().to_string(), host))
    }

    fn both(target: &str, host: &str) -> Result<(String, String), Malformed> {
        Ok((target.to_owned(), host.to_owned()))
    }

    #[test]
    fn every_form_of_a_target_becomes_one() {
        assert_eq!(normalized("/a?b=1", &["orders:80"]), both("/a?b=1", "orders:80"));
        assert_eq!(normalized("/x/..//a/%61", &["orders"]), both("/a/a", "orders"));
        assert_eq!(normalized("http://orders/a", &[]), both("/a", "orders"));
        assert_eq!(normalized("http://orders/a", &["ORDERS"]), both("/a", "orders"));
        assert_eq!(normalized("http://orders", &[]), both("/", "orders"));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        use Malformed::{Connect, Host, HostMismatch, Path};
        assert_eq!(normalized("/a", &[]), Err(Host));
        assert_eq!(normalized("/a", &["a", "a"]), Err(Host));
        assert_eq!(normalized("/a", &[""]), Err(Host));
        assert_eq!(normalized("/a", &["user@orders"]), Err(Host));
        assert_eq!(normalized("/a", &["orders/b"]), Err(Host));
        assert_eq!(normalized("http://orders/a", &["payments"]), Err(HostMismatch));
        assert_eq!(normalized("/a%2fb", &["orders"]), Err(Path(PathError::EncodedSlash)));
        assert_eq!(normalized("/a;b", &["orders"]), Err(Path(PathError::Semicolon)));
        let connect = Request::builder().method("CONNECT").uri("orders:80");
        let connect = connect.version(Version::HTTP_11).body(()).unwrap();
        assert_eq!(request(connect).err(), Some(Connect));
    }

    #[test]
    fn the_query_can_be_replaced() {
        let sent = Request::builder().uri("/a?t=1&b=2").header(HOST, "orders").body(()).unwrap();
        let mut sent = request(sent).unwrap();
        sent.set_query(Some("b=2")).unwrap();
        assert_eq!(sent.request().uri(), "/a?b=2");
        sent.set_query(None).unwrap();
        assert_eq!(sent.request().uri(), "/a");
    }
}
