//! The guard rails: what may be done to whom, by a rule alone and by an operator.
//!
//! Pure. Whoever asks has looked up what is needed in the transaction that would act.

use std::time::Duration;

use picket_certs::spiffe::SYSTEM_NAMESPACE;
use picket_certs::{Identity, TrustDomain};
use picket_detect::VERIFIED;

use crate::revocations::MAX;
use crate::search::Glob;

/// Identities that something may be done to by rules alone in an hour.
pub(crate) const AN_HOUR: u64 = 1;
/// Live replicas of an identity that something may be done to by a rule alone: a tenth of them, but one at least. An
/// identity is common to all of its replicas, so it is the whole of them or none.
const TENTH: usize = 10;
/// How long nothing more is done to the same by rules alone.
pub(crate) const COOL_DOWN: Duration = Duration::from_secs(600);

/// How long ago something may have happened that a rule alone acts on.
pub(crate) const FRESH: Duration = Duration::from_secs(600);

/// Why something is not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rail {
    /// The alert does not say to whom, or not by a field that a certificate vouches for.
    #[error("no certificate vouches for whom the alert names")]
    Unverified,
    /// It is none of ours.
    #[error("{0} is no workload of this mesh")]
    Foreign(String),
    /// It is protected.
    #[error("{0} is protected")]
    Protected(String),
    /// The kill switch.
    #[error(
        "responses are halted (`picket respond resume` lets them go on), or respond.enabled is false"
    )]
    Halted,
    /// Something was done a short time ago.
    #[error("something was done to it less than {} minutes ago", COOL_DOWN.as_secs() / 60)]
    CoolDown,
    /// It would take down too much of a service.
    #[error("it has {0} replicas, and a rule alone may reach a tenth of them: an operator decides")]
    Replicas(usize),
    /// It is over.
    #[error("it happened more than {} minutes ago: an operator decides", FRESH.as_secs() / 60)]
    Old,
    /// Nobody can be sure that it can be undone.
    #[error("it may not be possible to undo it: an operator decides")]
    HardToUndo,
    /// There is no such webhook, or it has no secret.
    #[error(
        "there is no webhook {0:?} with a secret: `respond.webhooks` of the control plane, or a sink of that kind"
    )]
    NoWebhook(String),
    /// There is nothing left to tell.
    #[error("the alert {0} is forgotten")]
    Forgotten(String),
    /// It is revoked, or there is nothing to revoke.
    #[error(
        "there is no certificate of it that is good and not revoked (`picket certificate revocations`)"
    )]
    NothingToRevoke,
    /// Somebody has revoked it, and it is theirs to lift.
    #[error("somebody has revoked it already (`picket token revocations`)")]
    Revoked,
    /// The list is full.
    #[error(
        "too many revocations stand: {0} would be more than {MAX} (`picket certificate revocations`)"
    )]
    Full(usize),
    /// It cannot be said by a policy where it should hold.
    #[error(
        "no replica of {0} lives, or they have no label in common by which a policy selects them"
    )]
    NoPlace(String),
    /// Rules have done enough.
    #[error("rules alone may act on {AN_HOUR} identity an hour: an operator decides")]
    TooMany,
}

impl Rail {
    /// A short stable name.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Unverified => "unverified",
            Self::Foreign(_) => "foreign",
            Self::Protected(_) => "protected",
            Self::Halted => "halted",
            Self::CoolDown => "cool_down",
            Self::Replicas(_) => "blast_radius",
            Self::Old => "old",
            Self::TooMany => "too_many",
            Self::HardToUndo => "hard_to_undo",
            Self::NoWebhook(_) => "no_webhook",
            Self::Forgotten(_) => "forgotten",
            Self::NothingToRevoke => "nothing_to_revoke",
            Self::Revoked => "revoked",
            Self::Full(_) => "too_many_revocations",
            Self::NoPlace(_) => "no_place",
        }
    }
}

