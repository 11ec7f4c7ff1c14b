//! What a receiver's answer means for what was sent.
//!
//! Specification: OTLP 1.x "Failures", "OTLP/gRPC Throttling" (`RetryInfo`), gRPC retry design
//! (`grpc-retry-pushback-ms`).

use std::time::Duration;

use prost::Message;
use tonic::{Code, Status};

use super::Sent;

/// What to do now.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    Received,
    /// It never takes these.
    Refused(String),
    /// It does not take some of them, and does not say which; or they are too many at once.
    SomeRefused(String),
    /// The sender may not send these.
    Forbidden(String),
    /// It does not understand the compression.
    Uncompressed(String),
    /// To be sent again, after a pause if it asks for one.
    Later(String, Option<Duration>),
}

impl Answer {
    /// What an answer to so many spans means.
    pub(super) fn of(sent: Sent, spans: usize, compressed: bool) -> Self {
        let status = match sent {
            Ok(None) => return Self::Received,
            Ok(Some(partial)) => {
                let all = usize::try_from(partial.rejected_spans).is_ok_and(|n| n >= spans);
                return Self::refused(partial.error_message, if all { 1 } else { spans });
            }
            Err(status) => status,
        };
        let cause = format!("{}: {}", status.code(), status.message());
        let pause = pause(&status);
        match status.code() {
            Code::InvalidArgument => Self::refused(cause, spans),
            Code::ResourceExhausted | Code::OutOfRange if pause.is_none() && is_size(&status) => {
                Self::refused(cause, spans)
            }
            Code::PermissionDenied => Self::Forbidden(cause),
            Code::Unimplemented if compressed && status.message().contains("ompress") => {
                Self::Uncompressed(cause)
            }
            _ => Self::Later(cause, pause),
        }
    }

    fn refused(cause: String, spans: usize) -> Self {
        if spans > 1 { Self::SomeRefused(cause) } else { Self::Refused(cause) }
    }
}

/// Whether it is the size of the message that is too much. gRPC has no code for it.
fn is_size(status: &Status) -> bool {
    let words = status.message();
    ["larger than", "too large", "exceeds", "too big"].iter().any(|part| words.contains(part))
}

/// How long the receiver wants to be left alone.
fn pause(status: &Status) -> Option<Duration> {
    let pushback = status.metadata().get("grpc-retry-pushback-ms");
    if let Some(pushback) = pushback.and_then(|value| value.to_str().ok()) {
        // A negative number says: not again. What must arrive is sent again all the same, later.
        let milliseconds: i64 = pushback.parse().ok()?;
        return Some(Duration::from_millis(u64::try_from(milliseconds).unwrap_or(u64::MAX)));
    }
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let info = details.iter().find(|any| any.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay?;
    let seconds = Duration::from_secs(u64::try_from(delay.seconds).ok()?);
    Some(seconds + Duration::from_nanos(u64::try_from(delay.nanos).ok()?))
}

#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<RpcDuration>,
}

#[derive(Clone, PartialEq, Message)]
struct RpcDuration {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataMap;

    use super::super::client::PartialSuccess;
    use super::*;

    #[test]
    fn an_answer_means_what_the_specification_says() {
        let of = |status: Status, spans| Answer::of(Err(status), spans, true);
        let partial = |rejected| {
            let error_message = "no".to_owned();
            Ok(Some(PartialSuccess { rejected_spans: rejected, error_message }))
        };
        assert_eq!(Answer::of(Ok(None), 3, true), Answer::Received);
        assert!(matches!(Answer::of(partial(3), 3, true), Answer::Refused(_)));
        assert!(matches!(Answer::of(partial(1), 3, true), Answer::SomeRefused(_)));
        assert!(matches!(Answer::of(partial(1), 1, true), Answer::Refused(_)));
        assert!(matches!(of(Status::invalid_argument("x"), 2), Answer::SomeRefused(_)));
        assert!(matches!(of(Status::invalid_argument("x"), 1), Answer::Refused(_)));
        let large = "grpc: received message larger than max (5 vs. 4)";
        assert!(matches!(of(Status::resource_exhausted(large), 2), Answer::SomeRefused(_)));
        assert!(matches!(of(Status::resource_exhausted("quota"), 2), Answer::Later(_, None)));
        assert!(matches!(of(Status::permission_denied("x"), 2), Answer::Forbidden(_)));
        let gzip = Status::unimplemented("Content is compressed with `gzip` which isn't supported");
        assert!(matches!(of(gzip, 2), Answer::Uncompressed(_)));
        assert!(matches!(of(Status::unimplemented("no such"), 2), Answer::Later(_, None)));
        assert!(matches!(of(Status::unavailable("x"), 2), Answer::Later(_, None)));
    }

    #[test]
    fn a_receiver_is_left_alone_for_as_long_as_it_asks() {
        let delay = RetryInfo { retry_delay: Some(RpcDuration { seconds: 2, nanos: 5_000_000 }) };
        let type_url = "type.googleapis.com/google.rpc.RetryInfo".to_owned();
        let details = vec![Any { type_url, value: delay.encode_to_vec() }];
        let details = RpcStatus { details }.encode_to_vec();
        let throttled =
            Status::with_details(Code::ResourceExhausted, "too large a rate", details.into());
        let Answer::Later(_, pause) = Answer::of(Err(throttled), 2, true) else { panic!() };
        assert_eq!(pause, Some(Duration::from_millis(2005)));
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-retry-pushback-ms", "70".parse().unwrap());
        let pushed = Status::with_metadata(Code::Unavailable, "busy", metadata);
        let Answer::Later(_, pause) = Answer::of(Err(pushed), 2, true) else { panic!() };
        assert_eq!(pause, Some(Duration::from_millis(70)));
    }
}
