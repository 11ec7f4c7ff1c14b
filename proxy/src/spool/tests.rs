use super::*;

const ALL: Limit = Limit { spans: usize::MAX, bytes: usize::MAX };

const EMITTER: &str = "spiffe://example.org/ns/shop/sa/orders";

fn open(directory: &Path, boot: &str) -> Spool {
    Spool::open(directory, EMITTER, boot, boot.as_bytes(), 1 << 30).unwrap()
}

/// A span that is complete at once.
fn whole(lane: &mut Lane, payload: &[u8]) -> Result<u64, Reason> {
    lane.whole(Class::Essential, 5, payload, sha256(payload))
}

fn begin(lane: &mut Lane, time: u64, payload: &[u8]) -> Result<u64, Reason> {
    lane.begin(Class::Essential, time, None, Payload::plain(payload))
}

/// Brings to disk what was written.
fn sync(spool: &Spool) {
    spool.syncer().pass(&mut |event| {
        assert!(matches!(event, SpoolEvent::Level(_)), "{event}");
    });
}

fn end(lane: &mut Lane, sequence: u64, parts: &[&[u8]]) {
    let (last, _) = parts.split_last().unwrap();
    lane.end(sequence, 9, Payload::plain(last), sha256(&parts.concat())).unwrap();
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

    let first = begin(&mut lane, 1, b"a").unwrap();
    let second = begin(&mut lane, 2, b"x").unwrap();
    assert_eq!((first, second), (1, 2));
    sync(&spool);
    assert!(reader.next(ALL).unwrap().is_empty());
    assert!(!reader.is_drained(), "an open request is not forgotten");

    lane.more(second, 3, Payload::plain(b"y")).unwrap();
    end(&mut lane, second, &[b"xy", b"z"]);
    whole(&mut lane, b"w").unwrap();
    assert!(reader.next(ALL).unwrap().is_empty(), "what is not on disk is not told");
    sync(&spool);
    let found = reader.next(ALL).unwrap();
    assert_eq!(texts(&found), ["xyz", "w"]);
    assert_eq!(reader.resource(found[0].boot()), b"one");
    reader.acknowledge(&found);
    end(&mut lane, first, &[b"a", b"b"]);
    sync(&spool);
    let found = reader.next(ALL).unwrap();
    assert_eq!(texts(&found), ["ab"]);
    assert_eq!(spool.account().pending(), 1);
    reader.acknowledge(&found);
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
    let open = begin(&mut lane, 0, b"long ").unwrap();
    for _ in 0..100 {
        whole(&mut lane, &payload).unwrap();
    }
    sync(&spool);
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
        reader.acknowledge(found);
    }
    // The first segment has the request that is still open; the last two are the current one and
    // its spare.
    assert_eq!(segments_of(directory.path()), 3);
    end(&mut lane, open, &[b"long ", b"lived"]);
    sync(&spool);
    let found = reader.next(ALL).unwrap();
    assert_eq!(texts(&found), ["long lived"]);
    reader.acknowledge(&found);
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
        let first = begin(lane, 7, b"").unwrap();
        whole(lane, b"").unwrap();
        let second = begin(lane, 8, b"").unwrap();
        lane.more(second, 9, Payload::plain(b"")).unwrap();
        // The clock is put back: the time of the end is that of the latest part all the same.
        lane.more(first, 2, Payload::plain(b"")).unwrap();
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
            reader.acknowledge(&found[1..]);
            assert!(segment::path(&directory.path().join("one"), 0, 1).exists());
            assert!(!segment::path(&directory.path().join("one"), 1, 1).exists());
            reader.acknowledge(&found[..1]);
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
    let stream = begin(&mut lane, 1, b"").unwrap();
    let spanning = begin(&mut lane, 1, b"").unwrap();
    for _ in 0..50 {
        whole(&mut lane, &payload).unwrap();
    }
    end(&mut lane, spanning, &[b"", b""]);
    for _ in 0..50 {
        whole(&mut lane, &payload).unwrap();
    }
    sync(&spool);
    let found = reader.next(ALL).unwrap();
    assert_eq!(found.len(), 101);
    reader.acknowledge(&found);
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

