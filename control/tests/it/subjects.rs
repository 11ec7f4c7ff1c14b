//! The keys of subjects' hashes: one for the whole mesh, replaced in time, and none of them lost.

use std::os::unix::fs::PermissionsExt as _;

use http::Method;
use picket_api::v1;
use picket_certs::Role;
use picket_certs::subject::SubjectKey;
use picket_control::operator::SubjectHashes;
use serde_json::json;

use crate::mesh::{Mesh, Proxy, hello};
use crate::operators::{operator, over_tcp};

const ROTATE: &str = "privacy: { subjectKey: { rotate: 2s } }";

/// The next update that says how subjects are recorded.
async fn subjects(proxy: &mut Proxy) -> v1::Subjects {
    loop {
        if let Some(subjects) = proxy.next().await.unwrap().subjects {
            return subjects;
        }
    }
}

async fn hashes(mesh: &Mesh, subject: &str) -> SubjectHashes {
    mesh.post("/api/v1/subject-hashes", json!({ "subject": subject })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_proxy_has_the_same_key_until_all_get_the_next_and_old_ones_still_tell() {
    let mesh = Mesh::start_with(ROTATE).await;
    let (orders, web) = (mesh.svid("shop/orders").await, mesh.svid("shop/web").await);
    let mut orders = mesh.proxy(&orders, hello("orders", 15006)).await;
    let mut web = mesh.proxy(&web, hello("web", 15007)).await;
    let (mut mine, other) = (subjects(&mut orders).await, subjects(&mut web).await);
    assert_eq!(mine.mode, "hash");
    if mine.key != other.key {
        // There was a change before the second one came: the first one is told of it.
        mine = subjects(&mut orders).await;
    }
    assert_eq!(mine.key, other.key);
    let second = subjects(&mut orders).await;
    assert_eq!(second.key, subjects(&mut web).await.key);
    assert_ne!(second.key, mine.key);

    // Old keys are kept, across a restart too; whoever asks is on the record, and not for whom.
    let [first, second] = [mine, second].map(|subjects| SubjectKey::new(&subjects.key).unwrap());
    let directory = mesh.stop().await;
    let file = directory.path().join("state/subject-keys");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let mesh = Mesh::start_in(directory, "").await;
    let found = hashes(&mesh, "ana").await.hashes;
    for key in [&first, &second] {
        let of_key = found.iter().find(|hash| hash.key == key.id()).unwrap();
        assert_eq!(of_key.hash, key.hash("ana"));
    }
    let current: Vec<_> = found.iter().filter(|hash| hash.until.is_none()).collect();
    assert_eq!((current.len(), &found[0]), (1, current[0]), "the latest is the first");
    let asked = mesh.events("audit.subject_hash").await;
    assert_eq!(asked[0]["picket.jwt.subject_hash"], found[0].hash);
    assert!(!format!("{asked:?}").contains("\"ana\""));
    assert!(!mesh.events("subject_key.rotate").await.is_empty());

    // A file that others can read, or that is broken, is not used.
    let directory = mesh.stop().await;
    for (mode, text) in [(0o640, None), (0o600, Some("nonsense\n"))] {
        if let Some(text) = text {
            std::fs::write(&file, text).unwrap();
        }
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        assert!(Mesh::try_start(directory.clone(), "").await.is_err(), "{mode:o} {text:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_can_be_recorded_in_clear_or_not_and_only_admins_learn_hashes() {
    let mesh = Mesh::start_with("privacy: { subjects: none }").await;
    let svid = mesh.svid("shop/orders").await;
    let mut proxy = mesh.proxy(&svid, hello("orders", 15006)).await;
    let told = subjects(&mut proxy).await;
    assert_eq!((told.mode.as_str(), told.key.len()), ("none", 0), "no key goes where none is used");
    let body = json!({ "subject": "ana" });
    let path = "/api/v1/subject-hashes";
    for (role, status) in [(Role::Viewer, 403), (Role::Operator, 403), (Role::Admin, 200)] {
        let svid = operator(&mesh, role.as_str(), role).await;
        let answer = over_tcp(&mesh, Some(&svid), Method::POST, path, Some(body.clone())).await;
        assert_eq!(answer.unwrap().status, status, "{role}");
    }
    for wrong in [json!({}), json!({ "subject": "" }), json!({ "subject": "x".repeat(2049) })] {
        let answer = mesh.request(Method::POST, path, Some(wrong)).await;
        assert!(answer.status.is_client_error());
    }
}
