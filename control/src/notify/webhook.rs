//! A webhook: the notice as JSON, signed, with a key by which the receiver knows it again.

use std::path::Path;
use std::time::SystemTime;

use aws_lc_rs::hmac;
use bytes::Bytes;
use http::{HeaderName, Uri};
use picket_certs::leaf::hex;

use super::http::Client;
use super::{Notice, SendError};
use crate::clock;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const SIGNATURE: HeaderName = HeaderName::from_static("picket-signature");

pub(super) async fn send(
    client: &Client,
    url: &Uri,
    secret: Option<&Path>,
    notice: &Notice,
) -> Result<(), SendError> {
    let body = serde_json::to_vec(notice).map_err(|e| SendError::Refused(e.to_string()))?;
    let mut headers = vec![(KEY, notice.key.clone())];
    if let Some(secret) = secret {
        // Read each time: a secret that was replaced counts at once.
        let secret = picket_certs::files::read_private(secret).map_err(|e| SendError::file(&e))?;
        let time = clock::milliseconds(SystemTime::now()) / 1_000;
        headers.push((SIGNATURE, signature(secret.trim_ascii(), time, &body)));
    }
    client.post(url, &headers, Bytes::from(body)).await
}

/// `t=…,v1=…`: the time in seconds since 1970, and the HMAC-SHA256 of `t.body` in hexadecimal.
fn signature(secret: &[u8], time: i64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    context.update(format!("{time}.").as_bytes());
    context.update(body);
    format!("t={time},v1={}", hex(context.sign().as_ref()))
}
