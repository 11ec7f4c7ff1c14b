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
}

/// What holds for the ports of one workload.
#[derive(Debug)]
pub(crate) struct Modes {
    whole: (MtlsMode, Option<PolicyRef>),
    ports: BTreeMap<u16, (MtlsMode, Option<PolicyRef>)>,
}

impl Modes {
    pub(crate) fn compile(
        policies: &[Arc<PeerAuthentication>],
        workload: &Workload,
        default: MtlsMode,
    ) -> Self {
        let selecting = || policies.iter().filter(|policy| policy.target.selects(workload));
        let mut whole = (default, None);
        for level in [Level::Mesh, Level::Namespace, Level::Workload] {
            let strictest = selecting()
                .filter(|policy| policy.level() == level)
                .filter_map(|policy| Some((policy.mode?, policy)))
                .max_by_key(|(mode, _)| *mode);
            if let Some((mode, policy)) = strictest {
                whole = (mode, Some(PolicyRef::whole(&policy.info)));
            }
        }
        let mut ports: BTreeMap<u16, (MtlsMode, Option<PolicyRef>)> = BTreeMap::new();
        for policy in selecting() {
            for (port, (mode, line)) in &policy.ports {
                let said = match mode {
                    Some(mode) => {
                        let by = PolicyRef { info: policy.info.clone(), rule: None, line: *line };
                        (*mode, Some(by))
                    }
                    None => whole.clone(),
                };
                let entry = ports.entry(*port).or_insert_with(|| said.clone());
                if said.0 > entry.0 {
                    *entry = said;
                }
            }
        }
        Self { whole, ports }
    }

    /// The mode of a port, and the policy that says it.
    pub(crate) fn of(&self, port: Option<u16>) -> (MtlsMode, Option<&PolicyRef>) {
        let (mode, by) = port.and_then(|port| self.ports.get(&port)).unwrap_or(&self.whole);
        (*mode, by.as_ref())
    }
}
