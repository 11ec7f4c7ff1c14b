//! The chapter in which somebody is told, and something is done.

use std::time::{Duration, Instant};

use super::chapters::{ORDERS_IN, ROGUE_OUT};
use super::{Step, Story, said};
use crate::demo::mesh::{id, text};
use crate::exit::Failure;

/// Refused attempts to change state that make an alert.
const ATTEMPTS: usize = 3;
/// Longer than a policy takes to be in force.
const PATIENCE: Duration = Duration::from_secs(10);

impl Story<'_> {
    pub(super) async fn alert_and_quarantine(&mut self) -> Result<(), Failure> {
        self.chapter("What is suspicious is told, and can be stopped")?;
        for _ in 1..ATTEMPTS {
            let sent = self.attempt("one more attempt", "POST")?;
            self.send(&sent).await?;
        }
        let sent = self.attempt("the rogue tries to make orders, for the third time", "POST")?;
        self.step(sent).await?;
        let started = Instant::now();

        self.title("an alert arrives")?;
        let rogue = id("rogue")?.to_string();
        let is_it = |group: &std::collections::BTreeMap<String, String>| {
            group.get("picket.source").is_some_and(|source| *source == rogue)
        };
        self.mesh
            .until("there is an alert about the rogue", async |mesh| {
                Ok(mesh.alerts().await?.iter().any(|status| is_it(&status.alert.group)))
            })
            .await?;
        let took = started.elapsed().as_millis();
        let alerts = self.mesh.alerts().await?;
        let found = alerts.into_iter().find(|status| is_it(&status.alert.group));
        let Some(status) = found else {
            return Err(Failure::Failed("the alert is gone".to_owned()));
        };
        said("got", &crate::commands::alerts::line(&status))?;
        said("why", &format!("{} refused requests within a minute; see the records:", ATTEMPTS))?;
        for trace in &status.traces {
            said("trace", trace)?;
        }
        let fits = status.alert.records.len() == ATTEMPTS;
        let got = format!("{} after {took} ms", status.alert.severity.as_str());
        self.show("an alert arrives", "an alert of three records", &got, fits)?;

        self.title("an operator approves the quarantine that the rule suggests")?;
        self.mesh
            .until("something is suggested", async |mesh| Ok(!mesh.responses().await?.is_empty()))
            .await?;
        let suggested = self.mesh.responses().await?;
        let suggested = suggested.into_iter().find(|r| r.target == rogue && r.state == "suggested");
        let Some(suggested) = suggested else {
            return Err(Failure::Failed("nothing is suggested about the rogue".to_owned()));
        };
        said("run", &format!("picket respond approve {}", suggested.id))?;
        let active = self.mesh.respond(&suggested.id, "approve").await?;
        let policy = active.policy.unwrap_or_default();
        self.until_decided(&policy, true).await?;
        let got = self.denied_by().await?;
        let fits = got == policy;
        self.show("the rogue is in quarantine", &policy, &got, fits)?;

        self.title("the quarantine ends, here by hand and otherwise by itself")?;
        said("run", &format!("picket respond revert {}", suggested.id))?;
        self.mesh.respond(&suggested.id, "revert").await?;
        self.until_decided(&policy, false).await?;
        let got = self.denied_by().await?;
        self.show("the quarantine ends", "its usual answer", &got, got == "no_allow_matched")
    }

    /// The rogue asks orders for something.
    fn attempt<'a>(&self, title: &'a str, method: &'a str) -> Result<Step<'a>, Failure> {
        Ok(Step {
            title,
            sent: "from the rogue, through its own sidecar",
            to: self.mesh.workload("rogue")?.outbound,
            method,
            host: "orders.shop",
            path: "/orders",
            token: None,
            expected: 403,
            hops: &[ROGUE_OUT, ORDERS_IN],
        })
    }

    /// Asks until a policy is what denies, or is no longer.
    async fn until_decided(&mut self, policy: &str, is: bool) -> Result<(), Failure> {
        let started = Instant::now();
        loop {
            let sent = self.attempt("asked again", "GET")?;
            self.send(&sent).await?;
            if (self.denied_by().await? == policy) == is || started.elapsed() > PATIENCE {
                return self.why(sent.hops).await.map(drop);
            }
        }
    }

    /// What denied the last request, by the record of orders: a policy, or the reason that there is none.
    async fn denied_by(&mut self) -> Result<String, Failure> {
        let Some(sent) = self.ledger.last() else { return Ok(String::new()) };
        let query = format!("{}&direction=inbound", super::of_trace(&sent.trace));
        self.mesh
            .until("the request is recorded", async |mesh| {
                Ok(!mesh.records(&query).await?.is_empty())
            })
            .await?;
        let records = self.mesh.records(&query).await?;
        let name = |record| match text(record, "picket.policy") {
            "" => text(record, "picket.decision.reason").to_owned(),
            policy => policy.to_owned(),
        };
        Ok(records.first().map(name).unwrap_or_default())
    }
}
