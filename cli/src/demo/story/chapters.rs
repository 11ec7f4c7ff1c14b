//! The chapters of the story, in the order in which they are told.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::{Hop, Step, Story, hop_of, of_trace, said};
use crate::commands::END_WITH_STDIN;
use crate::demo::http::{Call, knock, send};
use crate::demo::mesh::{Mesh, id, new_trace, text};
use crate::demo::policies::{MISTAKE, ORDERS};
use crate::demo::tokens::Login;
use crate::exit::Failure;
use crate::output::{self, Colour, coloured};

/// A corrected policy must be in force within this time.
const EFFECTIVE: Duration = Duration::from_secs(1);

const WEB_IN: Hop = ("web", "inbound");
const WEB_OUT: Hop = ("web", "outbound");
pub(super) const ORDERS_IN: Hop = ("orders", "inbound");
const ORDERS_OUT: Hop = ("orders", "outbound");
const PAYMENTS_IN: Hop = ("payments", "inbound");
const PAYMENTS_OF_ORDERS: [Hop; 5] = [WEB_IN, WEB_OUT, ORDERS_IN, ORDERS_OUT, PAYMENTS_IN];
pub(super) const ROGUE_OUT: Hop = ("rogue", "outbound");

impl Story<'_> {
    pub(super) async fn identities_and_rules(&mut self) -> Result<(), Failure> {
        let token = self.mesh.login.token(600)?;
        let edge = inbound(self.mesh, "web")?;
        let web = self.mesh.workload("web")?.outbound;
        let rogue = self.mesh.workload("rogue")?.outbound;
        self.chapter("Every call has an identity, and every identity its rules")?;
        self.step(Step {
            title: "a customer with a token buys a lamp",
            sent: "from outside, with a valid token, to web; web calls orders, orders calls payments",
            to: edge,
            method: "POST",
            host: "web",
            path: "/checkout",
            token: Some(&token),
            expected: 200,
            hops: &PAYMENTS_OF_ORDERS,
        })
        .await?;
        self.step(Step {
            title: "the rogue reads an order",
            sent: "from the rogue, which has a valid certificate, through its own sidecar",
            to: rogue,
            method: "GET",
            host: "orders.shop",
            path: "/orders/7",
            token: None,
            expected: 403,
            hops: &[ROGUE_OUT, ORDERS_IN],
        })
        .await?;
        self.step(Step {
            title: "web deletes an order",
            sent: "from web, which may call orders, but with another method",
            to: web,
            method: "DELETE",
            host: "orders.shop",
            path: "/orders/7",
            token: None,
            expected: 403,
            hops: &[WEB_OUT, ORDERS_IN],
        })
        .await?;
        self.step(Step {
            title: "web pays itself back",
            sent: "from web to payments, which only orders may call, and on another path",
            to: web,
            method: "POST",
            host: "payments.shop",
            path: "/refund",
            token: None,
            expected: 403,
            hops: &[WEB_OUT, PAYMENTS_IN],
        })
        .await
    }

    pub(super) async fn tokens(&mut self) -> Result<(), Failure> {
        let edge = inbound(self.mesh, "web")?;
        let expired = self.mesh.login.token(-600)?;
        // Same issuer and key id, another key.
        let forged = Login::new()?.token(600)?;
        self.chapter("A token is good or the request is refused")?;
        for (title, sent, token, expected) in [
            ("no token", "from outside, with no token", None, 403),
            (
                "an expired token",
                "from outside, with a token that ended ten minutes ago",
                Some(&expired),
                401,
            ),
            (
                "a wrongly signed token",
                "from outside, with a token that another key signed",
                Some(&forged),
                401,
            ),
        ] {
            self.step(Step {
                title,
                sent,
                to: edge,
                method: "POST",
                host: "web",
                path: "/checkout",
                token: token.map(String::as_str),
                expected,
                hops: &[WEB_IN],
            })
            .await?;
        }
        Ok(())
    }

    pub(super) async fn strangers(&mut self) -> Result<(), Failure> {
        self.chapter("Without a certificate of the mesh there is not even HTTP")?;
        let address = inbound(self.mesh, "orders")?;
        let query = "kind=connection&emitter=shop/orders";
        let before = self.mesh.records(query).await?.len();
        let (bundle, server) = (self.mesh.bundle()?, id("orders")?);
        let alert = knock(address, bundle, server).await;
        self.title("a caller with no client certificate")?;
        said("sent", "a TLS handshake with orders, without a certificate")?;
        let got = alert.unwrap_or_else(|| "a connection".to_owned());
        said("got", &got)?;
        let expected = before + 1;
        self.mesh
            .until("the refused connection is recorded", async |mesh| {
                Ok(mesh.records(query).await?.len() >= expected)
            })
            .await?;
        let records = self.mesh.records(query).await?;
        let reason = records.last().map(|record| text(record, "picket.decision.reason").to_owned());
        let reason = reason.unwrap_or_default();
        said("why", &format!("orders denied the connection: {reason}"))?;
        let fits =
            got.contains("alert") && reason == "no_client_certificate" && records.len() == expected;
        self.show("a caller with no client certificate", "refused by TLS", "refused by TLS", fits)
    }

    pub(super) async fn explain_and_correct(&mut self) -> Result<(), Failure> {
        let web = self.mesh.workload("web")?.outbound;
        self.chapter("A denial explains itself, and its correction is in force at once")?;
        self.step(Step {
            title: "web reads an order, and should be allowed to",
            sent: "from web, through its own sidecar",
            to: web,
            method: "GET",
            host: "orders.shop",
            path: "/orders/7",
            token: None,
            expected: 403,
            hops: &[WEB_OUT, ORDERS_IN],
        })
        .await?;
        self.explain().await?;
        self.correct(web).await
    }

    /// `picket authz explain`, as a user would run it.
    async fn explain(&mut self) -> Result<(), Failure> {
        let policies = self.mesh.policies().display().to_string();
        let from = id("web")?;
        let arguments = [
            "authz",
            "explain",
            "--policies",
            &policies,
            "--destination",
            "shop/orders",
            "--label",
            "app=orders",
            "--from",
            from.as_str(),
            "--method",
            "GET",
            "--path",
            "/orders/7",
        ];
        self.title("explain it")?;
        said("run", "picket authz explain --policies policies/ --destination shop/orders \\")?;
        output::line(&format!(
            "            --label app=orders --from {from} --method GET --path /orders/7"
        ))?;
        let program = std::env::current_exe().map_err(|error| Failure::of(&error))?;
        let mut command = Command::new(program);
        // It has no standard input of its own to end with, if the demo is to end with its own.
        command.args(arguments).env_remove(END_WITH_STDIN);
        let run = command.output().map_err(|error| Failure::of(&error))?;
        let answer = String::from_utf8_lossy(&run.stdout);
        for line in answer.lines() {
            output::line(&format!("    {}", coloured(line, Colour::Dim)))?;
        }
        let fits = answer.starts_with("DENY")
            && answer.contains("nearest miss")
            && answer.contains(ORDERS)
            && answer.contains(MISTAKE.0);
        self.show(
            "explain it",
            "the nearest rule and what it lacks",
            "named with file and line",
            fits,
        )
    }

    /// The same request, while the file is corrected beneath it.
    async fn correct(&mut self, web: SocketAddr) -> Result<(), Failure> {
        let title = "correct the file; nothing is restarted";
        self.title(title)?;
        let path = self.mesh.policy_file(ORDERS);
        let before = fs::read_to_string(&path).map_err(|error| Failure::of(&error))?;
        let (wrong, right) = MISTAKE;
        said("edit", &format!("{ORDERS}: {wrong} becomes {right}"))?;
        fs::write(&path, before.replace(wrong, right)).map_err(|error| Failure::of(&error))?;
        let started = Instant::now();
        let (took, reply) = loop {
            let sent = Step {
                title,
                sent: "",
                to: web,
                method: "GET",
                host: "orders.shop",
                path: "/orders/7",
                token: None,
                expected: 200,
                hops: &[WEB_OUT, ORDERS_IN],
            };
            let reply = self.send(&sent).await?;
            if reply.status == StatusCode::OK || started.elapsed() > Duration::from_secs(10) {
                break (started.elapsed(), reply);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        said("got", &format!("{} {}", reply.status.as_u16(), reply.body))?;
        said(
            "why",
            &format!("the correction was in force {} ms after it was written", took.as_millis()),
        )?;
        let fits = reply.status == StatusCode::OK && took < EFFECTIVE;
        let got = format!("{} after {} ms", reply.status.as_u16(), took.as_millis());
        self.show("correct the file", "200 within 1 s", &got, fits)
    }

    pub(super) async fn without_control_plane(&mut self) -> Result<(), Failure> {
        self.chapter("The control plane is killed; the mesh goes on")?;
        // So that what waits afterwards is of the time without it.
        let started = Instant::now();
        while self.waiting_records().await? > 0 && started.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.mesh.kill_control()?;
        self.control_is_up = false;
        said("run", "kill -9 of the control plane")?;
        let token = self.mesh.login.token(600)?;
        let edge = inbound(self.mesh, "web")?;
        let rogue = self.mesh.workload("rogue")?.outbound;
        self.step(Step {
            title: "without it, a customer buys a lamp",
            sent: "from outside, with a valid token",
            to: edge,
            method: "POST",
            host: "web",
            path: "/checkout",
            token: Some(&token),
            expected: 200,
            hops: &PAYMENTS_OF_ORDERS,
        })
        .await?;
        self.step(Step {
            title: "without it, the rogue reads an order",
            sent: "from the rogue",
            to: rogue,
            method: "GET",
            host: "orders.shop",
            path: "/orders/7",
            token: None,
            expected: 403,
            hops: &[ROGUE_OUT, ORDERS_IN],
        })
        .await?;
        let waiting = self.waiting_records().await?;
        said("why", &format!("{waiting} records wait in the sidecars' spools"))?;
        self.mesh.start_control().await?;
        self.control_is_up = true;
        self.title("it comes back")?;
        let last: Vec<String> = self.ledger.iter().rev().take(2).map(|s| s.trace.clone()).collect();
        let started = Instant::now();
        self.mesh
            .until("the records of the time without it have arrived", async |mesh| {
                let mut arrived = 0;
                for trace in &last {
                    arrived += mesh.records(&of_trace(trace)).await?.len();
                }
                Ok(arrived == waiting)
            })
            .await?;
        said(
            "got",
            &format!(
                "all {waiting} records, {} ms after it answered",
                started.elapsed().as_millis()
            ),
        )?;
        let fits = waiting == PAYMENTS_OF_ORDERS.len() + 2;
        self.show(
            "the records of the outage",
            "7 records arrive",
            &format!("{waiting} arrived"),
            fits,
        )
    }

    /// What the sidecars say waits in their spools.
    async fn waiting_records(&self) -> Result<usize, Failure> {
        let mut waiting = 0;
        for workload in &self.mesh.workloads {
            let trace = new_trace();
            let probe = Call {
                to: workload.admin,
                method: "GET",
                host: "admin",
                path: "/metrics",
                token: None,
                trace: &trace,
            };
            let metrics = send(&probe).await.map_err(Failure::Failed)?.body;
            let line = metrics.lines().find(|l| l.starts_with("picket_audit_records_pending "));
            let value = line.and_then(|line| line.rsplit(' ').next());
            waiting += value.and_then(|value| value.parse::<usize>().ok()).unwrap_or_default();
        }
        Ok(waiting)
    }

    /// Holds the audit trail against the ledger.
    pub(super) async fn accounts(&mut self) -> Result<(), Failure> {
        self.chapter("Every request is accounted for")?;
        let mut hops = 0;
        let mut missing = Vec::new();
        for sent in &self.ledger {
            let mut expected: Vec<Hop> = sent.hops.clone();
            hops += expected.len();
            let query = of_trace(&sent.trace);
            let wanted = expected.len();
            self.mesh
                .until("every record has arrived", async |mesh| {
                    Ok(mesh.records(&query).await?.len() >= wanted)
                })
                .await?;
            for record in self.mesh.records(&query).await? {
                let at = expected.iter().position(|hop| *hop == hop_of(&record));
                match at {
                    Some(position) => {
                        expected.remove(position);
                    }
                    None => missing.push(format!("an unexpected record in trace {}", sent.trace)),
                }
            }
            missing.extend(expected.iter().map(|(who, _)| format!("{who} in {}", sent.trace)));
        }
        let requests = self.ledger.len();
        said("sent", &format!("{requests} requests, over {hops} hops"))?;
        said(
            "found",
            &format!(
                "{} records: one for each hop, each request in one trace",
                hops - missing.len()
            ),
        )?;
        for problem in &missing {
            said("but", problem)?;
        }
        let got = format!("{} of {hops} hops recorded", hops - missing.len());
        self.show("the audit trail", "one record per hop", &got, missing.is_empty())
    }
}

fn inbound(mesh: &Mesh, name: &str) -> Result<SocketAddr, Failure> {
    let inbound = mesh.workload(name)?.inbound;
    inbound.ok_or_else(|| Failure::Failed(format!("{name} takes no requests")))
}
