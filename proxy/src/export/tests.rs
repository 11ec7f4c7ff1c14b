use picket_testkit::OtlpSink;
use tonic::transport::Endpoint;

use super::*;
use crate::snapshot::Current;
use crate::spool::{Class, Spool, SpoolEvent, sha256};

const BOOT: &str = "boot";

#[tokio::test]
async fn what_has_waited_too_long_is_dropped_and_declared() {
    let directory = tempfile::tempdir().unwrap();
    let resource = crate::audit::span::resource(&[("service.instance.id", BOOT)], ("labels", &[]));
    let mut spool = Spool::open(directory.path(), "spiffe://a", BOOT, &resource, 1 << 30).unwrap();
    let mut lane = spool.lane().unwrap();
    let bulletin = Arc::new(Bulletin::new(spool.small_lane().unwrap()));
    let now = nanos(SystemTime::now());
    let hour = 3_600_000_000_000;
    // The clock was put forward for a while: what looks as if it came from the future is kept.
    for time in [now - 3 * hour, now - 2 * hour, now + 5 * hour, now] {
        lane.whole(Class::Essential, time, b"", sha256(b"")).unwrap();
    }
    let syncing = spool.syncer().start(Duration::from_millis(1), |event: SpoolEvent| {
        panic!("{event}");
    });
    let _syncing = syncing.unwrap();
    let sink = OtlpSink::start().await;
    let destination = Destination::Otlp(Endpoint::from_shared(sink.url()).unwrap().connect_lazy());
    let delivery = Delivery {
        destination,
        compression: Compression::Gzip,
        max_age: Some(Duration::from_secs(3600)),
        dead_letters: directory.path().join("dead-letters.otlp"),
    };
    let lanes = spool.lanes().to_vec();
    let heads = Arc::new(Heads::new("spiffe://a", BOOT, lanes, Arc::new(Current::default())));
    let (reader, account) = (spool.reader().unwrap(), spool.account());
    let exporter = Exporter::new(reader, delivery, Arc::clone(&account), heads, bulletin);
    let (_written, ended) = watch::channel(true);
    exporter.run(ended).await;
    let spans = sink.spans();
    assert_eq!(spans.len(), 3, "two that are fresh, and what declares the others");
    let gap = spans.iter().find(|span| span.int("picket.gap.count").is_some()).unwrap();
    assert_eq!(gap.text("picket.gap.reason"), Some("aged"));
    let said = ["picket.gap.count", "picket.gap.first", "picket.gap.last", "picket.gap.lane"];
    assert_eq!(said.map(|key| gap.int(key)), [Some(2), Some(1), Some(2), Some(0)]);
    assert_eq!(gap.text("picket.gap.boot"), Some(BOOT));
    assert_eq!((account.emitted(), account.acknowledged(), account.lost()), (5, 3, 2));
}
