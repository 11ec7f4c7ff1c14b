//! `picket join-token`

use picket_control::operator::{CreateJoinToken, JoinToken, JoinTokens};

use crate::args::{ControlArguments, Format, JoinTokenCommand};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output;

const PATH: &str = "/api/v1/join-tokens";

pub(crate) async fn run(
    command: JoinTokenCommand,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let client = Client::new(control)?;
    match command {
        JoinTokenCommand::Create { workload, ttl, output } => {
            let token: JoinToken = client.post(PATH, &CreateJoinToken { workload, ttl }).await?;
            match output.format {
                Format::Json => output::json(&token)?,
                Format::Table => {
                    eprintln!(
                        "admits {} once, until {}; it is not shown again",
                        token.spiffe_id, token.expires_at
                    );
                    output::line(&token.token)?;
                }
            }
        }
        JoinTokenCommand::List { output } => {
            let tokens: JoinTokens = client.get(PATH).await?;
            if output.format == Format::Json {
                output::json(&tokens.tokens)?;
                return Ok(Exit::Fine);
            }
            let rows: Vec<Vec<String>> = tokens
                .tokens
                .into_iter()
                .map(|token| {
                    let used = token.used_at.unwrap_or_else(|| "-".to_owned());
                    vec![token.id, token.spiffe_id, token.created_by, token.expires_at, used]
                })
                .collect();
            output::table(&["ID", "ADMITS", "CREATED BY", "EXPIRES", "USED"], &rows)?;
        }
    }
    Ok(Exit::Fine)
}
