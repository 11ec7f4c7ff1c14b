use std::time::Instant;

use bytes::Bytes;

use super::records::{Batch, NewRecord, Stored};
use super::*;
use crate::record::Facts;

fn open() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("control.db")).unwrap();
    (directory, store)
}

#[tokio::test]
async fn a_job_that_fails_takes_no_other_with_it() {
    let (_directory, store) = open();
    let set = |key: &'static str, fail: bool| {
        let store = store.clone();
        async move {
            let job = move |c: &Connection| {
                meta(c, key, "x")?;
                if fail { Err(StoreError::Unreadable("nothing")) } else { Ok(()) }
            };
            store.write(job).await
        }
    };
    // All of them wait while the first holds the writer up, so that they share a transaction.
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let first = store.write(move |_| {
        held.recv().ok();
        Ok(())
    });
    let rest = async {
        let rest = futures_util::future::join4(
            set("a", false),
            set("b", true),
            set("c", false),
            set("d", true),
        );
        let release = async {
            tokio::task::yield_now().await;
            hold.send(()).unwrap();
        };
        futures_util::future::join(rest, release).await.0
    };
    let (first, rest) = futures_util::future::join(first, rest).await;
    assert!(
        first.is_ok() && rest.0.is_ok() && rest.1.is_err() && rest.2.is_ok() && rest.3.is_err()
    );
    let keys = store.read(|c| {
        let mut statement = c.prepare("SELECT key FROM meta ORDER BY key")?;
        let keys = statement.query_map([], |row| row.get::<_, String>(0))?;
        Ok(keys.collect::<Result<Vec<_>, _>>()?)
    });
    assert_eq!(keys.await.unwrap(), ["a", "c"]);
}

#[tokio::test]
async fn commits_are_synced_and_the_writer_ends_with_them() {
    let (directory, store) = open();
    let mode: String = store
        .write(|c| Ok(c.pragma_query_value(None, "journal_mode", |row| row.get(0))?))
        .await
        .unwrap();
    assert_eq!(mode, "wal");
    let full: i64 = store
        .write(|c| Ok(c.pragma_query_value(None, "synchronous", |r| r.get(0))?))
        .await
        .unwrap();
    assert_eq!(full, 2);
    store.write(|c| meta(c, "a", "x").map(|_| ())).await.unwrap();
    store.close();
    assert!(!store.is_open());
    let late = store.write(|_| Ok(())).await;
    assert!(matches!(late, Err(StoreError::Closed)));
    let again = Store::open(&directory.path().join("control.db")).unwrap();
    assert_eq!(again.write(|c| meta(c, "a", "y")).await.unwrap(), "x");
}

#[test]
fn a_newer_schema_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.db");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::Newer(99))));
}

#[tokio::test]
async fn a_full_disk_fails_the_commit_and_not_the_store() {
    let (_directory, store) = open();
    let pages: i64 = store
        .write(|c| Ok(c.pragma_query_value(None, "page_count", |row| row.get(0))?))
        .await
        .unwrap();
    // SQLite's own limit on the file gives the very error of a full disk.
    store.write(move |c| Ok(c.pragma_update(None, "max_page_count", pages)?)).await.unwrap();
    let full = store.write(|c| {
        c.execute("INSERT INTO meta (key, value) VALUES ('big', ?1)", ["x".repeat(1 << 20)])?;
        Ok(())
    });
    assert!(full.await.is_err());
    store.write(|c| Ok(c.pragma_update(None, "max_page_count", 1_000_000)?)).await.unwrap();
    assert_eq!(store.write(|c| meta(c, "a", "x")).await.unwrap(), "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_records_go_in_well_within_a_second() {
    // Measured on two shared cores, dev profile (SQLite itself at opt-level 2), 700 bytes each in
    // batches of 500 that wait together: 0.19 to 0.27 s. The bound is for a busy machine.
    let (_directory, store) = open();
    let record = |sequence: i64| NewRecord {
        facts: Facts {
            sequence,
            time_ns: sequence,
            trace: sequence.to_be_bytes().repeat(2),
            span: sequence.to_be_bytes().to_vec(),
            kind: "request".to_owned(),
            source: Some("spiffe://shop.example/ns/shop/sa/web".to_owned()),
            destination: Some("spiffe://shop.example/ns/shop/sa/orders".to_owned()),
            path: Some(format!("/orders/{sequence}")),
            decision_id: Some(format!("d{sequence}")),
            ..Facts::default()
        },
        bytes: Bytes::from(vec![7; 700]),
    };
    let batches: Vec<Batch> = (0..40)
        .map(|batch| Batch {
            spiffe_id: "spiffe://shop.example/ns/shop/sa/orders".to_owned(),
            boot: "b1".to_owned(),
            resource: Bytes::from_static(b"resource"),
            records: (batch * 500 + 1..=batch * 500 + 500).map(record).collect(),
        })
        .collect();
    let start = Instant::now();
    let writes = batches
        .into_iter()
        .map(|batch| store.write(move |connection| records::insert(connection, &batch)));
    let mut stored = Stored::default();
    for result in futures_util::future::join_all(writes).await {
        stored.new += result.unwrap().unwrap().new;
    }
    let took = start.elapsed();
    println!("20,000 records: {took:?}");
    assert_eq!(stored.new, 20_000);
    assert_eq!(store.read(records::totals).await.unwrap(), (20_000, 0));
    assert!(took.as_secs() < 10, "{took:?}");
}