/// Who it would be done to, if it can be said at all.
pub(crate) fn target<'a>(
    field: &str,
    value: Option<&'a str>,
    mesh: &TrustDomain,
    protected: &[String],
) -> Result<&'a str, Rail> {
    if !VERIFIED.contains(&field) {
        return Err(Rail::Unverified);
    }
    let value = value.ok_or(Rail::Unverified)?;
    let foreign = || Rail::Foreign(value.chars().take(200).collect());
    match value.parse::<Identity>().map_err(|_| foreign())? {
        Identity::Workload(id) if id.trust_domain() == mesh => {
            let short = format!("{}/{}", id.namespace(), id.service_account());
            let is_meant = |glob: &String| {
                let glob = Glob::new(glob);
                glob.matches(&short) || glob.matches(value)
            };
            // The control plane and its authority are nobody's to take down.
            if id.namespace() == SYSTEM_NAMESPACE || protected.iter().any(is_meant) {
                return Err(Rail::Protected(short));
            }
            Ok(value)
        }
        _ => Err(foreign()),
    }
}

/// The subject of tokens that it would be done to, if it can be said at all. `protected` is compared with
/// `issuer/subject`.
pub(crate) fn subject<'a>(
    subject: Option<&'a str>,
    issuer: Option<&str>,
    protected: &[String],
) -> Result<&'a str, Rail> {
    // As revocations by hand.
    const LONGEST: usize = 1_024;
    let is_good = |text: &&str| {
        // `*` is what an alert says of all groups beyond the number that is kept.
        let is_one = !text.is_empty() && *text != "*";
        is_one && text.len() <= LONGEST && !text.chars().any(char::is_control)
    };
    let subject = subject.filter(|text| is_good(text)).ok_or(Rail::Unverified)?;
    let issuer = issuer.filter(is_good).ok_or(Rail::Unverified)?;
    let name = format!("{issuer}/{subject}");
    match protected.iter().any(|glob| Glob::new(glob).matches(&name)) {
        true => Err(Rail::Protected(name)),
        false => Ok(subject),
    }
}

/// What a rule alone would do, at this moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Circumstances {
    pub(crate) is_halted: bool,
    /// Whether lifting it may not bring back what was before.
    pub(crate) is_hard_to_undo: bool,
    /// Live replicas of the target.
    pub(crate) replicas: usize,
    /// Since something was last done to it, or was over.
    pub(crate) since_last: Option<Duration>,
    /// Since the last record of the alert.
    pub(crate) age: Duration,
    /// Identities that rules alone have acted on in the last hour.
    pub(crate) acted_on: u64,
}