/// Sixty spans over two segments, as a kill leaves them.
fn sixty(directory: &Path) -> (Spool, Lane) {
    let mut spool = open(directory, "one");
    let mut lane = spool.lane().unwrap();
    for _ in 0..60 {
        whole(&mut lane, &PAYLOAD).unwrap();
    }
    (spool, lane)
}

static PAYLOAD: [u8; 100_000] = [b'p'; 100_000];

/// What such a span takes.
const TAKES: u64 = 8 + 17 + 40 + 100_000;

fn damage(directory: &Path, segment: u32, offset: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt as _;
    let path = segment::path(&directory.join("one"), 0, segment);
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

#[test]
fn of_a_damaged_segment_everything_else_is_read_and_what_is_missing_is_declared() {
    let start = header::SIZE as u64;
    // Where, with what, which numbers are missing, and what the declaration says.
    let zeros = vec![0; 2 * TAKES as usize];
    type Case<'a> = (u32, u64, &'a [u8], Vec<u64>, Option<(u64, u64)>);
    let table: [Case<'_>; 6] = [
        (1, start + 3 * TAKES + 400, b"damage", vec![4], Some((4, 4))),
        (1, start + 3 * TAKES, b"\xff\xff\xff\xff", vec![4], Some((4, 4))),
        (1, start + 3 * TAKES + 20, &zeros, vec![4, 5, 6], Some((4, 6))),
        (2, start + 2 * TAKES, &zeros, vec![44, 45], Some((44, 45))),
        (1, start + 40 * TAKES + 5, &zeros[..90_000], vec![41], Some((41, 41))),
        // The tail of the lane, as a power cut tears it; the header knows better.
        (2, start + 17 * TAKES + 5, &zeros[..90_000], vec![59], None),
    ];
    for (segment, offset, bytes, missing, range) in table {
        let directory = tempfile::tempdir().unwrap();
        std::mem::forget(sixty(directory.path()));
        damage(directory.path(), segment, offset, bytes);
        let mut reader = open(directory.path(), "two").reader().unwrap();
        let found = reader.next(ALL).unwrap();
        let numbers: Vec<u64> = found.iter().map(|span| span.sequence).collect();
        let expected: Vec<u64> = (1..=61).filter(|n| !missing.contains(n)).collect();
        assert_eq!(numbers, expected, "{segment} {offset}");
        let declared = found.last().unwrap();
        assert_eq!(text_of(&declared.span, "picket.gap.reason"), "damaged");
        if let Some((first, last)) = range {
            let said = ["picket.gap.count", "picket.gap.first", "picket.gap.last"]
                .map(|key| int_of(&declared.span, key));
            assert_eq!(said, [missing.len() as u64, first, last].map(Some), "{segment} {offset}");
        }
        let head = reader.ended()[0].head;
        // Of what is declared each had its place in the chain.
        assert_eq!((head.emitted, head.link.position, head.lost), (61, 61, 0));
        reader.acknowledge(&found);
        let kept = directory.path().join(format!("one/lane-0-0000000{segment}.damaged"));
        assert!(kept.exists(), "evidence is not deleted");
        assert_eq!(segments_of(directory.path()), 0);
    }
}

