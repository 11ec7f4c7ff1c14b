use std::collections::BTreeMap;

use super::*;
use crate::operator::{
    AlertSink, AuditAccount, Certificate, ControlStatus, Diagnostic, ExportStatus, PolicyStatus,
    RevocationStatus,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn proxy() -> ProxyStatus {
    ProxyStatus {
        workload: "shop/orders".to_owned(),
        spiffe_id: "spiffe://shop.example/ns/shop/sa/orders".to_owned(),
        service: "orders".to_owned(),
        labels: BTreeMap::new(),
        endpoints: Vec::new(),
        boot: "b1".to_owned(),
        version: "0.1.0".to_owned(),
        state: ProxyState::Synced,
        connected: true,
        generation: "g1".to_owned(),
        revocations: 0,
        refusal: None,
        applied_in_us: Some(100),
        certificate: Some(Certificate {
            serial: "01".to_owned(),
            not_after: clock::rfc3339(now() + Duration::from_secs(1800)),
        }),
        renewal_error: None,
        last_contact: clock::rfc3339(now()),
        clock_offset_ms: Some(3),
        audit: Some(AuditAccount {
            emitted: 10,
            acknowledged: 8,
            pending: 2,
            lost: 0,
            stored: 8,
            spool_bytes: 16 << 20,
            spool_limit: 512 << 20,
        }),
    }
}

fn status() -> Status {
    Status {
        control: ControlStatus {
            version: "0.1.0".to_owned(),
            started_at: clock::rfc3339(now()),
            spiffe_id: "spiffe://shop.example/ns/picket-system/sa/control".to_owned(),
            trust_domain: "shop.example".to_owned(),
            ca_not_after: String::new(),
            policy: PolicyStatus {
                directory: "/policies".into(),
                generation: Some("g1".to_owned()),
                loaded_at: None,
                origin: PolicyOrigin::Directory,
                refused: false,
                files: vec!["orders.yaml".to_owned()],
                diagnostics: Vec::new(),
            },
            revocations: RevocationStatus::default(),
            proxies: BTreeMap::new(),
            audit_records: 8,
            audit_missing: 0,
            export: Some(ExportStatus {
                endpoint: "http://127.0.0.1:4317/".to_owned(),
                sent: 8,
                skipped: 0,
                dropped: 0,
                behind: 0,
                error: None,
                failing_since: None,
            }),
        },
        proxies: vec![proxy()],
    }
}

fn facts() -> Facts {
    Facts {
        ca_not_after: now() + 365 * DAY,
        certificate_life: Duration::from_secs(3600),
        is_store_open: true,
        unaccounted: Vec::new(),
        tampered: Vec::new(),
        sinks: vec![sink()],
        rules_refused: false,
        misnamed: Vec::new(),
    }
}

fn sink() -> AlertSink {
    AlertSink {
        name: "pager".to_owned(),
        kind: "webhook".to_owned(),
        pending: 0,
        delivered: 3,
        given_up: 0,
        last_delivered_at: None,
        error: None,
    }
}

fn problem() -> Diagnostic {
    Diagnostic {
        file: "orders.yaml".to_owned(),
        line: 6,
        column: 9,
        severity: "error".to_owned(),
        code: "P0201".to_owned(),
        message: "unknown field".to_owned(),
        help: String::new(),
    }
}

#[test]
fn a_healthy_mesh_is_all_well_with_nothing_to_fix() {
    let report = report(&status(), &facts(), now());
    assert_eq!(report.result, Level::Ok);
    assert!(report.items.iter().all(|item| item.fix.is_empty()), "{report:#?}");
}

#[test]
fn everything_that_can_be_wrong_is_named_in_its_group_with_a_fix() {
    type Spoil = fn(&mut Status, &mut Facts);
    let cases: [(Spoil, &str, Level, &str); 25] = [
        (|_, f| f.rules_refused = true, ALERTS, Level::Failed, "the directory is refused"),
        (
            |_, f| {
                let waits = AlertSink { pending: 2, error: Some("refused".to_owned()), ..sink() };
                f.sinks = vec![waits];
            },
            ALERTS,
            Level::Failed,
            "2 notices wait: refused",
        ),
        (
            |_, f| f.sinks = vec![AlertSink { given_up: 1, ..sink() }],
            ALERTS,
            Level::Warning,
            "given up",
        ),
        (|_, f| f.is_store_open = false, CONTROL_PLANE, Level::Failed, "database"),
        (|s, _| s.control.policy.generation = None, CONTROL_PLANE, Level::Failed, "never good"),
        (
            |s, _| {
                s.control.policy.refused = true;
                s.control.policy.diagnostics.push(problem());
            },
            CONTROL_PLANE,
            Level::Failed,
            "orders.yaml:6:9",
        ),
        (
            |s, _| s.control.policy.origin = PolicyOrigin::Kept,
            CONTROL_PLANE,
            Level::Warning,
            "last start",
        ),
        (
            |s, _| {
                let warning = Diagnostic { severity: "warning".to_owned(), ..problem() };
                s.control.policy.diagnostics.push(warning);
            },
            CONTROL_PLANE,
            Level::Warning,
            "unknown field",
        ),
        (|_, f| f.ca_not_after = now() + 30 * DAY, IDENTITY, Level::Warning, "authority"),
        (|_, f| f.ca_not_after = now() + 3 * DAY, IDENTITY, Level::Failed, "authority"),
        (|_, f| f.certificate_life = 2 * DAY, IDENTITY, Level::Warning, "was not renewed"),
        (
            |s, _| s.proxies[0].renewal_error = Some("refused".to_owned()),
            IDENTITY,
            Level::Warning,
            "renewal fails",
        ),
        (
            |s, f| {
                s.proxies[0].renewal_error = Some("refused".to_owned());
                f.certificate_life = 2 * DAY;
            },
            IDENTITY,
            Level::Failed,
            "renewal fails",
        ),
        (
            |s, _| {
                let ended = clock::rfc3339(now());
                s.proxies[0].certificate.as_mut().unwrap().not_after = ended;
            },
            IDENTITY,
            Level::Failed,
            "has ended",
        ),
        (
            |s, _| {
                s.proxies[0].state = ProxyState::Stale;
                s.control.policy.generation = Some("g2".to_owned());
            },
            DATA_PLANE,
            Level::Failed,
            "generation g1",
        ),
        (
            |s, _| {
                s.proxies[0].state = ProxyState::Stale;
                s.control.revocations.revision = 7;
            },
            DATA_PLANE,
            Level::Failed,
            "not 7",
        ),
        (|s, _| s.proxies[0].state = ProxyState::Revoked, DATA_PLANE, Level::Warning, "revoked"),
        (
            |s, _| {
                s.proxies[0].state = ProxyState::Refused;
                s.proxies[0].refusal = Some("unknown kind".to_owned());
            },
            DATA_PLANE,
            Level::Failed,
            "unknown kind",
        ),
        (|s, _| s.proxies[0].state = ProxyState::Silent, DATA_PLANE, Level::Failed, "not heard of"),
        (|s, _| s.proxies[0].state = ProxyState::Gone, DATA_PLANE, Level::Warning, "gone since"),
        (
            |s, _| s.proxies[0].clock_offset_ms = Some(-40_000),
            DATA_PLANE,
            Level::Warning,
            "-40000 ms",
        ),
        (
            |s, _| s.proxies[0].audit.as_mut().unwrap().lost = 4,
            AUDIT,
            Level::Failed,
            "4 records are declared lost",
        ),
        (
            |s, _| s.proxies[0].audit.as_mut().unwrap().pending = 20_000,
            AUDIT,
            Level::Warning,
            "20000 records wait",
        ),
        (
            |s, _| s.proxies[0].audit.as_mut().unwrap().spool_bytes = 412 << 20,
            AUDIT,
            Level::Warning,
            "its spool is 80 % full",
        ),
        (
            |s, _| {
                let export = s.control.export.as_mut().unwrap();
                export.error = Some("connection refused".to_owned());
            },
            EXPORT,
            Level::Failed,
            "connection refused",
        ),
    ];
    for (spoil, group, level, detail) in cases {
        let (mut status, mut facts) = (status(), facts());
        spoil(&mut status, &mut facts);
        let report = report(&status, &facts, now());
        let item = report.items.iter().find(|item| item.level != Level::Ok).unwrap();
        assert_eq!((item.group.as_str(), item.level, report.result), (group, level, level));
        assert!(item.detail.contains(detail), "{detail} is not in {}", item.detail);
        assert!(!item.fix.is_empty());
    }
}
