//! PeerAuthentication: whether a port demands, takes or ignores the identity that a client proves by mTLS.
//!
//! The narrowest policy that says a mode wins: port, then workload, then namespace, then mesh, then the setting.
//! `UNSET` is to say nothing. Istio lets the oldest of several at one level win; here that is an error where it can be
//! seen when the files are read, and the strictest wins where only a workload's labels bring it to light. Source:
//! `ComposePeerAuthentication` in istio/istio `pilot/pkg/security/authn/policy_applier.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::decision::{PolicyInfo, PolicyRef};
use crate::document::{MtlsMode, Workload};
use crate::kinds::Target;

/// A checked PeerAuthentication; `None` is `UNSET`.
#[derive(Debug)]
pub(crate) struct PeerAuthentication {
    pub(crate) info: Arc<PolicyInfo>,
    pub(crate) target: Target,
    pub(crate) mode: Option<MtlsMode>,
    /// By port, with the line of the entry.
    pub(crate) ports: BTreeMap<u16, (Option<MtlsMode>, u32)>,
}

/// How broad a policy's reach is; the narrowest comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Mesh,
    Namespace,
    Workload,
}

impl PeerAuthentication {
    pub(crate) fn level(&self) -> Level {
        match (&self.target.namespace, self.target.labels.is_empty()) {
            (None, _) => Level::Mesh,
            (Some(_), true) => Level::Namespace,
            (Some(_), false) => Level::Workload,
        }
    }

    fn own_mode(&self) -> Option<Said> {
        Some((self.mode?, Some(PolicyRef::whole(&self.info))))
    }

    fn port_mode(&self, port: u16) -> Option<Said> {
        let (mode, line) = self.ports.get(&port)?;
        Some(((*mode)?, Some(PolicyRef { info: self.info.clone(), rule: None, line: *line })))
    }
}

/// The stricter of two, the first if they are equal.
fn stricter(a: Said, b: Said) -> Said {
    if b.0 > a.0 { b } else { a }
}

/// What holds for the ports of one workload.
#[derive(Debug)]
pub(crate) struct Modes {
    whole: Said,
    ports: BTreeMap<u16, Said>,
}

/// A mode, and the policy that says it; none if it is the setting.
type Said = (MtlsMode, Option<PolicyRef>);

impl Modes {
    pub(crate) fn compile(
        policies: &[Arc<PeerAuthentication>],
        workload: &Workload,
        default: MtlsMode,
    ) -> Self {
        let at = |level: Level| {
            policies
                .iter()
                .filter(move |policy| policy.level() == level && policy.target.selects(workload))
        };
        let mut parent: Said = (default, None);
        for level in [Level::Mesh, Level::Namespace] {
            if let Some(said) = at(level).filter_map(|policy| policy.own_mode()).reduce(stricter) {
                parent = said;
            }
        }
        let whole_of =
            |policy: &PeerAuthentication| policy.own_mode().unwrap_or_else(|| parent.clone());
        let whole = at(Level::Workload)
            .map(|policy| whole_of(policy))
            .reduce(stricter)
            .unwrap_or_else(|| parent.clone());
        let mut ports = BTreeMap::new();
        for port in at(Level::Workload).flat_map(|policy| policy.ports.keys()) {
            let of_port = |policy: &Arc<PeerAuthentication>| {
                policy.port_mode(*port).unwrap_or_else(|| whole_of(policy))
            };
            if let Some(said) = at(Level::Workload).map(of_port).reduce(stricter) {
                ports.insert(*port, said);
            }
        }
        Self { whole, ports }
    }

    /// The first port with another mode than the others, and the policy that says so.
    pub(crate) fn other_port(&self) -> Option<(u16, &PolicyRef)> {
        self.ports
            .iter()
            .find_map(|(port, (mode, by))| (*mode != self.whole.0).then_some((*port, by.as_ref()?)))
    }

    /// The mode of a port, and the policy that says it.
    pub(crate) fn of(&self, port: Option<u16>) -> (MtlsMode, Option<&PolicyRef>) {
        let (mode, by) = port.and_then(|port| self.ports.get(&port)).unwrap_or(&self.whole);
        (*mode, by.as_ref())
    }
}
