//! What is revoked in the mesh: the list that every proxy gets, and what it keeps from happening here.
//!
//! The list is small and read often, so it is held in memory, whole, and published to whoever holds a
//! stream; the database has it first. Which operator may do what is said in [`crate::api`].

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use picket_api::attributes as names;
use picket_api::v1;
use picket_certs::Leaf;
use picket_certs::leaf::hex;
use rusqlite::Connection;
use tokio::sync::watch;

use crate::clock;
use crate::journal::{Act, Event, Journal};
use crate::store::revocations::{self as stored, Row};
use crate::store::{Store, StoreError, Writing};

/// Revocations that stand at once. The list goes whole to every proxy at each change.
pub(crate) const MAX: usize = 10_000;

/// Tokens and certificates are judged by clocks that differ: what is over is kept this much longer.
pub(crate) const SKEW: Duration = Duration::from_secs(60);

/// What a revocation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One token, by its `jti`.
    TokenId,
    /// The tokens of a subject, by its `sub`.
    Subject,
    /// The tokens that a key signed, by its `kid`.
    Key,
    /// The tokens of an issuer.
    Issuer,
    /// The certificates of a SPIFFE ID.
    Identity,
    /// One certificate, by its serial number.
    Serial,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] =
        [Self::TokenId, Self::Subject, Self::Key, Self::Issuer, Self::Identity, Self::Serial];

    /// Its name in the database, the API and the records.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::TokenId => "jti",
            Self::Subject => "sub",
            Self::Key => "kid",
            Self::Issuer => "issuer",
            Self::Identity => "identity",
            Self::Serial => "serial",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Whether it is about tokens, which an issuer can be named for.
    pub(crate) fn is_of_tokens(self) -> bool {
        !matches!(self, Self::Identity | Self::Serial)
    }

    /// Whether the value may be recorded: it says nothing about a person.
    fn is_recorded(self) -> bool {
        !matches!(self, Self::TokenId | Self::Subject)
    }

    fn message(self) -> v1::RevocationKind {
        match self {
            Self::TokenId => v1::RevocationKind::TokenId,
            Self::Subject => v1::RevocationKind::TokenSubject,
            Self::Key => v1::RevocationKind::TokenKey,
            Self::Issuer => v1::RevocationKind::TokenIssuer,
            Self::Identity => v1::RevocationKind::Identity,
            Self::Serial => v1::RevocationKind::Certificate,
        }
    }
}

/// The list as it stands.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct List {
    pub(crate) revision: u64,
    pub(crate) rows: Vec<Row>,
}

impl List {
    /// Whether a certificate is revoked at a time.
    pub(crate) fn refuses(&self, leaf: &Leaf, now: SystemTime) -> bool {
        self.refuses_holder(leaf.identity.as_str(), Some(&leaf.serial), now)
    }

    /// Whether an identity, or its certificate of a serial number, is revoked at a time.
    pub(crate) fn refuses_holder(&self, id: &str, serial: Option<&str>, now: SystemTime) -> bool {
        let over = over(now);
        self.rows.iter().any(|row| {
            let is_meant = match Kind::parse(&row.kind) {
                Some(Kind::Identity) => row.value == id,
                Some(Kind::Serial) => Some(row.value.as_str()) == serial,
                _ => false,
            };
            is_meant && row.until.is_none_or(|until| until >= over)
        })
    }

    /// The list as it travels.
    pub(crate) fn message(&self) -> v1::RevocationList {
        let entries = self.rows.iter().filter_map(|row| {
            // Up, not down: an entry must not end too soon.
            let seconds = |milliseconds: i64| milliseconds.saturating_add(999) / 1_000;
            Some(v1::Revocation {
                id: row.id.clone(),
                kind: Kind::parse(&row.kind)?.message().into(),
                value: row.value.clone(),
                issuer: row.issuer.clone(),
                issued_until: row.issued_until.unwrap_or(0),
                until: row.until.map_or(0, seconds),
            })
        });
        v1::RevocationList { revision: self.revision, entries: entries.collect() }
    }
}