#[test]
fn no_flipped_bit_is_believed_or_stops_the_reader() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), "one");
    let mut lane = spool.lane().unwrap();
    let mut offsets = Vec::new();
    for _ in 0..5 {
        offsets.push(lane.place().offset);
        let sequence = begin(&mut lane, 1, b"").unwrap();
        whole(&mut lane, b"").unwrap();
        end(&mut lane, sequence, &[b"", b""]);
    }
    let end = lane.place().offset;
    std::mem::forget((lane, spool));
    let path = segment::path(&directory.path().join("one"), 0, 1);
    let whole_file = fs::read(&path).unwrap();
    let honest = {
        let mut reader = open(directory.path(), "two").reader().unwrap();
        reader.next(ALL).unwrap().iter().map(|s| s.span.clone()).collect::<Vec<_>>()
    };
    assert_eq!(honest.len(), 10);
    let last = end - record::Record::size(record::Part::End, 0) as u64;
    for position in (header::SIZE as u64..end).step_by(7) {
        let bit = 1 << (position % 8);
        damage(directory.path(), 1, position, &[whole_file[position as usize] ^ bit]);
        let mut reader = open(directory.path(), "two").reader().unwrap();
        let found = reader.next(ALL).unwrap();
        // One part was hit: its span is missing, or (its end was hit) handed out as cut off; and the
        // rest is there, with what says so.
        let complete: Vec<&Completed> = found.iter().filter(|s| s.span.is_empty()).collect();
        assert_eq!(complete.len(), 9, "byte {position}");
        let gap = found.last().unwrap();
        if position < last {
            assert_eq!(text_of(&gap.span, "picket.gap.reason"), "damaged", "byte {position}");
            assert_eq!(int_of(&gap.span, "picket.gap.count"), Some(1), "byte {position}");
        } else {
            // As a kill before the last part would have left it.
            assert_eq!(text_of(&gap.span, "picket.ending"), "interrupted");
        }
        damage(directory.path(), 1, position, &[whole_file[position as usize]]);
    }
}

/// A whole-number attribute of a span.
fn int_of(span: &[u8], key: &str) -> Option<u64> {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use prost::Message as _;
    let span = opentelemetry_proto::tonic::trace::v1::Span::decode(span).unwrap();
    let attribute = span.attributes.into_iter().find(|attribute| attribute.key == key);
    match attribute.and_then(|attribute| attribute.value?.value) {
        Some(Value::IntValue(number)) => Some(number as u64),
        _ => None,
    }
}

#[test]
fn a_full_spool_begins_nothing_but_ends_what_was_begun_and_says_what_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let limit = 2 * segment::SIZE;
    let mut spool = Spool::open(directory.path(), EMITTER, "one", b"", limit).unwrap();
    let mut lane = spool.lane().unwrap();
    let mut reader = spool.reader().unwrap();
    let payload = vec![b'p'; 200_000];
    let mut begun = Vec::new();
    while let Ok(sequence) = begin(&mut lane, 0, &payload) {
        begun.push(sequence);
    }
    assert_eq!(begun.len(), 40, "two segments");
    for sequence in &begun {
        end(&mut lane, *sequence, &[&payload, b"end"]);
    }
    sync(&spool);
    assert_eq!(spool.account().level(), account::Level::Scarce);
    let found = reader.next(ALL).unwrap();
    assert_eq!(found.len(), begun.len());
    assert_eq!(begin(&mut lane, 0, &payload), Err(Reason::Full));
    lane.lose(Reason::Full);
    // There is a little room, and it is kept for what matters.
    assert_eq!(lane.begin(Class::Read, 0, None, Payload::plain(b"read")), Err(Reason::Shed));
    lane.lose(Reason::Shed);
    lane.lose(Reason::Full);
    reader.acknowledge(&found);
    assert_eq!(begin(&mut lane, 0, &payload), Ok(44), "numbers were used up by what is missing");
    let missing: Vec<_> =
        lane.undeclared().iter().map(|gap| (gap.reason, gap.count, gap.first, gap.last)).collect();
    assert_eq!(missing, [(Reason::Full, 2, 41, 43), (Reason::Shed, 1, 42, 42)]);
    sync(&spool);
    let head = spool.lanes()[0].head();
    assert_eq!((head.emitted, head.open, head.lost, head.link.position), (44, 1, 3, 40));

    // One of them is declared, and then comes a kill: the successor declares the other, once.
    let gap = lane.undeclared()[0];
    lane.declare(&gap, false, 7, b"", sha256(b"")).unwrap();
    assert_eq!(lane.undeclared().len(), 1);
    std::mem::forget((lane, spool, reader));
    for round in ["two", "three"] {
        let mut reader = open(directory.path(), round).reader().unwrap();
        let found = reader.next(ALL).unwrap();
        let last = found.last().unwrap();
        assert_eq!((last.sequence, chain_of(&last.span).0), (46, 43));
        let said = ["picket.gap.reason", "picket.gap.boot"].map(|key| text_of(&last.span, key));
        assert_eq!(said, ["shed", "one"]);
        let head = reader.ended()[0].head;
        assert_eq!((head.emitted, head.link.position, head.lost), (46, 43, 3));
    }
}

