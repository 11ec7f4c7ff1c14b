use bytes::Bytes;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use picket_api::attributes as names;
use picket_ledger::tree;
use prost::Message as _;

use super::super::records::{self, Batch, NewRecord};
use super::super::{Store, Writing};
use super::*;
use crate::record::Facts;

const EMITTER: &str = "spiffe://shop.example/ns/shop/sa/orders";

fn open(directory: &tempfile::TempDir) -> Store {
    Store::open(&directory.path().join("control.db")).unwrap()
}

fn batch(sequences: std::ops::Range<i64>) -> Batch {
    let record = |sequence: i64| NewRecord {
        facts: Facts {
            sequence,
            position: sequence,
            trace: vec![1; 16],
            span: vec![2; 8],
            kind: "request".to_owned(),
            ..Facts::default()
        },
        bytes: Bytes::from(format!("span {sequence}")),
    };
    Batch {
        spiffe_id: EMITTER.to_owned(),
        boot: "b1".to_owned(),
        resource: Bytes::from_static(b"resource"),
        records: sequences.map(record).collect(),
        slow_us: None,
    }
}

fn insert(writing: &Writing<'_>, sequences: std::ops::Range<i64>) -> Result<u64, StoreError> {
    Ok(records::insert(writing, &batch(sequences), 7)?.unwrap().new)
}

/// The root as anybody can compute it from the records that are here.
async fn recomputed(store: &Store) -> (u64, Hash) {
    let found = store.read(|c| records(c, 0, u64::MAX)).await.unwrap();
    let mut tree = Tree::default();
    for (index, logged) in found.iter().enumerate() {
        assert_eq!(logged.index, index as u64);
        assert_eq!(logged.salt.as_ref().unwrap().len(), SALT);
        tree.push(logged.entry.leaf(), &mut Vec::new());
    }
    (tree.size(), tree.root())
}

async fn kept(store: &Store) -> (u64, Hash) {
    store.write(|w| Ok((w.log_size(), w.log_root()))).await.unwrap()
}

#[tokio::test]
async fn what_is_stored_is_in_the_log_and_nothing_else_is() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    assert_eq!(kept(&store).await, (0, tree::empty()));
    assert_eq!(store.write(|w| insert(w, 1..301)).await.unwrap(), 300);
    // Half of them are here already; what a job that fails had added is not in the log either.
    assert_eq!(store.write(|w| insert(w, 201..401)).await.unwrap(), 100);
    let failed: Result<(), StoreError> = store
        .write(|w| {
            insert(w, 401..901)?;
            Err(StoreError::Closed)
        })
        .await;
    assert!(failed.is_err());
    assert_eq!(store.write(|w| insert(w, 401..701)).await.unwrap(), 300);
    assert_eq!(store.log_size(), 700);
    let whole = kept(&store).await;
    assert_eq!(whole, recomputed(&store).await);
    store.close();
    let again = open(&directory);
    assert_eq!(kept(&again).await, whole);
    assert_eq!(again.write(|w| insert(w, 701..1_100)).await.unwrap(), 399);
    assert_eq!(kept(&again).await, recomputed(&again).await);
    // What was signed can be shown to be the beginning of what is there now.
    let (size, root_now) = kept(&again).await;
    let path = again.read(move |c| consistency(c, 700, size)).await.unwrap();
    assert!(proof::verify_consistency(700, size, &whole.1, &root_now, &path));
    assert_eq!(again.read(|c| root(c, 700)).await.unwrap(), whole.1);
    let found = again.read(|c| records(c, 512, 513)).await.unwrap();
    let path = again.read(move |c| inclusion(c, 512, size)).await.unwrap();
    assert!(proof::verify_inclusion(512, size, &found[0].entry.leaf(), &path, &root_now));
}

#[tokio::test]
async fn a_full_disk_takes_nothing_out_of_step() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store.write(|w| insert(w, 1..101)).await.unwrap();
    let before = kept(&store).await;
    let pages: i64 =
        store.write(|w| Ok(w.pragma_query_value(None, "page_count", |r| r.get(0))?)).await.unwrap();
    store.write(move |w| Ok(w.pragma_update(None, "max_page_count", pages)?)).await.unwrap();
    assert!(store.write(|w| insert(w, 101..20_000)).await.is_err());
    store.write(|w| Ok(w.pragma_update(None, "max_page_count", 1_000_000)?)).await.unwrap();
    assert_eq!(kept(&store).await, before);
    assert_eq!(store.write(|w| insert(w, 101..1_000)).await.unwrap(), 899);
    assert_eq!(kept(&store).await, recomputed(&store).await);
}

