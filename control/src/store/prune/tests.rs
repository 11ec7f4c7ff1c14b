use bytes::Bytes;

use super::*;
use crate::record::Facts;
use crate::store::cursors::Cursor;
use crate::store::records::{self, Batch, NewRecord};
use crate::store::{Store, Writing};

/// A record each second, numbered from 1.
fn fill(writing: &Writing<'_>, from: i64, to: i64) -> Result<(), StoreError> {
    let record = |sequence: i64| NewRecord {
        facts: Facts {
            sequence,
            time_ns: sequence * 1_000_000_000,
            trace: vec![1; 16],
            span: vec![2; 8],
            kind: "request".to_owned(),
            ..Facts::default()
        },
        bytes: Bytes::from(vec![7; 700]),
    };
    let batch = Batch {
        spiffe_id: "spiffe://a/ns/b/sa/c".to_owned(),
        boot: "b1".to_owned(),
        resource: Bytes::from_static(b"resource"),
        records: (from..=to).map(record).collect(),
        slow_us: None,
    };
    assert!(records::insert(writing, &batch, 0)?.is_ok());
    Ok(())
}

const NOTHING: Limits = Limits { before: None, size: None, floor: i64::MAX, export: None };

/// Steps until nothing more goes: why, and what is left: ids, segments with tallies, records in tallies.
async fn prune(store: &Store, limits: Limits) -> (Step, (i64, i64, i64), Vec<i64>, i64) {
    loop {
        let step = store.write(move |writing| step(writing, limits)).await.unwrap();
        if !matches!(step, Step::Removed(_)) {
            let left = store.read(|c| {
                let ends = c.query_row(
                    "SELECT coalesce(min(id), 0), coalesce(max(id), 0), count(*) FROM records",
                    [],
                    |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)),
                )?;
                let mut sealed = c.prepare("SELECT DISTINCT segment FROM tallies")?;
                let sealed = sealed.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
                let counted = "SELECT coalesce(sum(records), 0) FROM tallies";
                Ok((ends, sealed, c.query_row(counted, [], |row| row.get(0))?))
            });
            let (ends, sealed, counted) = left.await.unwrap();
            return (step, ends, sealed, counted);
        }
    }
}

async fn filled() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("control.db")).unwrap();
    store.write(|writing| fill(writing, 1, 200)).await.unwrap();
    (directory, store)
}

#[tokio::test]
async fn what_is_too_old_goes_by_segments_and_then_one_by_one() {
    let (_directory, store) = filled().await;
    let at = |second: i64| Limits { before: Some(second * 1_000_000_000), ..NOTHING };
    assert_eq!(prune(&store, NOTHING).await.1, (1, 200, 200));
    // Segments have 32 ids, the first 31; the second one still has records that are young enough.
    let (step, ends, sealed, counted) = prune(&store, at(50)).await;
    assert_eq!((step, ends, sealed[0], counted), (Step::Enough, (32, 200, 169), 1, 192 - 32));
    let (_, ends, sealed, counted) = prune(&store, at(195)).await;
    assert_eq!((ends, sealed.len(), counted), ((195, 200, 6), 0, 0));
    assert_eq!(store.read(totals).await.unwrap(), (194, 194));
    assert_eq!(store.write(|w| report(w)).await.unwrap(), 194);
    assert_eq!(store.write(|w| report(w)).await.unwrap(), 0);
    // What comes later is numbered as if nothing had gone, and sealed again.
    store.write(|writing| fill(writing, 201, 300)).await.unwrap();
    let (_, ends, sealed, _) = prune(&store, NOTHING).await;
    assert_eq!((ends, sealed), ((195, 300, 106), vec![6, 7, 8]));
}

#[tokio::test]
async fn for_want_of_room_goes_what_is_exported_and_old_enough_and_nothing_else() {
    let (_directory, store) = filled().await;
    let full = Limits { size: Some(1), ..NOTHING };
    let young = Limits { floor: 40_000_000_000, ..full };
    let (step, ends, ..) = prune(&store, young).await;
    assert_eq!((step, ends.0), (Step::Kept(Why::TooYoung), 32));
    let exported = Cursor { position: 100, ..Cursor::default() };
    store.write(move |writing| cursors::save(writing, "x", exported)).await.unwrap();
    let (step, ends, ..) = prune(&store, Limits { export: Some("x"), ..full }).await;
    assert_eq!((step, ends.0), (Step::Kept(Why::Unexported), 96));
    let (step, ends, ..) = prune(&store, full).await;
    assert_eq!(step, Step::Enough);
    assert_eq!(ends.2, 0, "the limit is below what an empty database takes");
}

#[tokio::test]
async fn what_is_free_goes_back_to_the_file_system() {
    let (directory, store) = filled().await;
    for start in (201..20_000).step_by(1_000) {
        store.write(move |writing| fill(writing, start, start + 999)).await.unwrap();
    }
    let used = store.read(bytes).await.unwrap();
    let limits = Limits { size: Some(used / 4), ..NOTHING };
    let (step, ends, ..) = prune(&store, limits).await;
    assert_eq!(step, Step::Enough);
    let left = store.write(|writing| bytes(writing)).await.unwrap();
    assert!(left <= used / 4, "{left} of {used}: {ends:?}");
    while store.write(|writing| shrink(writing)).await.unwrap() {}
    store.close();
    drop(store);
    // The file itself is cut when the write-ahead log goes into it.
    let path = directory.path().join("control.db");
    let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
    let later = Connection::open(&path).unwrap();
    later.query_row(checkpoint, [], |row| row.get::<_, i64>(0)).unwrap();
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size < used / 2, "{size} of {used}");
}
