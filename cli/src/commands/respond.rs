//! `picket respond`: what is done about alerts.

use picket_control::operator::{AlertResponse, ResponseList, RevertResponse};

use crate::args::{ControlArguments, Format, RespondCommand};
use crate::client::Client;
use crate::commands::plain_id;
use crate::exit::{Exit, Failure};
use crate::output;
use crate::recorded::seconds;

const PATH: &str = "/api/v1/responses";

pub(crate) async fn run(
    command: RespondCommand,
    control: &ControlArguments,
) -> Result<Exit, Failure> {
    let client = Client::new(control)?;
    let nothing = RevertResponse::default();
    match command {
        RespondCommand::List { output } => all(&client.get(PATH).await?, output.format),
        RespondCommand::Approve { id, output } => {
            let path = format!("{PATH}/{}/approve", plain_id(&id, "a response")?);
            one(client.post(&path, &nothing).await?, output.format)
        }
        RespondCommand::Revert { id, reason, output } => {
            let path = format!("{PATH}/{}/revert", plain_id(&id, "a response")?);
            let why = RevertResponse { reason, revert: false };
            one(client.post(&path, &why).await?, output.format)
        }
        RespondCommand::Halt { revert, output } => {
            let how = RevertResponse { reason: None, revert };
            all(&client.post(&format!("{PATH}/halt"), &how).await?, output.format)
        }
        RespondCommand::Resume { output } => {
            all(&client.post(&format!("{PATH}/resume"), &nothing).await?, output.format)
        }
    }
}

fn one(response: AlertResponse, format: Format) -> Result<Exit, Failure> {
    match format {
        Format::Json => output::json(&response)?,
        Format::Table => print(&[response])?,
    }
    Ok(Exit::Fine)
}

fn all(list: &ResponseList, format: Format) -> Result<Exit, Failure> {
    if format == Format::Json {
        output::json(list)?;
        return Ok(Exit::Fine);
    }
    print(&list.responses)?;
    if list.halted {
        eprintln!("responses are halted; `picket respond resume` lets them go on");
    }
    Ok(Exit::Fine)
}

fn print(responses: &[AlertResponse]) -> Result<(), Failure> {
    let dash = || "-".to_owned();
    let rows = responses.iter().map(|response| {
        vec![
            response.id.clone(),
            response.state.clone(),
            response.target.clone(),
            response.until.as_deref().map_or_else(dash, seconds),
            response.acted_by.clone().unwrap_or_else(dash),
            response.title.clone(),
            response.why.clone().unwrap_or_else(dash),
        ]
    });
    let head = ["ID", "STATE", "QUARANTINE OF", "UNTIL", "BY", "ALERT", "WHY"];
    output::table(&head, &rows.collect::<Vec<_>>())
}