/// A revocation that somebody wants.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) kind: Kind,
    pub(crate) value: String,
    pub(crate) issuer: String,
    /// Tokens that are issued after it are meant too.
    pub(crate) also_later: bool,
    pub(crate) until: Option<SystemTime>,
    pub(crate) reason: String,
}

/// Why a revocation was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RevokeError {
    #[error(
        "{MAX} revocations stand already: lift some, or revoke the key or issuer that they share"
    )]
    Full,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All revocations.
pub(crate) struct Revocations {
    store: Store,
    journal: Journal,
    list: watch::Sender<Arc<List>>,
}

impl Revocations {
    /// Loads what stands.
    pub(crate) async fn open(store: Store, journal: Journal) -> Result<Self, StoreError> {
        let (revision, rows) = store.read(stored::load).await?;
        let list = watch::channel(Arc::new(List { revision, rows })).0;
        Ok(Self { store, journal, list })
    }

    /// The list, now and whenever it changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<List>> {
        self.list.subscribe()
    }

    /// The list as it is now.
    pub(crate) fn list(&self) -> Arc<List> {
        Arc::clone(&self.list.borrow())
    }

    /// Revokes, and says under which revision. One that stands already is made wider, never narrower.
    pub(crate) async fn add(
        &self,
        wanted: Wanted,
        actor: &str,
        now: SystemTime,
    ) -> Result<(Row, u64), RevokeError> {
        let (journal, actor) = (self.journal.clone(), actor.to_owned());
        let written = self.store.write(move |connection| {
            stored::forget_over(connection, over(now))?;
            let row = row(connection, id()?, wanted, actor.clone(), now)?;
            let row = enter(&journal, connection, row, &actor, now)?;
            row.map(|row| Ok((row, stored::load(connection)?))).transpose()
        });
        let (row, (revision, rows)) = written.await?.ok_or(RevokeError::Full)?;
        self.publish(revision, rows);
        Ok((row, revision))
    }

    /// Lifts a revocation; none if there is none of that id.
    pub(crate) async fn remove(
        &self,
        id: String,
        actor: &str,
        now: SystemTime,
    ) -> Result<Option<(Row, u64)>, StoreError> {
        let (journal, actor) = (self.journal.clone(), actor.to_owned());
        let written = self.store.write(move |connection| {
            let Some(row) = stored::remove(connection, &id)? else { return Ok(None) };
            journal.enter(connection, &act(Event::Unrevoke, &row, &actor, now))?;
            Ok(Some((row, stored::load(connection)?)))
        });
        let Some((row, (revision, rows))) = written.await? else { return Ok(None) };
        self.publish(revision, rows);
        Ok(Some((row, revision)))
    }

    /// Revokes as part of a job of the store, for somebody who lifts it again; none if the list is full. It has to be
    /// none that stands. [`Revocations::refresh`] tells everybody afterwards.
    pub(crate) fn lend(
        &self,
        writing: &Writing<'_>,
        wanted: Wanted,
        (owner, actor): (&str, &str),
        now: SystemTime,
    ) -> Result<Option<Row>, StoreError> {
        let row = row(writing, id()?, wanted, owner.to_owned(), now)?;
        enter(&self.journal, writing, row, actor, now)
    }

    /// Lifts it, as part of a job of the store, unless it is over or somebody else has made it theirs.
    pub(crate) fn take_back(
        &self,
        writing: &Writing<'_>,
        id: &str,
        (owner, actor): (&str, &str),
        now: SystemTime,
    ) -> Result<(), StoreError> {
        if stored::find(writing, id)?.is_none_or(|row| row.revoked_by != owner) {
            return Ok(());
        }
        let Some(row) = stored::remove(writing, id)? else { return Ok(()) };
        self.journal.enter(writing, &act(Event::Unrevoke, &row, actor, now))
    }

    /// Tells everybody of what jobs of the store have changed.
    pub(crate) async fn refresh(&self) -> Result<(), StoreError> {
        let (revision, rows) = self.store.read(stored::load).await?;
        self.publish(revision, rows);
        Ok(())
    }

    /// Forgets what is over. To be called now and then.
    pub(crate) async fn forget_over(&self, now: SystemTime) -> Result<(), StoreError> {
        let written = self.store.write(move |connection| {
            stored::forget_over(connection, over(now))?;
            stored::load(connection)
        });
        let (revision, rows) = written.await?;
        self.publish(revision, rows);
        Ok(())
    }

    /// Tells everybody. Jobs of the writer end in order, but not those who wait for them.
    fn publish(&self, revision: u64, rows: Vec<Row>) {
        self.list.send_if_modified(|list| {
            let before = list.revision;
            if revision >= before {
                *list = Arc::new(List { revision, rows });
            }
            revision > before
        });
    }
}

