//! `picket respond`: what is done about alerts.

mod wait;

use picket_control::operator::{AlertResponse, ResponseHistory, ResponseList, RevertResponse};

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
        RespondCommand::Show { id, output } => {
            let path = format!("{PATH}/{}", plain_id(&id, "a response")?);
            show(&client.get(&path).await?, output.format)
        }
        RespondCommand::Approve(arguments) => {
            let path = format!("{PATH}/{}/approve", plain_id(&arguments.id, "a response")?);
            wait::approve(&client, &path, &arguments).await
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

/// Everything about one: what, why, and each step.
fn show(history: &ResponseHistory, format: Format) -> Result<Exit, Failure> {
    if format == Format::Json {
        output::json(history)?;
        return Ok(Exit::Fine);
    }
    let ResponseHistory { response, cause, steps } = history;
    let (what, target) = (what(response), response.target.escape_debug());
    output::line(&format!("{what} of {target}: {}", response.state))?;
    let time = |time: &Option<String>| time.as_deref().map(seconds).unwrap_or_default();
    let mut facts = vec![
        ("alert", format!("{} {}", response.alert, response.title)),
        ("rule", response.rule.clone()),
        ("mode", response.mode.clone()),
        ("issuer", response.issuer.clone().unwrap_or_default()),
        ("at", response.at.clone().unwrap_or_default()),
        ("policy", response.policy.clone().unwrap_or_default()),
        ("revoked", response.revocations.join(" ")),
        ("until", time(&response.until)),
        ("why", response.why.clone().unwrap_or_default()),
    ];
    if let Some(cause) = cause {
        let group = cause.alert.group.iter().map(|(name, value)| format!("{name}={value}"));
        facts.push(("found", group.collect::<Vec<_>>().join(" ")));
        facts.push(("count", cause.alert.count.to_string()));
        facts.extend(cause.traces.iter().map(|trace| ("trace", trace.clone())));
        facts.extend(cause.alert.records.iter().map(|record| ("record", record.clone())));
    }
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        output::line(&format!("  {name:<8}  {}", value.escape_debug()))?;
    }
    output::line("")?;
    let dash = || "-".to_owned();
    let rows = steps.iter().map(|step| {
        let outcome = step.refused.as_ref().map_or_else(dash, |code| format!("refused: {code}"));
        let detail = step.detail.as_ref().map_or_else(dash, |text| text.escape_debug().to_string());
        vec![step.at.clone(), step.event.clone(), step.actor.clone(), outcome, detail]
    });
    output::table(&["TIME", "STEP", "BY", "OUTCOME", "WHY"], &rows.collect::<Vec<_>>())?;
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

/// What is done, in a few words.
fn what(response: &AlertResponse) -> String {
    let action = &response.action;
    match (&response.webhook, response.requests.zip(response.per_seconds)) {
        (Some(webhook), _) => format!("{action} {webhook}"),
        (_, Some((requests, per))) => format!("{action} {requests}/{per}s"),
        _ => action.clone(),
    }
}

fn print(responses: &[AlertResponse]) -> Result<(), Failure> {
    let dash = || "-".to_owned();
    let rows = responses.iter().map(|response| {
        vec![
            response.id.clone(),
            response.state.clone(),
            what(response),
            response.target.clone(),
            response.until.as_deref().map_or_else(dash, seconds),
            response.acted_by.clone().unwrap_or_else(dash),
            response.title.clone(),
            response.why.clone().unwrap_or_else(dash),
        ]
    });
    let head = ["ID", "STATE", "ACTION", "TARGET", "UNTIL", "BY", "ALERT", "WHY"];
    output::table(&head, &rows.collect::<Vec<_>>())
}
