//! What holds for one workload, and the decision itself.
//!
//! Stages run in Istio's order: whom a CUSTOM rule matches an external authorizer is asked about, AUDIT is noted, any DENY
//! rule that matches refuses, then any ALLOW rule that matches permits; where ALLOW policies select the workload and none matches the answer is no, and where none selects it the
//! setting decides (Istio's own is to allow, ours to deny). Dry-run policies are evaluated beside it and never decide.
//! Asking is the caller's, before it has the rest decided. Source: istio/api
//! `security/v1/authorization_policy.proto`, istio/istio `pilot/pkg/security/authz/builder/builder.go`.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::attributes::Attributes;
use crate::authorizer::{Consultation, ExternalAuthorizer};
use crate::compared::Comparisons;
use crate::decision::{Decision, DryRunHit, PolicyRef, ReasonCode, Stage, Verdict};
use crate::document::{DefaultAction, MtlsMode, Workload};
use crate::index::{Index, NEAR};
use crate::jwt::RequestRules;
use crate::kinds::AuthorizationPolicy;
use crate::limit::Limit;
use crate::mtls::Modes;
use crate::principal::Principal;
use crate::recorded::reads_unrecorded;
use crate::rule::{Action, Rule};
use crate::set::{Generation, PolicySet};

#[cfg(test)]
mod tests;

/// What holds for one workload. Immutable; shared by every worker of a proxy.
#[derive(Debug)]
pub struct WorkloadPolicy {
    workload: Workload,
    generation: Generation,
    default_action: DefaultAction,
    modes: Modes,
    request: RequestRules,
    custom: Table,
    /// Whom the CUSTOM policies ask: all the same.
    authorizer: Option<Arc<ExternalAuthorizer>>,
    audit: Table,
    deny: Table,
    allow: Table,
    dry_run_deny: Table,
    dry_run_allow: Table,
    limits: Vec<Arc<Limit>>,
    comparisons: Comparisons,
    token_rules: Option<Arc<str>>,
    reads_unrecorded: bool,
}

/// The policies of one action that select the workload, in the order of their names.
///
/// The one place that says which rules are looked at for a request. The index says which can match at all; what counts
/// is the order of policies and rules, as if each were tried.
#[derive(Debug)]
pub(crate) struct Table {
    action: Action,
    policies: Vec<Arc<AuthorizationPolicy>>,
    /// The rules of all policies, in order: the places of policy and rule.
    rules: Box<[(u32, u32)]>,
    index: Index,
}

/// A rule that matched, and its policy.
pub(crate) type Matched<'t> = (&'t Arc<AuthorizationPolicy>, &'t Rule);

impl Table {
    fn new(action: Action, policies: Vec<Arc<AuthorizationPolicy>>) -> Self {
        let index = Index::new(action, policies.iter().flat_map(|policy| &policy.rules));
        let rules = (0..).zip(&policies).flat_map(|(place, policy)| {
            (0..).zip(&policy.rules).map(move |(rule, _)| (place, rule))
        });
        let rules = rules.collect();
        Self { action, policies, rules, index }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    pub(crate) fn policies(&self) -> impl Iterator<Item = &Arc<AuthorizationPolicy>> {
        self.policies.iter()
    }

    fn rule(&self, number: u32) -> Option<Matched<'_>> {
        let (policy, rule) = self.rules.get(number as usize)?;
        let policy = self.policies.get(*policy as usize)?;
        Some((policy, policy.rules.get(*rule as usize)?))
    }

