use super::*;

const ALL: Limit = Limit { spans: usize::MAX, bytes: usize::MAX };

fn open(directory: &Path, boot: &str) -> Spool {
    Spool::open(directory, boot, boot.as_bytes(), 1 << 30).unwrap()
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

    let first = lane.begin(Part::Begin, 1, b"a").unwrap();
    let second = lane.begin(Part::Begin, 2, b"x").unwrap();
    assert_eq!((first, second), (1, 2));
    assert!(reader.next(ALL).unwrap().is_empty());
    assert!(!reader.is_drained(), "an open request is not forgotten");

    lane.append(Part::More, second, 3, b"y").unwrap();
    lane.append(Part::End, second, 4, b"z").unwrap();
    lane.begin(Part::Whole, 5, b"w").unwrap();
    let found = reader.next(ALL).unwrap();
    assert_eq!(texts(&found), ["xyz", "w"]);
    assert_eq!(reader.resource(found[0].boot()), b"one");
    reader.acknowledge(&found, 0);
    lane.append(Part::End, first, 6, b"b").unwrap();
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
    let open = lane.begin(Part::Begin, 0, b"long ").unwrap();
    for _ in 0..100 {
        lane.begin(Part::Whole, 0, &payload).unwrap();
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
    lane.append(Part::End, open, 0, b"lived").unwrap();
    let found = reader.next(ALL).unwrap();
    assert_eq!(texts(&found), ["long lived"]);
    reader.acknowledge(&found, 0);
    assert_eq!(segments_of(directory.path()), 2);
    assert_eq!(spool.account().size(), 2 * segment::SIZE);
}

#[test]
fn a_killed_process_leaves_everything_to_its_successor() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), "one");
    let mut lanes = [spool.lane().unwrap(), spool.lane().unwrap()];
    for lane in &mut lanes {
        lane.begin(Part::Whole, 5, b"whole").unwrap();
        let open = lane.begin(Part::Begin, 7, b"begun").unwrap();
        lane.append(Part::More, open, 9, b" and more").unwrap();
    }
    // Nothing is flushed, closed or dropped: that is what a kill leaves.
    std::mem::forget(lanes);
    std::mem::forget(spool);

    for round in ["two", "three"] {
        let spool = open(directory.path(), round);
        let mut reader = spool.reader().unwrap();
        let found = reader.next(ALL).unwrap();
        let expected = ["whole", "whole", "begun and more", "begun and more"];
        assert_eq!(texts(&found), expected, "unacknowledged spans come again in {round}");
        assert_eq!(reader.resource(found[0].boot()), b"one");
        let interrupted: Vec<_> = found.iter().map(|span| span.interrupted).collect();
        assert_eq!(interrupted, [None, None, Some(9), Some(9)]);
        assert_eq!(spool.account().emitted(), 0, "they are not of this boot");
        if round == "three" {
            reader.acknowledge(&found, 0);
            assert!(!directory.path().join("one").exists());
            assert!(reader.next(ALL).unwrap().is_empty());
        }
    }
}

#[test]
fn a_torn_end_is_cut_off_and_a_damaged_middle_is_kept() {
    use std::os::unix::fs::FileExt as _;
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), "one");
    let mut lane = spool.lane().unwrap();
    let payload = vec![b'p'; 100_000];
    for _ in 0..60 {
        lane.begin(Part::Whole, 0, &payload).unwrap();
    }
    std::mem::forget(lane);
    let damage = |segment: u32, offset: u64| {
        let path = segment::path(&directory.path().join("one"), 0, segment);
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(b"damage", offset).unwrap();
    };
    let size = record::Record::size(payload.len()) as u64;
    damage(1, 3 * size + 100); // the fourth record of the first segment
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
    let mut spool = Spool::open(directory.path(), "one", b"", 2 * segment::SIZE).unwrap();
    let mut lane = spool.lane().unwrap();
    let mut reader = spool.reader().unwrap();
    let payload = vec![b'p'; 200_000];
    let mut begun = Vec::new();
    while let Ok(sequence) = lane.begin(Part::Begin, 0, &payload) {
        begun.push(sequence);
    }
    assert_eq!(begun.len(), 21, "the current segment, and the one that reached into the spare");
    for sequence in &begun {
        lane.append(Part::End, *sequence, 0, b"end").unwrap();
    }
    let found = reader.next(ALL).unwrap();
    assert_eq!(found.len(), begun.len());
    assert_eq!(lane.begin(Part::Begin, 0, b"more"), Err(Full));
    reader.acknowledge(&found, 0);
    let sequence = lane.begin(Part::Whole, 0, b"room again").unwrap();
    assert_eq!(sequence, 22, "no number was used up by what was refused");
}

#[test]
fn a_clean_end_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path(), "one");
    let mut lane = spool.lane().unwrap();
    let mut reader = spool.reader().unwrap();
    lane.begin(Part::Whole, 0, b"last").unwrap();
    let found = reader.next(ALL).unwrap();
    reader.acknowledge(&found, 0);
    drop(lane);
    reader.close();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
