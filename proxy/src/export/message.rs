//! An export request, made of the bytes of spans.

use bytes::Bytes;
use picket_api::attributes;

use crate::audit::span::{field_size, open_field};
use crate::spool::{Completed, Reader};

/// `ExportTraceServiceRequest { resource_spans: [{ resource, scope_spans: [{ scope, spans }] }] }`
pub(super) fn encode(reader: &Reader, batch: &[Completed]) -> Bytes {
    let mut scope = Vec::new();
    open_field(&mut scope, 1, attributes::SCOPE.len());
    scope.extend_from_slice(attributes::SCOPE.as_bytes());
    let version = env!("CARGO_PKG_VERSION");
    open_field(&mut scope, 2, version.len());
    scope.extend_from_slice(version.as_bytes());

    let total: usize = batch.iter().map(|completed| completed.span.len() + 8).sum();
    let mut out = Vec::with_capacity(total + 1024);
    for of_one_boot in batch.chunk_by(|a, b| a.boot() == b.boot()) {
        let Some(boot) = of_one_boot.first().map(Completed::boot) else { continue };
        let resource = reader.resource(boot);
        let spans_size: usize = of_one_boot.iter().map(|c| field_size(2, c.span.len())).sum();
        let scope_spans = field_size(1, scope.len()) + spans_size;
        open_field(&mut out, 1, field_size(1, resource.len()) + field_size(2, scope_spans));
        open_field(&mut out, 1, resource.len());
        out.extend_from_slice(resource);
        open_field(&mut out, 2, scope_spans);
        open_field(&mut out, 1, scope.len());
        out.extend_from_slice(&scope);
        for completed in of_one_boot {
            open_field(&mut out, 2, completed.span.len());
            out.extend_from_slice(&completed.span);
        }
    }
    out.into()
}