#[tokio::test]
async fn records_of_an_older_schema_enter_the_log_in_their_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(include_str!("../schema.sql")).unwrap();
    old.execute_batch(include_str!("../schema-2.sql")).unwrap();
    old.pragma_update(None, "user_version", 2).unwrap();
    old.execute_batch(
        "INSERT INTO emitters (id, boot, spiffe_id) VALUES (1, 'b1', 'spiffe://shop.example/ns/shop/sa/orders');
         INSERT INTO resources (id, hash, bytes) VALUES (1, x'00', x'01');
         INSERT INTO export_cursors (name, position, sent, skipped) VALUES ('traces', 900, 0, 0);",
    )
    .unwrap();
    let number = |key: &str, value| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(Any::IntValue(value)) }),
        ..KeyValue::default()
    };
    let transaction = old.unchecked_transaction().unwrap();
    for sequence in 1..=600 {
        let span = Span {
            trace_id: vec![1; 16],
            span_id: vec![2; 8],
            attributes: vec![number(names::LANE, 0), number(names::SEQUENCE, sequence)],
            ..Span::default()
        };
        old.execute(
            "INSERT INTO records (id, emitter, lane, sequence, resource, time_ns, trace, span, kind, bytes)
             VALUES (?1 * 3, 1, 0, ?1, 1, ?1, x'00', x'00', 'request', ?2)",
            params![sequence, span.encode_to_vec()],
        )
        .unwrap();
    }
    transaction.commit().unwrap();
    drop(old);
    let store = open(&directory);
    assert_eq!(store.log_size(), 600);
    assert_eq!(kept(&store).await, recomputed(&store).await);
    let sequences = store.read(|c| records(c, 0, 600)).await.unwrap();
    assert!(sequences.iter().enumerate().all(|(i, r)| r.entry.sequence == i as i64 + 1));
    let cursor: i64 = store
        .read(|c| Ok(c.query_row("SELECT position FROM export_cursors", [], |row| row.get(0))?))
        .await
        .unwrap();
    assert_eq!(cursor, 300);
}

#[tokio::test]
async fn rows_that_did_not_come_through_the_log_are_moved_aside() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    store.write(|w| insert(w, 1..4)).await.unwrap();
    store
        .write(|w| {
            w.execute_batch(
                "INSERT INTO records (emitter, lane, sequence, resource, bytes)
                 SELECT emitter, lane, 99, resource, bytes FROM records WHERE id = 2",
            )?;
            Ok(())
        })
        .await
        .unwrap();
    let aside = store.write(|w| set_aside(w, w.log_size(), 5)).await.unwrap();
    assert_eq!(aside, [4]);
    assert_eq!(store.write(|w| insert(w, 4..6)).await.unwrap(), 2);
    assert_eq!(kept(&store).await, recomputed(&store).await);
}

#[tokio::test]
async fn what_is_missing_in_a_chain_is_known_until_it_comes() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let holes = || {
        store.read(|c| {
            let mut statement = c.prepare("SELECT first, last FROM holes ORDER BY first")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<Result<Vec<(i64, i64)>, _>>()?)
        })
    };
    store.write(|w| insert(w, 1..3)).await.unwrap();
    store.write(|w| insert(w, 10..12)).await.unwrap();
    assert_eq!(holes().await.unwrap(), [(3, 9)]);
    store.write(|w| insert(w, 5..7)).await.unwrap();
    assert_eq!(holes().await.unwrap(), [(3, 4), (7, 9)]);
    store.write(|w| insert(w, 3..5)).await.unwrap();
    store.write(|w| insert(w, 9..10)).await.unwrap();
    assert_eq!(holes().await.unwrap(), [(7, 8)]);
    store.write(|w| insert(w, 7..9)).await.unwrap();
    assert!(holes().await.unwrap().is_empty());
}
