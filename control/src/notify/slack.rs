//! An incoming webhook of Slack, or of what takes the same (Mattermost, Rocket.Chat).

use std::path::Path;

use bytes::Bytes;
use http::Uri;
use serde_json::json;

use super::http::Client;
use super::{Notice, SendError, State, clean, held, summary};

pub(super) async fn send(client: &Client, url: &Path, notice: &Notice) -> Result<(), SendError> {
    let text = picket_certs::files::read_private(url).map_err(|error| SendError::file(&error))?;
    let url = std::str::from_utf8(text.trim_ascii()).ok().and_then(|text| text.parse::<Uri>().ok());
    // The URL is the secret: it is not shown.
    let url =
        url.ok_or_else(|| SendError::Refused("the file of urlFile holds no URL".to_owned()))?;
    let body = json!({ "text": words(notice) }).to_string();
    client.post(&url, &[], Bytes::from(body)).await
}

fn words(notice: &Notice) -> String {
    let alert = &notice.alert;
    let what = escaped(&summary(alert));
    match notice.state {
        State::Test | State::Heartbeat | State::Respond => what,
        State::Resolved => format!("resolved: {what} ({} matches)", alert.count),
        State::Digest => {
            format!("digest: {what}\n`picket alerts list --all --rule {}`", alert.rule)
        }
        State::Firing => {
            let mut words = format!("*{}* {what}", alert.severity.as_str().to_uppercase());
            for (name, values) in [("records", &alert.records), ("traces", &notice.traces)] {
                if let Some(first) = values.first() {
                    words.push_str(&format!("\n{name}: {}", escaped(&clean(first))));
                }
            }
            if notice.episode > 1 {
                words.push_str(&format!("\nepisode {}{}", notice.episode, held(notice)));
            }
            words.push_str(&format!("\n`picket alerts show {}`", alert.id));
            if let Some(link) = &notice.link {
                words.push_str(&format!("\n{link}"));
            }
            words
        }
    }
}

/// As Slack wants texts that are no markup; what is left of its formatting cannot link, name or call anybody.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace(['`', '*', '_', '~'], "'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_can_be_called_by_a_value() {
        assert_eq!(
            escaped("<!channel> <http://x|y> `a`"),
            "&lt;!channel&gt; &lt;http://x|y&gt; 'a'"
        );
    }
}