/// Whether a rule alone may act.
pub(crate) fn automatic(now: Circumstances) -> Result<(), Rail> {
    if now.is_halted {
        return Err(Rail::Halted);
    }
    if now.is_hard_to_undo {
        return Err(Rail::HardToUndo);
    }
    if now.since_last.is_some_and(|since| since < COOL_DOWN) {
        return Err(Rail::CoolDown);
    }
    if now.age > FRESH {
        return Err(Rail::Old);
    }
    if now.acted_on >= AN_HOUR {
        return Err(Rail::TooMany);
    }
    if now.replicas > (now.replicas / TENTH).max(1) {
        return Err(Rail::Replicas(now.replicas));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROGUE: &str = "spiffe://shop.example/ns/shop/sa/rogue";

    fn mesh() -> TrustDomain {
        "shop.example".parse().unwrap()
    }

    #[test]
    fn only_what_a_certificate_vouches_for_names_a_target() {
        assert_eq!(target("picket.source", Some(ROGUE), &mesh(), &[]), Ok(ROGUE));
        for field in [
            "picket.emitter",
            "network.peer.address",
            "user_agent.original",
            "client.address",
            "url.path",
        ] {
            assert_eq!(target(field, Some(ROGUE), &mesh(), &[]), Err(Rail::Unverified), "{field}");
        }
        assert_eq!(target("picket.source", None, &mesh(), &[]), Err(Rail::Unverified));
        for foreign in
            ["", "10.0.0.1", "spiffe://evil.example/ns/shop/sa/web", "spiffe://shop.example/x"]
        {
            let refused = target("picket.source", Some(foreign), &mesh(), &[]);
            assert!(matches!(refused, Err(Rail::Foreign(_))), "{foreign} {refused:?}");
        }
    }

    #[test]
    fn what_is_protected_is_never_touched() {
        let own = format!("spiffe://shop.example/ns/{SYSTEM_NAMESPACE}/sa/control");
        let refused = target("picket.source", Some(&own), &mesh(), &[]);
        assert!(matches!(refused, Err(Rail::Protected(_))), "{refused:?}");
        for glob in ["shop/rogue", "shop/*", "*", "*/rogue", "spiffe://shop.example/ns/shop/*"] {
            let refused = target("picket.source", Some(ROGUE), &mesh(), &[glob.to_owned()]);
            assert!(matches!(refused, Err(Rail::Protected(_))), "{glob} {refused:?}");
        }
        for glob in ["shop/rog", "shop", "*/web", "other/*", ""] {
            assert!(
                target("picket.source", Some(ROGUE), &mesh(), &[glob.to_owned()]).is_ok(),
                "{glob}"
            );
        }
    }

    #[test]
    fn a_rule_alone_reaches_one_replica_of_one_service_an_hour() {
        let one = Circumstances { replicas: 1, ..Circumstances::default() };
        assert_eq!(automatic(one), Ok(()));
        assert_eq!(automatic(Circumstances { replicas: 0, ..one }), Ok(()));
        for replicas in [2, 9, 10, 11, 1000] {
            let refused = automatic(Circumstances { replicas, ..one });
            assert_eq!(refused, Err(Rail::Replicas(replicas)));
        }
        assert_eq!(automatic(Circumstances { acted_on: 1, ..one }), Err(Rail::TooMany));
        let soon = Some(COOL_DOWN - Duration::from_secs(1));
        assert_eq!(automatic(Circumstances { since_last: soon, ..one }), Err(Rail::CoolDown));
        assert_eq!(automatic(Circumstances { since_last: Some(COOL_DOWN), ..one }), Ok(()));
        let old = FRESH + Duration::from_secs(1);
        assert_eq!(automatic(Circumstances { age: old, ..one }), Err(Rail::Old));
        assert_eq!(automatic(Circumstances { is_halted: true, ..one }), Err(Rail::Halted));
        let hard = Circumstances { is_hard_to_undo: true, ..one };
        assert_eq!(automatic(hard), Err(Rail::HardToUndo));
    }

    #[test]
    fn only_an_issuer_and_a_subject_name_tokens_and_those_that_are_protected_stay_good() {
        let issuer = Some("https://id.example");
        assert_eq!(subject(Some("ana"), issuer, &[]), Ok("ana"));
        assert_eq!(subject(None, issuer, &[]), Err(Rail::Unverified));
        // The same name of another issuer is somebody else.
        assert_eq!(subject(Some("ana"), None, &[]), Err(Rail::Unverified));
        for bad in ["", "*", "a\nb", &"x".repeat(2_000)] {
            assert_eq!(subject(Some(bad), issuer, &[]), Err(Rail::Unverified), "{bad}");
            assert_eq!(subject(Some("ana"), Some(bad), &[]), Err(Rail::Unverified), "{bad}");
        }
        for glob in ["https://id.example/ana", "https://id.example/*", "*/ana", "*"] {
            let refused = subject(Some("ana"), issuer, &[glob.to_owned()]);
            assert!(matches!(refused, Err(Rail::Protected(_))), "{glob} {refused:?}");
        }
        for glob in ["https://other.example/*", "*/anabel", "shop/*", "ana"] {
            assert!(subject(Some("ana"), issuer, &[glob.to_owned()]).is_ok(), "{glob}");
        }
        // A token never stands for a workload, nor the other way round.
        assert_eq!(target("picket.jwt.subject", Some(ROGUE), &mesh(), &[]), Err(Rail::Unverified));
    }
}
