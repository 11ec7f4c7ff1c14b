//! Regenerates `api/src/generated` from `api/proto`, without a protobuf compiler on the machine.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let api = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("codegen stands inside api")?;
    let protos = api.join("proto");
    let descriptors = protox::compile(["picket/v1/picket.proto"], [&protos])?;
    tonic_prost_build::configure()
        .build_transport(false)
        // They carry a join token and a key, which no log may show; see api/src/lib.rs.
        .skip_debug(["picket.v1.JoinRequest", "picket.v1.Subjects"])
        .out_dir(api.join("src/generated"))
        .compile_fds(descriptors)?;
    // Messages alone: the proxy makes the one call itself.
    let descriptors =
        protox::compile(["envoy/service/auth/v3/external_auth.proto"], [&protos])?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_server(false)
        .out_dir(api.join("src/generated"))
        .compile_fds(descriptors)?;
    Ok(())
}