/// Whether an identity, or one of its certificates, is revoked: for jobs of the store.
pub(crate) fn refuses(
    connection: &Connection,
    spiffe_id: &str,
    serial: Option<&str>,
    now: SystemTime,
) -> Result<bool, StoreError> {
    stored::refuses(connection, spiffe_id, serial, over(now))
}

/// Files a revocation and its record; none if there is no room.
fn enter(
    journal: &Journal,
    writing: &Writing<'_>,
    row: Row,
    actor: &str,
    now: SystemTime,
) -> Result<Option<Row>, StoreError> {
    if room(writing)? == 0 && stored::find(writing, &row.id)?.is_none() {
        return Ok(None);
    }
    stored::save(writing, &row)?;
    journal.enter(writing, &act(Event::Revoke, &row, actor, now))?;
    Ok(Some(row))
}

/// How many more there may be: for jobs of the store.
pub(crate) fn room(connection: &Connection) -> Result<usize, StoreError> {
    Ok(MAX.saturating_sub(stored::count(connection)?))
}

/// Whether the same is revoked already: for jobs of the store.
pub(crate) fn stands(
    connection: &Connection,
    kind: Kind,
    (value, issuer): (&str, &str),
    now: SystemTime,
) -> Result<bool, StoreError> {
    let found = stored::find_same(connection, kind.as_str(), value, issuer)?;
    Ok(found.is_some_and(|row| row.until.is_none_or(|until| until >= over(now))))
}

fn row(
    connection: &Connection,
    id: String,
    wanted: Wanted,
    actor: String,
    now: SystemTime,
) -> Result<Row, StoreError> {
    let kind = wanted.kind;
    // `iat` has whole seconds: whatever was issued in this one is meant.
    let by_time = kind == Kind::Subject && !wanted.also_later;
    let issued_until = by_time.then(|| clock::milliseconds(now) / 1_000);
    let mut row = Row {
        id,
        kind: kind.as_str().to_owned(),
        value: wanted.value,
        issuer: wanted.issuer,
        issued_until,
        revoked_at: clock::milliseconds(now),
        revoked_by: actor,
        until: wanted.until.map(clock::milliseconds),
        reason: wanted.reason,
    };
    if let Some(before) = stored::find_same(connection, &row.kind, &row.value, &row.issuer)? {
        row.id = before.id;
        row.until = before.until.zip(row.until).map(|(before, until)| before.max(until));
        row.issued_until =
            before.issued_until.zip(row.issued_until).map(|(before, until)| before.max(until));
    }
    Ok(row)
}

fn act(event: Event, row: &Row, actor: &str, now: SystemTime) -> Act {
    let mut act = Act::granted(event, now)
        .actor(actor)
        .with(names::REVOCATION, row.id.as_str())
        .with(names::REVOCATION_KIND, row.kind.as_str());
    if Kind::parse(&row.kind).is_some_and(Kind::is_recorded) {
        act = act.subject(&row.value);
    }
    if !row.issuer.is_empty() {
        act = act.with(names::JWT_ISSUER, row.issuer.as_str());
    }
    if !row.reason.is_empty() {
        act = act.with(names::DETAIL, row.reason.as_str());
    }
    act
}

/// What ended before this is over.
fn over(now: SystemTime) -> i64 {
    clock::milliseconds(now.checked_sub(SKEW).unwrap_or(now))
}

/// Twelve hexadecimal digits.
fn id() -> Result<String, StoreError> {
    let mut bytes = [0_u8; 6];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| StoreError::Unreadable("no randomness"))?;
    Ok(hex(&bytes))
}
