//! PeerAuthentication: its fields and checks.
//!
//! Source: istio/api `security/v1/peer_authentication.proto`, `ValidatePeerAuthentication` in istio/istio
//! `pkg/config/validation/validation.go`.

use std::collections::BTreeMap;

use super::authorization::misplaced;
use super::{Context, Head, Object};
use crate::diagnostic::code;
use crate::document::MtlsMode;
use crate::fields::{Field, Reader};
use crate::mtls::PeerAuthentication;

pub(super) fn read(head: Head<'_>, context: &Context, reader: &mut Reader<'_>) -> Option<Object> {
    if let Some(at) = head.metadata.dry_run.at {
        misplaced(at, "istio.io/dry-run", "AuthorizationPolicy", reader);
    }
    head.metadata.refuse_token_annotations(reader);
    let mut spec = head.spec(reader)?;
    let target = head.target(&mut spec, context, reader);
    let mode = spec.take("mtls").and_then(|field| read_mode(field, reader));
    let port_level = spec.take("portLevelMtls");
    spec.finish(reader);
    if target.namespace.is_none() && !target.labels.is_empty() {
        reader.error(
            head.at,
            code::ROOT_SELECTOR,
            "a PeerAuthentication with labels in the root namespace selects nothing with Istio, though its manual says otherwise",
            "put it into the namespace of the workloads that are meant",
        );
    }
    let ports = port_level
        .map_or_else(BTreeMap::new, |field| read_ports(field, !target.labels.is_empty(), reader));
    Some(Object::Peer(PeerAuthentication { info: head.info, target, mode, ports }))
}

fn read_mode(field: Field<'_>, reader: &mut Reader<'_>) -> Option<MtlsMode> {
    let mut fields = reader.map(field.node, "mtls")?;
    let mode = fields.string("mode", reader);
    fields.finish(reader);
    let mode = mode?;
    match mode.text.as_str() {
        "UNSET" => None,
        "DISABLE" => Some(MtlsMode::Disable),
        "PERMISSIVE" => Some(MtlsMode::Permissive),
        "STRICT" => Some(MtlsMode::Strict),
        other => {
            reader.error(
                mode.at,
                code::UNKNOWN_MODE,
                format!("mTLS mode `{other}` is not known"),
                "write STRICT, PERMISSIVE, DISABLE or UNSET, in capitals",
            );
            None
        }
    }
}

fn read_ports(
    field: Field<'_>,
    has_labels: bool,
    reader: &mut Reader<'_>,
) -> BTreeMap<u16, (Option<MtlsMode>, u32)> {
    let mut ports = BTreeMap::new();
    let Some(map) = reader.map(field.node, "portLevelMtls") else { return ports };
    let entries = map.entries();
    if !has_labels || entries.is_empty() {
        reader.error(
            field.key,
            code::PORTS_NEED_SELECTOR,
            "`portLevelMtls` needs a `selector` with labels and at least one port",
            "select the workload whose ports are meant, or remove the field",
        );
    }
    for (key, node) in entries {
        match key.name.parse::<u16>() {
            Ok(port) if port > 0 => {
                let mode = read_mode(Field { name: "portLevelMtls", key: key.at, node }, reader);
                ports.insert(port, (mode, key.at.line));
            }
            _ => reader.error(
                key.at,
                code::BAD_PORT,
                format!("`{}` of `portLevelMtls` is not a port number", key.name),
                "write a number from 1 to 65535",
            ),
        }
    }
    ports
}
