//! The hash chain of the records and its signed heads, as somebody else checks them.

use std::collections::BTreeMap;

use http::StatusCode;
use picket_api::v1::{ChainHead, SignedHeads};
use picket_certs::leaf::hex;
use picket_testkit::otlp::Received;
use rustls_pki_types::CertificateDer;

use crate::support::{ALLOW_WEB, Sidecar, get, post};

fn sha256(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec()
}

/// Follows every chain from its seed; gives position and hash of each lane's last span.
pub(crate) fn follow(spans: &[Received]) -> BTreeMap<(String, i64), (i64, Vec<u8>)> {
    let mut lanes: BTreeMap<(String, i64), Vec<&Received>> = BTreeMap::new();
    for span in spans {
        let boot = span.resource_text("service.instance.id").unwrap().to_owned();
        lanes.entry((boot, span.int("picket.lane").unwrap())).or_default().push(span);
    }
    let mut ends = BTreeMap::new();
    for ((boot, lane), mut spans) in lanes {
        let emitter = spans[0].resource_text("picket.emitter").unwrap();
        let seed = format!("picket-chain-v1\n{emitter}\n{boot}\n{lane}\n");
        let mut last = sha256(seed.as_bytes());
        spans.sort_by_key(|span| span.int("picket.chain.position"));
        for (position, span) in (1..).zip(&spans) {
            assert_eq!(span.int("picket.chain.position"), Some(position), "lane {lane}");
            assert_eq!(span.text("picket.chain.previous"), Some(hex(&last).as_str()));
            last = sha256(&span.bytes);
        }
        ends.insert((boot, lane), (spans.len() as i64, last));
    }
    ends
}

/// The heads, of which every signature was checked with the certificate that came with them.
pub(crate) fn checked(heads: &SignedHeads, emitter: &str) -> Vec<ChainHead> {
    let leaf = CertificateDer::from(heads.certificate_chain[0].clone());
    let leaf = webpki::EndEntityCert::try_from(&leaf).unwrap();
    for head in &heads.heads {
        let ChainHead { boot, lane, position, hash, emitted, open, lost, time_ms, signature } =
            head;
        let hash = hex(hash);
        let text = format!(
            "picket-head-v1\n{emitter}\n{boot}\n{lane}\n{position}\n{hash}\n{emitted}\n{open}\n\
             {lost}\n{time_ms}\n"
        );
        let algorithm = webpki::aws_lc_rs::ECDSA_P256_SHA256;
        leaf.verify_signature(algorithm, text.as_bytes(), signature).unwrap();
        assert_eq!(*emitted, position + open + lost);
    }
    heads.heads.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_names_the_one_before_it_and_the_heads_are_signed() {
    let sidecar = Sidecar::start(ALLOW_WEB).await;
    for number in 0..20 {
        let status = sidecar.call("web", post(&format!("/{number}"), "x")).await.0;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(sidecar.call("rogue", get("/a")).await.0, StatusCode::FORBIDDEN);
    }
    let spans = sidecar.sink.at_least(40).await;
    let ends = follow(&spans);
    assert_eq!(ends.values().map(|(position, _)| position).sum::<i64>(), 40);
    let emitter = spans[0].resource_text("picket.emitter").unwrap();
    let all = sidecar.sink.heads();
    assert!(!all.is_empty());
    // Heads of earlier exports lie on the same chain; those of the last export are its end.
    for heads in &all {
        for head in checked(heads, emitter) {
            let end = &ends[&(head.boot, i64::from(head.lane))];
            assert!(head.position as i64 <= end.0);
        }
    }
    let last = checked(all.last().unwrap(), emitter);
    for ((boot, lane), (position, hash)) in &ends {
        let head = last.iter().find(|head| head.boot == *boot && i64::from(head.lane) == *lane);
        let head = head.unwrap();
        assert_eq!((head.position as i64, &head.hash), (*position, hash));
        assert_eq!((head.open, head.lost), (0, 0));
    }
}