/// A text attribute of a span.
fn text_of(span: &[u8], key: &str) -> String {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use prost::Message as _;
    let span = opentelemetry_proto::tonic::trace::v1::Span::decode(span).unwrap();
    let attribute = span.attributes.into_iter().find(|attribute| attribute.key == key);
    match attribute.and_then(|attribute| attribute.value?.value) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_deletion_that_was_cut_short_is_finished_and_nothing_comes_of_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    std::mem::forget(sixty(directory.path()));
    // One segment of a lane that was acknowledged is gone, then came a kill; another boot was to go
    // as a whole.
    fs::remove_file(segment::path(&directory.path().join("one"), 0, 1)).unwrap();
    fs::write(directory.path().join("one/lane-0.done"), "").unwrap();
    fs::create_dir(directory.path().join("zero.done")).unwrap();
    let mut reader = open(directory.path(), "two").reader().unwrap();
    assert_eq!(segments_of(directory.path()), 0);
    assert!(reader.next(ALL).unwrap().is_empty());
    assert!(!directory.path().join("zero.done").exists());
    assert!(!directory.path().join("one").exists());
}

#[test]
fn what_is_damaged_while_it_is_being_written_is_told_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, mut lane) = sixty(directory.path());
    let mut reader = spool.reader().unwrap();
    sync(&spool);
    damage(directory.path(), 1, header::SIZE as u64 + 3 * TAKES + 400, b"damage");
    let found = reader.next(ALL).unwrap();
    assert_eq!(found.len(), 59);
    let missing = reader.missing();
    assert_eq!((missing.len(), missing[0].reason, missing[0].count), (1, "damaged", 1));
    assert_eq!(
        (missing[0].boot.as_str(), missing[0].lane, missing[0].range),
        ("one", 0, Some((4, 4)))
    );
    // It goes on behind it.
    whole(&mut lane, b"more").unwrap();
    sync(&spool);
    reader.acknowledge(&found);
    let found = reader.next(ALL).unwrap();
    assert_eq!(texts(&found), ["more"]);
    reader.acknowledge(&found);
    assert!(directory.path().join("one/lane-0-00000001.damaged").exists());
    // What is hit in the last segment is left to the successor: nobody knows yet how much it is.
    let offset = lane.place().offset;
    whole(&mut lane, b"hit").unwrap();
    whole(&mut lane, b"last").unwrap();
    sync(&spool);
    damage(directory.path(), 2, offset + 30, b"damage");
    let found = reader.next(ALL).unwrap();
    assert_eq!(texts(&found), ["last"]);
    reader.acknowledge(&found);
    drop((lane, spool));
    reader.close();
    let mut reader = open(directory.path(), "two").reader().unwrap();
    let found = reader.next(ALL).unwrap();
    let gap = &found.last().unwrap().span;
    assert_eq!(
        (int_of(gap, "picket.gap.count"), int_of(gap, "picket.gap.first")),
        (Some(1), Some(62))
    );
}

#[test]
fn a_clean_end_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), "one");
    let mut lane = spool.lane().unwrap();
    let mut reader = spool.reader().unwrap();
    whole(&mut lane, b"last").unwrap();
    sync(&spool);
    let found = reader.next(ALL).unwrap();
    reader.acknowledge(&found);
    drop(lane);
    reader.close();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// A span that goes on from a stem, in three parts.
