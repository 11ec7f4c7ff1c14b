use super::*;

const ALL: Limit = Limit { spans: usize::MAX, bytes: usize::MAX };

const EMITTER: &str = "spiffe://example.org/ns/shop/sa/orders";

fn open(directory: &Path, boot: &str) -> Spool {
    Spool::open(directory, EMITTER, boot, boot.as_bytes(), 1 << 30).unwrap()
}

/// A span that is complete at once. (Its hash is what the lane says next that it follows.)
fn whole(lane: &mut Lane, payload: &[u8]) -> Result<u64, Full> {
    lane.whole(5, payload, sha256(payload))
}

fn end(lane: &mut Lane, sequence: u64, parts: &[&[u8]]) {
    let (last, _) = parts.split_last().unwrap();
    lane.end(sequence, 9, last, sha256(&parts.concat())).unwrap();
}

fn texts(spans: &[Completed]) -> Vec<String> {
    spans.iter().map(|span| String::from_utf8(span.span.clone()).unwrap()).collect()
}

fn segments_of(directory: &Path) -> usize {
    (reader::size_on_disk(directory).unwrap() / segment::SIZE) as usize
}

#[test]
fn spans_come_out_when_they_are_complete_and_only_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), "one");
    let mut lane = spool.lane().unwrap();
    let mut reader = spool.reader().unwrap();
    assert!(reader.next(ALL).unwrap().is_empty() && reader.is_drained());

    let first = lane.begin(1, b"a").unwrap();
    let second = lane.begin(2, b"x").unwrap();
    assert_eq!((first, second), (1, 2));
    assert!(reader.next(ALL).unwrap().is_empty());
    assert!(!reader.is_drained(), "an open request is not forgotten");

    lane.more(second, 3, b"y").unwrap();
    end(&mut lane, second, &[b"xy", b"z"]);
    whole(&mut lane, b"w").unwrap();
    let found = reader.next(ALL).unwrap();
    assert_eq!(texts(&found), ["xyz", "w"]);
    assert_eq!(reader.resource(found[0].boot()), b"one");
    reader.acknowledge(&found, 0);
    end(&mut lane, first, &[b"a", b"b"]);
    let found = reader.next(ALL).unwrap();
    assert_eq!(texts(&found), ["ab"]);
    assert_eq!(spool.account().pending(), 1);
    reader.acknowledge(&found, 0);
    assert!(reader.is_drained());
    assert_eq!((spool.account().emitted(), spool.account().pending()), (3, 0));
}

#[test]
fn a_segment_goes_only_when_everything_in_it_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), "one");
    let mut lane = spool.lane().unwrap();
    let mut reader = spool.reader().unwrap();
    let payload = vec![b'p'; 100_000];
    let open = lane.begin(0, b"long ").unwrap();
    for _ in 0..100 {
        whole(&mut lane, &payload).unwrap();
    }
    let mut seen = 0;
    let mut held = Vec::new();
    loop {
        let found = reader.next(Limit { spans: 7, bytes: usize::MAX }).unwrap();
        if found.is_empty() {
            break;
        }
        assert!(found.len() <= 7);
        seen += found.len();
        held.push(found);
    }
    assert_eq!(seen, 100);
    let before = segments_of(directory.path());
    assert!(before >= 4, "{before} segments");
    for found in &held {
        reader.acknowledge(found, 0);
    }
    // The first segment has the request that is still open; the last two are the current one and
    // its spare.
    assert_eq!(segments_of(directory.path()), 3);
    end(&mut lane, open, &[b"long ", b"lived"]);
    let found = reader.next(ALL).unwrap();
    assert_eq!(texts(&found), ["long lived"]);
    reader.acknowledge(&found, 0);
    assert_eq!(segments_of(directory.path()), 2);
    assert_eq!(spool.account().size(), 2 * segment::SIZE);
}

/// Position and previous hash, as a decoder of OTLP sees them.
fn chain_of(span: &[u8]) -> (u64, String) {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use prost::Message as _;
    let span = opentelemetry_proto::tonic::trace::v1::Span::decode(span).unwrap();
    let value = |key: &str| {
        let attribute = span.attributes.iter().find(|attribute| attribute.key == key).unwrap();
        attribute.value.clone().unwrap().value.unwrap()
    };
    match (value("picket.chain.position"), value("picket.chain.previous")) {
        (Value::IntValue(position), Value::StringValue(hash)) => (position as u64, hash),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_killed_process_leaves_everything_to_its_successor_and_its_chain_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), "one");
    let mut lanes = [spool.lane().unwrap(), spool.lane().unwrap()];
    for lane in &mut lanes {
        let first = lane.begin(7, b"").unwrap();
        whole(lane, b"").unwrap();
        let second = lane.begin(8, b"").unwrap();
        lane.more(second, 9, b"").unwrap();
        // The clock is put back: the time of the end is that of the latest part all the same.
        lane.more(first, 2, b"").unwrap();
    }
    // Nothing is flushed, closed or dropped: that is what a kill leaves.
    std::mem::forget(lanes);
    std::mem::forget(spool);

    let mut before: Option<(Vec<Vec<u8>>, Vec<EndedLane>)> = None;
    for round in ["two", "three"] {
        let spool = open(directory.path(), round);
        let mut reader = spool.reader().unwrap();
        let found = reader.next(ALL).unwrap();
        let ended = reader.ended();
        let numbers: Vec<_> = found.iter().map(|span| (span.lane, span.sequence)).collect();
        assert_eq!(numbers, [(0, 2), (1, 2), (0, 1), (0, 3), (1, 1), (1, 3)]);
        assert_eq!(reader.resource(found[0].boot()), b"one");
        for (lane, spans) in [(0, [2, 3]), (1, [4, 5])] {
            // The span that was complete is empty, as is what its hash is of.
            let mut previous = sha256(b"");
            for (position, span) in (2..).zip(spans.map(|at| &found[at].span)) {
                assert_eq!(chain_of(span), (position, picket_certs::leaf::hex(&previous)));
                previous = sha256(span);
            }
            let link = Link { position: 3, hash: previous };
            let head = Head { link, emitted: 3, open: 0, lost: 0 };
            assert_eq!(ended[lane as usize], EndedLane { boot: "one".to_owned(), lane, head });
        }
        assert_eq!(spool.account().emitted(), 0, "they are not of this boot");
        let bytes: Vec<Vec<u8>> = found.iter().map(|span| span.span.clone()).collect();
        if let Some(before) = &before {
            assert_eq!(before, &(bytes, ended), "whoever does it again gives the same bytes");
            // As long as one span is missing the lane stays whole.
            reader.acknowledge(&found[1..], 0);
            assert!(segment::path(&directory.path().join("one"), 0, 1).exists());
            assert!(!segment::path(&directory.path().join("one"), 1, 1).exists());
            reader.acknowledge(&found[..1], 0);
            assert!(!directory.path().join("one").exists());
            assert!(reader.next(ALL).unwrap().is_empty());
        } else {
            before = Some((bytes, ended));
        }
    }
}

