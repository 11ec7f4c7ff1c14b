use std::time::Instant;

use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use picket_api::attributes as names;
use prost::Message as _;

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
            let job = move |c: &Writing<'_>| {
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
async fn records_of_an_earlier_version_are_filed_under_ids_without_holes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(include_str!("schema.sql")).unwrap();
    old.execute_batch(include_str!("schema-2.sql")).unwrap();
    old.pragma_update(None, "user_version", 2).unwrap();
    old.execute_batch(
        "INSERT INTO emitters VALUES (1, 'b1', 'spiffe://a/ns/b/sa/c');
         INSERT INTO resources VALUES (1, x'00', x'');",
    )
    .unwrap();
    let text = |key: &str, value: &str| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(Any::StringValue(value.to_owned())) }),
        ..KeyValue::default()
    };
    let number = |key: &str, value| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(Any::IntValue(value)) }),
        ..KeyValue::default()
    };
    for sequence in [3, 4] {
        let span = Span {
            trace_id: vec![1; 16],
            span_id: vec![2; 8],
            start_time_unix_nano: 5_000,
            end_time_unix_nano: 9_000,
            attributes: vec![
                text(names::KIND, "request"),
                text(names::ROUTE, "/orders/{id}"),
                text(names::METHOD, "BREW"),
                number(names::LANE, 0),
                number(names::SEQUENCE, sequence),
            ],
            ..Span::default()
        };
        old.execute(
            "INSERT INTO records (id, emitter, lane, sequence, resource, time_ns, trace, span, kind, bytes)
             VALUES (?1 + 40, 1, 0, ?1, 1, 5000, x'01', x'02', 'request', ?2)",
            rusqlite::params![sequence, span.encode_to_vec()],
        )
        .unwrap();
    }
    drop(old);
    let store = Store::open(&path).unwrap();
    let filed = store.read(|c| {
        let sql = "SELECT facts.id, duration_us, method, words.text FROM facts
                   JOIN records ON records.id = facts.id JOIN words ON words.id = route ORDER BY 1";
        let mut statement = c.prepare(sql)?;
        let rows = statement.query_map([], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?, row.get(3)?))
        })?;
        Ok(rows.collect::<Result<Vec<(_, _, _, String)>, _>>()?)
    });
    let route = "/orders/{id}".to_owned();
    assert_eq!(filed.await.unwrap(), [(1, 4, 0, route.clone()), (2, 4, 0, route)]);
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
            slow_us: None,
        })
        .collect();
    let start = Instant::now();
    let writes = batches
        .into_iter()
        .map(|batch| store.write(move |connection| records::insert(connection, &batch, 0)));
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
