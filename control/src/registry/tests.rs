use picket_api::v1::Hello;

use super::*;
use crate::operator::ProxyState;
use crate::revocations::List;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn id(account: &str) -> SpiffeId {
    format!("spiffe://shop.example/ns/shop/sa/{account}").parse().unwrap()
}

fn leaf() -> Leaf {
    Leaf {
        identity: picket_certs::Identity::Workload(id("orders")),
        serial: "01".to_owned(),
        not_before: at(0),
        not_after: at(3_600),
        fingerprint: [0; 32],
        subject: String::new(),
    }
}

fn announcement(service: &str, boot: &str, addresses: &[&str]) -> Announcement {
    let inbound = addresses.iter().zip(80..).map(|(address, service_port)| v1::Endpoint {
        address: (*address).to_owned(),
        service_port,
        protocol: v1::Protocol::Http.into(),
    });
    let hello = Hello {
        boot_id: boot.to_owned(),
        version: "0.1.0".to_owned(),
        service: service.to_owned(),
        inbound: inbound.collect(),
        generation: "g1".to_owned(),
        ..Hello::default()
    };
    Announcement::check(hello).unwrap()
}

async fn registry() -> (tempfile::TempDir, Registry) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("control.db")).unwrap();
    let registry = Registry::open(store, Duration::from_secs(60), at(0)).await.unwrap();
    (directory, registry)
}

fn addresses(registry: &Registry) -> Vec<String> {
    let peers = registry.subscribe().borrow().clone();
    peers.peers.iter().flat_map(|p| &p.endpoints).map(|e| e.address.clone()).collect()
}

#[tokio::test]
async fn a_proxy_that_comes_back_takes_the_place_of_what_it_was() {
    let (_directory, registry) = registry().await;
    let id = id("orders");
    let first = announcement("orders", "b1", &["10.0.0.1:1", "10.0.0.1:2"]);
    registry.announce(&id, &leaf(), first, at(0)).unwrap();
    // The same boot with another port, then another boot at one of the addresses.
    registry.announce(&id, &leaf(), announcement("orders", "b1", &["10.0.0.1:3"]), at(1)).unwrap();
    assert_eq!(addresses(&registry), ["10.0.0.1:3"]);
    let second = announcement("orders", "b2", &["10.0.0.1:3", "10.0.0.1:4"]);
    registry.announce(&id, &leaf(), second, at(2)).unwrap();
    assert_eq!(addresses(&registry), ["10.0.0.1:3", "10.0.0.1:4"]);
    registry.announce(&id, &leaf(), announcement("orders", "b3", &["10.0.0.9:1"]), at(3)).unwrap();
    assert_eq!(addresses(&registry), ["10.0.0.1:3", "10.0.0.1:4", "10.0.0.9:1"]);
    assert_eq!(registry.status((None, &List::default()), at(3)).len(), 2);
}

#[tokio::test]
async fn an_older_stream_of_the_same_instance_no_longer_counts() {
    let (_directory, registry) = registry().await;
    let id = id("orders");
    let hello = || announcement("orders", "b1", &["10.0.0.1:1"]);
    let old = registry.announce(&id, &leaf(), hello(), at(0)).unwrap();
    let new = registry.announce(&id, &leaf(), hello(), at(1)).unwrap();
    registry.disconnect(&old);
    assert!(registry.status((None, &List::default()), at(1))[0].connected);
    registry.disconnect(&new);
    assert!(!registry.status((None, &List::default()), at(1))[0].connected);
}

#[tokio::test]
async fn states_follow_the_time_since_the_last_contact() {
    let (_directory, registry) = registry().await;
    let hello = announcement("orders", "b1", &["10.0.0.1:1"]);
    let session = registry.announce(&id("orders"), &leaf(), hello, at(0)).unwrap();
    let none = List::default();
    let state =
        |generation, seconds| registry.status((Some(generation), &none), at(seconds))[0].state;
    assert_eq!(state("g1", 15), ProxyState::Synced);
    assert_eq!(state("g2", 15), ProxyState::Stale);
    assert_eq!(state("g1", 16), ProxyState::Silent);
    let newer = List { revision: 1, ..List::default() };
    assert_eq!(registry.status((Some("g1"), &newer), at(15))[0].state, ProxyState::Stale);
    assert_eq!(state("g1", 60), ProxyState::Gone);
    registry.sweep(at(60));
    assert!(addresses(&registry).is_empty());
    registry.heartbeat(&session, Heartbeat::default(), at(61));
    registry.sweep(at(61));
    assert_eq!((state("g1", 61), addresses(&registry).len()), (ProxyState::Synced, 1));
    registry.disconnect(&session);
    registry.sweep(at(61 + 60 + 3_600));
    assert!(
        registry.status((None, &List::default()), at(4_000)).is_empty(),
        "long gone is forgotten"
    );
}

#[tokio::test]
async fn a_name_is_free_again_when_its_lease_has_ended() {
    let (_directory, registry) = registry().await;
    let hello = |boot| announcement("orders", boot, &["10.0.0.1:1"]);
    registry.announce(&id("orders"), &leaf(), hello("b1"), at(0)).unwrap();
    let refused = registry.announce(&id("rogue"), &leaf(), hello("b2"), at(59)).unwrap_err();
    assert_eq!(refused.code(), "service_name_taken");
    registry.announce(&id("rogue"), &leaf(), hello("b2"), at(60)).unwrap();
}

#[tokio::test]
async fn leases_of_the_last_process_count_from_the_start_of_this_one() {
    let (directory, registry) = registry().await;
    let hello = announcement("orders", "b1", &["10.0.0.1:1"]);
    registry.announce(&id("orders"), &leaf(), hello, at(0)).unwrap();
    registry.keep().await.unwrap();
    registry.store.close();
    let store = Store::open(&directory.path().join("control.db")).unwrap();
    let again = Registry::open(store, Duration::from_secs(60), at(10_000)).await.unwrap();
    assert_eq!(addresses(&again), ["10.0.0.1:1"]);
    again.sweep(at(10_059));
    assert_eq!(addresses(&again).len(), 1);
    again.sweep(at(10_060));
    assert!(addresses(&again).is_empty());
}

#[tokio::test]
async fn nobody_fills_the_registry() {
    let (_directory, registry) = registry().await;
    let id = id("orders");
    for number in 0..MAX_INSTANCES {
        registry
            .announce(&id, &leaf(), announcement("", &format!("b{number}"), &[]), at(0))
            .unwrap();
    }
    let refused =
        registry.announce(&id, &leaf(), announcement("", "more", &[]), at(0)).unwrap_err();
    assert_eq!(refused, Refused::TooMany);
}
