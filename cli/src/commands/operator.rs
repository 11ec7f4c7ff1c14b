//! `picket operator`

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use picket_certs::files::{PRIVATE, PUBLIC, create_private_dir, write_atomic};
use picket_certs::{Identity, NewKey, OperatorId, Role, TrustDomain};
use picket_control::operator::{Bundle, CreateOperator, IssuedOperator};

use crate::args::{ControlArguments, Format, OperatorCommand, RoleArgument};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output;

pub(crate) async fn run(
    command: OperatorCommand,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let OperatorCommand::Create { name, role, ttl, out, output } = command;
    if out.exists() {
        let out = out.display();
        return Err(Failure::Usage(format!("--out {out} exists already; name a new directory")));
    }
    let client = Client::new(control)?;
    let role = match role {
        RoleArgument::Viewer => Role::Viewer,
        RoleArgument::Operator => Role::Operator,
        RoleArgument::Admin => Role::Admin,
    };
    let bundle: Bundle = client.get("/api/v1/bundle").await?;
    // The key is made here and stays here.
    let key = NewKey::generate().map_err(|error| Failure::of(&error))?;
    let request = signing_request(&key, &bundle.trust_domain, role, &name)?;
    let create = CreateOperator {
        name,
        role: role.to_string(),
        ttl,
        signing_request: STANDARD.encode(request),
    };
    let issued: IssuedOperator = client.post("/api/v1/operators", &create).await?;
    write(&out, &key, &issued)?;
    match output.format {
        Format::Json => output::json(&issued)?,
        Format::Table => {
            eprintln!("{} until {}", issued.spiffe_id, issued.not_after);
            output::line(&out.display().to_string())?;
        }
    }
    Ok(Exit::Fine)
}

fn signing_request(
    key: &NewKey,
    trust_domain: &str,
    role: Role,
    name: &str,
) -> Result<Vec<u8>, Failure> {
    let trust_domain: TrustDomain = trust_domain.parse().map_err(|error| Failure::of(&error))?;
    let id = OperatorId::new(&trust_domain, role, name)
        .map_err(|error| Failure::Usage(format!("--name: {error}")))?;
    key.request(&Identity::Operator(id)).map_err(|error| Failure::of(&error))
}

fn write(out: &Path, key: &NewKey, issued: &IssuedOperator) -> Result<(), Failure> {
    let failed = |error: picket_certs::files::FileError| Failure::of(&error);
    create_private_dir(out).map_err(failed)?;
    write_atomic(&out.join("key.pem"), PRIVATE, key.to_pem().as_bytes()).map_err(failed)?;
    let chain = issued.certificate_chain.as_bytes();
    write_atomic(&out.join("certificate.pem"), PUBLIC, chain).map_err(failed)?;
    write_atomic(&out.join("bundle.pem"), PUBLIC, issued.bundle.as_bytes()).map_err(failed)
}