    /// The rule of that number, if it matches.
    fn matched(&self, number: u32, attributes: &Attributes<'_>) -> Option<Matched<'_>> {
        self.rule(number).filter(|(_, rule)| rule.matches(self.action, attributes))
    }

    /// The first rule that matches.
    fn first(&self, attributes: &Attributes<'_>) -> Option<Matched<'_>> {
        let mut first = None;
        self.index.visit(attributes, &mut |number| {
            let is_before = first.is_none_or(|(found, _)| number < found);
            if is_before && let Some(matched) = self.matched(number, attributes) {
                first = Some((number, matched));
                return false;
            }
            is_before
        });
        first.map(|(_, matched)| matched)
    }

    /// All rules if they are few. Else some that have much in common with a request, and the first ones: a denial must
    /// not cost more the more rules there are.
    fn near(&self, attributes: &Attributes<'_>) -> impl Iterator<Item = Matched<'_>> {
        let mut found = SmallVec::<[u32; NEAR]>::new();
        if self.rules.len() > NEAR {
            self.index.near(attributes, &mut |number| {
                if found.len() < NEAR && !found.contains(&number) {
                    found.push(number);
                }
                found.len() < NEAR
            });
        }
        let first = (0..).take(self.rules.len()).take(NEAR - found.len());
        found.extend(first);
        found.sort_unstable();
        found.dedup();
        found.into_iter().filter_map(|number| self.rule(number))
    }

    /// Every policy of which a rule matches, with the first of its rules that does.
    fn each(&self, attributes: &Attributes<'_>) -> impl Iterator<Item = Matched<'_>> {
        let mut found = SmallVec::<[u32; 8]>::new();
        self.index.visit(attributes, &mut |number| {
            if self.matched(number, attributes).is_some() {
                found.push(number);
            }
            true
        });
        found.sort_unstable();
        let mut last = None;
        found.into_iter().filter_map(move |number| {
            let (policy, _) = self.rules.get(number as usize)?;
            (last.replace(*policy) != Some(*policy)).then(|| self.rule(number)).flatten()
        })
    }
}

impl WorkloadPolicy {
    pub(crate) fn compile(set: &PolicySet, workload: &Workload) -> Self {
        let table = |action: Action, dry_run: bool| {
            let selects = |policy: &&Arc<AuthorizationPolicy>| {
                policy.action == action
                    && policy.dry_run == dry_run
                    && policy.target.selects(workload)
            };
            Table::new(action, set.authorization().iter().filter(selects).cloned().collect())
        };
        let custom = table(Action::Custom, false);
        let provider = custom.policies().find_map(|policy| policy.provider.as_ref());
        let selecting = || set.authorization().iter().filter(|p| p.target.selects(workload));
        let rules = || selecting().flat_map(|policy| &policy.rules);
        Self {
            workload: workload.clone(),
            comparisons: Comparisons::compile(selecting()),
            token_rules: set.token_rules(workload).map(Into::into),
            reads_unrecorded: rules().any(reads_unrecorded),
            generation: set.generation(),
            default_action: set.settings().default_action,
            modes: Modes::compile(set.peer(), workload, set.settings().default_mtls),
            request: RequestRules::compile(set.request(), workload),
            authorizer: provider.and_then(|provider| set.authorizer(&provider.name)).cloned(),
            custom,
            audit: table(Action::Audit, false),
            deny: table(Action::Deny, false),
            allow: table(Action::Allow, false),
            dry_run_deny: table(Action::Deny, true),
            dry_run_allow: table(Action::Allow, true),
            limits: set
                .limits()
                .iter()
                .filter(|policy| policy.target.selects(workload))
                .flat_map(|policy| policy.limits.iter().cloned())
                .collect(),
        }
    }

    /// The workload that it was compiled for.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// The generation of the set that it comes from.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether a port demands, takes or ignores mTLS, and the policy that says so; none if it is the setting.
    pub fn mtls_mode(&self, port: Option<u16>) -> (MtlsMode, Option<&PolicyRef>) {
        self.modes.of(port)
    }

    /// The token rules of the workload.
    pub fn request_rules(&self) -> &RequestRules {
        &self.request
    }

    /// The limits on the rate of requests, in the order in which they are asked.
    pub fn limits(&self) -> &[Arc<Limit>] {
        &self.limits
    }

    /// The external authorizer that CUSTOM policies of the workload name.
    pub fn authorizer(&self) -> Option<&Arc<ExternalAuthorizer>> {
        self.authorizer.as_ref()
    }

    /// First stage: who the peer is taken for on this port, or a refusal because it is nobody.
    pub fn authenticate_peer<'p>(
        &self,
        port: Option<u16>,
        peer: Option<&'p Principal>,
    ) -> Result<Option<&'p Principal>, Box<Decision>> {
        match (self.modes.of(port), peer) {
            ((MtlsMode::Disable, _), _) => Ok(None),
            ((MtlsMode::Permissive, _), peer) => Ok(peer),
            ((MtlsMode::Strict, _), Some(peer)) => Ok(Some(peer)),
            ((MtlsMode::Strict, by), None) => {
                let (stage, code) = (Stage::PeerAuthentication, ReasonCode::MtlsRequired);
                Err(Box::new(Decision::refused(stage, code, by.cloned())))
            }
        }
    }

    /// Whether an external authorizer has to be asked before [`Self::decide`] is, and which.
    pub fn custom(&self, attributes: &Attributes<'_>) -> Option<Consultation<'_>> {
        let authorizer = self.authorizer.as_ref()?;
        let (policy, rule) = self.custom.first(attributes)?;
        Some(Consultation { by: reference(policy, Some(rule)), authorizer })
    }

    /// The decision on a request that an external authorizer does not let pass, because it says so
    /// ([`ReasonCode::CustomDenied`]) or because it says nothing ([`ReasonCode::CustomError`]).
    pub fn refuse_custom(
        &self,
        attributes: &Attributes<'_>,
        by: PolicyRef,
        code: ReasonCode,
    ) -> Decision {
        let (audit, dry_run) = (self.audited(attributes), self.dry_run(attributes));
        Decision { audit, dry_run, ..Decision::refused(Stage::Custom, code, Some(by)) }
    }

    /// Last stage: whether the request may pass. Allocates nothing on the heap for an allow.
    pub fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        let (audit, dry_run) = (self.audited(attributes), self.dry_run(attributes));
        let done = |verdict, stage, code, by, route| Decision {
            verdict,
            stage,
            code,
            by,
            route,
            audit,
            dry_run,
        };
        let matched = |table: &Table| {
            table.first(attributes).map(|(policy, rule)| {
                let route =
                    rule.route(table.action, attributes).map(|pattern| pattern.text().clone());
                (Some(reference(policy, Some(rule))), route)
            })
        };
        if let Some((by, route)) = matched(&self.deny) {
            return done(Verdict::Deny, Stage::Deny, ReasonCode::DenyMatched, by, route);
        }
        if !self.allow.is_empty() {
            return match matched(&self.allow) {
                Some((by, route)) => {
                    done(Verdict::Allow, Stage::Allow, ReasonCode::AllowMatched, by, route)
                }
                None => done(Verdict::Deny, Stage::Default, ReasonCode::NoAllowMatched, None, None),
            };
        }
        match self.default_action {
            DefaultAction::Allow => {
                done(Verdict::Allow, Stage::Default, ReasonCode::DefaultAllow, None, None)
            }
            DefaultAction::Deny => {
                done(Verdict::Deny, Stage::Default, ReasonCode::DefaultDeny, None, None)
            }
        }
    }

    /// The AUDIT policies that match.
    fn audited(&self, attributes: &Attributes<'_>) -> SmallVec<[PolicyRef; 2]> {
        self.audit.each(attributes).map(|(policy, rule)| reference(policy, Some(rule))).collect()
    }

    /// What the dry-run policies would have done: each DENY and ALLOW policy that matches, or, if there are ALLOW
    /// policies and none matches, each of them as the refusal that it would have been.
    fn dry_run(&self, attributes: &Attributes<'_>) -> SmallVec<[DryRunHit; 2]> {
        let hits = |table: &Table, would| {
            table
                .each(attributes)
                .map(|(policy, rule)| DryRunHit { policy: reference(policy, Some(rule)), would })
                .collect::<SmallVec<[DryRunHit; 2]>>()
        };
        let mut all = hits(&self.dry_run_deny, Verdict::Deny);
        let allowed = hits(&self.dry_run_allow, Verdict::Allow);
        if allowed.is_empty() {
            all.extend(
                self.dry_run_allow.policies().map(|policy| DryRunHit {
                    policy: reference(policy, None),
                    would: Verdict::Deny,
                }),
            );
        } else {
            all.extend(allowed);
        }
        all
    }

    /// Every rule that matches, whichever decides: for those who count rules, not requests.
    pub(crate) fn matching(&self, attributes: &Attributes<'_>) -> Vec<PolicyRef> {
        let enforced = [&self.custom, &self.audit, &self.deny, &self.allow];
        let tables = enforced.into_iter().chain([&self.dry_run_deny, &self.dry_run_allow]);
        let rules = tables.flat_map(|table| {
            let policies = table.policies.iter();
            policies
                .flat_map(move |policy| policy.rules.iter().map(move |rule| (table, policy, rule)))
        });
        rules
            .filter(|(table, _, rule)| rule.matches(table.action, attributes))
            .map(|(_, policy, rule)| reference(policy, Some(rule)))
            .collect()
    }

    /// ALLOW rules of which one came nearest to a request that none matches, in order.
    pub(crate) fn near_misses(
        &self,
        attributes: &Attributes<'_>,
    ) -> impl Iterator<Item = Matched<'_>> {
        self.allow.near(attributes)
    }

    /// What the rules compare that records do not hold, and what came of it: for the record. Allocates only where rules
    /// read headers, claims, the server name or the address of the connection.
    pub fn compared(&self, attributes: &Attributes<'_>) -> Vec<Arc<str>> {
        self.comparisons.of(attributes)
    }

    /// Names the content of the RequestAuthentications that select the workload; none if none does. Where two names
    /// are the same, a token comes to the same.
    pub fn token_rules(&self) -> Option<&Arc<str>> {
        self.token_rules.as_ref()
    }

    pub(crate) fn reads_unrecorded(&self) -> bool {
        self.reads_unrecorded
    }

    pub(crate) fn default_action(&self) -> DefaultAction {
        self.default_action
    }

    /// Every AuthorizationPolicy that selects the workload, those in dry run included.
    pub(crate) fn policies(&self) -> impl Iterator<Item = (Action, &Arc<AuthorizationPolicy>)> {
        let enforced = [&self.custom, &self.audit, &self.deny, &self.allow];
        let dry_run = [&self.dry_run_deny, &self.dry_run_allow];
        enforced
            .into_iter()
            .chain(dry_run)
            .flat_map(|table| table.policies().map(|policy| (table.action, policy)))
    }

    /// The CUSTOM policies that select the workload.
    pub(crate) fn custom_policies(&self) -> impl Iterator<Item = &Arc<AuthorizationPolicy>> {
        self.custom.policies()
    }

    /// The DENY policies that select the workload and are enforced.
    pub(crate) fn deny_policies(&self) -> impl Iterator<Item = &Arc<AuthorizationPolicy>> {
        self.deny.policies()
    }

    /// The ALLOW policies that select the workload and are enforced.
    pub(crate) fn allow_policies(&self) -> impl Iterator<Item = &Arc<AuthorizationPolicy>> {
        self.allow.policies()
    }
}

pub(crate) fn reference(policy: &AuthorizationPolicy, rule: Option<&Rule>) -> PolicyRef {
    PolicyRef {
        info: policy.info.clone(),
        rule: rule.map(|rule| rule.index),
        line: rule.map_or(policy.info.line, |rule| rule.line),
    }
}