#[test]
fn what_was_acknowledged_is_no_request_that_was_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), "one");
    let mut lane = spool.lane().unwrap();
    let mut reader = spool.reader().unwrap();
    let payload = vec![b'p'; 100_000];
    // A stream that lives on keeps the first segment, and with it the beginning of what ends in the
    // second one, which goes.
    let stream = lane.begin(1, b"").unwrap();
    let spanning = lane.begin(1, b"").unwrap();
    for _ in 0..50 {
        whole(&mut lane, &payload).unwrap();
    }
    end(&mut lane, spanning, &[b"", b""]);
    for _ in 0..50 {
        whole(&mut lane, &payload).unwrap();
    }
    let found = reader.next(ALL).unwrap();
    assert_eq!(found.len(), 101);
    reader.acknowledge(&found, 0);
    let segments: Vec<bool> = (1..=3)
        .map(|number| segment::path(&directory.path().join("one"), 0, number).exists())
        .collect();
    assert_eq!(segments, [true, false, true]);
    std::mem::forget((lane, spool, reader));

    let mut reader = open(directory.path(), "two").reader().unwrap();
    let found = reader.next(ALL).unwrap();
    let interrupted: Vec<_> =
        found.iter().filter(|span| span.span.len() != payload.len()).collect();
    assert_eq!(interrupted.len(), 1);
    assert_eq!(interrupted[0].sequence, stream);
    assert_eq!(chain_of(&interrupted[0].span).0, 102);
    let numbers: Vec<u64> = found.iter().map(|span| span.sequence).collect();
    assert!(!numbers.contains(&spanning));
}

#[test]
fn a_torn_end_is_cut_off_and_a_damaged_middle_is_kept() {
    use std::os::unix::fs::FileExt as _;
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), "one");
    let mut lane = spool.lane().unwrap();
    let payload = vec![b'p'; 100_000];
    for _ in 0..60 {
        whole(&mut lane, &payload).unwrap();
    }
    std::mem::forget(lane);
    let damage = |segment: u32, offset: u64| {
        let path = segment::path(&directory.path().join("one"), 0, segment);
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(b"damage", offset).unwrap();
    };
    let size = record::Record::size(record::Part::Whole, payload.len()) as u64;
    damage(1, 3 * size + 400); // the fourth record of the first segment
    let spool = open(directory.path(), "two");
    let mut reader = spool.reader().unwrap();
    let found = reader.next(ALL).unwrap();
    let per_segment = segment::SIZE / size;
    assert_eq!(found.len() as u64, 60 - (per_segment - 3));
    reader.acknowledge(&found, 0);
    let kept = directory.path().join("one/lane-0-00000001.damaged");
    assert!(kept.exists(), "evidence is not deleted");
}

#[test]
fn a_full_spool_begins_nothing_but_ends_what_was_begun() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(directory.path(), EMITTER, "one", b"", 2 * segment::SIZE).unwrap();
    let mut lane = spool.lane().unwrap();
    let mut reader = spool.reader().unwrap();
    let payload = vec![b'p'; 200_000];
    let mut begun = Vec::new();
    while let Ok(sequence) = lane.begin(0, &payload) {
        begun.push(sequence);
    }
    assert_eq!(begun.len(), 21, "the current segment, and the one that reached into the spare");
    for sequence in &begun {
        end(&mut lane, *sequence, &[&payload, b"end"]);
    }
    let found = reader.next(ALL).unwrap();
    assert_eq!(found.len(), begun.len());
    assert_eq!(lane.begin(0, b"more"), Err(Full));
    reader.acknowledge(&found, 0);
    let sequence = whole(&mut lane, b"room again").unwrap();
    assert_eq!(sequence, 22, "no number was used up by what was refused");
}

#[test]
fn a_clean_end_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), "one");
    let mut lane = spool.lane().unwrap();
    let mut reader = spool.reader().unwrap();
    whole(&mut lane, b"last").unwrap();
    let found = reader.next(ALL).unwrap();
    reader.acknowledge(&found, 0);
    drop(lane);
    reader.close();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