fn on_stem(lane: &mut Lane, stem: &Stem, payload: &[u8]) {
    let sequence = lane.begin(Class::Essential, 1, Some(stem), Payload::plain(payload)).unwrap();
    lane.more(sequence, 2, Payload::plain(b"+")).unwrap();
    end(lane, sequence, &[stem.bytes(), payload, b"+", b"."]);
}

#[test]
fn spans_on_a_stem_come_out_whole_from_whatever_segment() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), "one");
    let mut lane = spool.lane().unwrap();
    let (small, large) = (Stem::new(b"small ".to_vec()), Stem::new(PAYLOAD.to_vec()));
    let mut expected = Vec::new();
    let mut live = spool.reader().unwrap();
    for number in 0..90 {
        let rest = vec![b'0' + number % 10; if number % 3 == 0 { 70_000 } else { 20 }];
        for stem in [&small, &large] {
            on_stem(&mut lane, stem, &rest);
            expected.push([stem.bytes(), &rest, b"+."].concat());
        }
    }
    sync(&spool);
    let used = lane.place();
    assert!(used.segment >= 2, "several segments: {used:?}");
    // Once for each segment, and not for each span.
    let size = u64::from(used.segment - 1) * segment::SIZE + used.offset;
    let most = 60 * 70_100 + 3 * 100_100 + 200_000 + u64::from(used.segment) * 180_000;
    assert!(size < most, "{size} bytes");
    let found = live.next(ALL).unwrap();
    assert_eq!(found.iter().map(|span| span.span.clone()).collect::<Vec<_>>(), expected);
    std::mem::forget((lane, spool, live));
    let found = open(directory.path(), "two").reader().unwrap().next(ALL).unwrap();
    let again: Vec<_> = found.iter().map(|span| span.span.clone()).collect();
    assert_eq!(again, expected, "as after a kill");
}

#[test]
fn with_a_damaged_stem_go_the_spans_on_it_and_no_others_and_that_is_declared() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), "one");
    let mut lane = spool.lane().unwrap();
    let (first, second) = (Stem::new(vec![b'1'; 500]), Stem::new(vec![b'2'; 500]));
    for _ in 0..5 {
        on_stem(&mut lane, &first, b"a");
        on_stem(&mut lane, &second, b"b");
    }
    sync(&spool);
    std::mem::forget((lane, spool));
    damage(directory.path(), 1, header::SIZE as u64 + 100, b"x");
    let mut reader = open(directory.path(), "two").reader().unwrap();
    let found = reader.next(ALL).unwrap();
    let numbers: Vec<u64> = found.iter().map(|span| span.sequence).collect();
    assert_eq!(numbers, [2, 4, 6, 8, 10, 11]);
    let declared = found.last().unwrap();
    assert_eq!(text_of(&declared.span, "picket.gap.reason"), "damaged");
    assert_eq!(int_of(&declared.span, "picket.gap.count"), Some(5));
}

#[test]
fn what_a_later_picket_has_packed_is_declared_and_costs_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), "one");
    let mut lane = spool.lane().unwrap();
    // A token that is not given out, and for the other span one that is: a status of 200.
    for packed in [&[0x7f, 1][..], &[0x27, 0xc8, 0x01]] {
        let payload = Payload::packed(packed);
        let sequence = lane.begin(Class::Essential, 1, None, payload).unwrap();
        end(&mut lane, sequence, &[packed, b""]);
    }
    sync(&spool);
    std::mem::forget((lane, spool));
    let found = open(directory.path(), "two").reader().unwrap().next(ALL).unwrap();
    let numbers: Vec<u64> = found.iter().map(|span| span.sequence).collect();
    assert_eq!(numbers, [2, 3]);
    assert_eq!(int_of(&found[0].span, "http.response.status_code"), Some(200));
    assert_eq!(text_of(&found[1].span, "picket.gap.reason"), "damaged");
    assert_eq!(int_of(&found[1].span, "picket.gap.count"), Some(1));
}
