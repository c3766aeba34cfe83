//! `tandem route test`: where a request would go. A worker answers, by the rules that it routes by; or, for a file that nobody serves by yet, we do.

use std::path::Path;
use std::process::ExitCode;

use config::Problem;
use control::{ClientReply, ClientRequest, RouteReport, RouteStep, RouteTest, TableRequest};

use super::client::{Failure, ask_worker};
use super::{FAILED, show};
use crate::cli::{Route, RouteTestArgs};

pub(crate) fn route(control: &Path, command: &Route) -> ExitCode {
    let Route::Test(args) = command;
    let test = RouteTest {
        method: args.method.clone(),
        uri: args.to.clone(),
        from: args.from.clone(),
        source: args.source,
        unix: args.at,
    };
    let answer = match &args.config {
        Some(file) => offline(file, &test),
        None => ask(control, test),
    };
    super::finish(answer.map(|report| tell(&report, args)))
}

fn ask(control: &Path, test: RouteTest) -> Result<RouteReport, Failure> {
    let replies = ask_worker(
        control,
        &ClientRequest::Table(TableRequest::RouteTest(test)),
    )?;
    let report = replies.into_iter().find_map(|reply| match reply {
        ClientReply::RouteTest(report) => Some(report),
        _ => None,
    });
    report.ok_or_else(|| {
        failed(
            "the server has not answered",
            "use the `tandem` of the same version",
        )
    })
}

fn offline(file: &Path, test: &RouteTest) -> Result<RouteReport, Failure> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| {
        failed(
            format!("cannot read {name}: {error}"),
            "name a configuration file",
        )
    })?;
    let (mut config, _) = config::load(&text, &name).map_err(|problems| wrong(&name, &problems))?;
    if let Some(directory) = file.parent() {
        worker::compile::anchor(&mut config, directory);
    }
    let (tables, problems) = worker::compile::all(&mut config);
    if problems.iter().any(Problem::is_error) {
        return Err(wrong(&name, &problems));
    }
    worker::explain::explain(&config, &tables, test)
        .map_err(|message| failed(message, "write URIs like sip:+4930123@example.com"))
}

fn wrong(name: &str, problems: &[Problem]) -> Failure {
    let mut message = format!("{name} is wrong");
    for problem in problems.iter().filter(|problem| problem.is_error()) {
        message.push_str(&format!("\n\n{problem}"));
    }
    failed(message, "")
}

fn failed(message: impl Into<String>, remedy: &str) -> Failure {
    Failure {
        code: FAILED,
        message: message.into(),
        remedy: remedy.to_owned(),
    }
}

fn tell(report: &RouteReport, args: &RouteTestArgs) {
    if args.json.json {
        return show::json(report);
    }
    let rows = report.steps.iter().map(row).collect();
    show::table(&["", "STEP", "NAME", "PREFIX", "LINE>", "WHY"], rows);
    show::out("");
    show::out(&decision(report));
}

fn row(step: &RouteStep) -> Vec<String> {
    vec![
        if step.taken { "*" } else { "" }.to_owned(),
        step.step.clone(),
        step.name.clone(),
        match step.prefix.as_deref() {
            Some("") => "(any)".to_owned(),
            prefix => prefix.unwrap_or_default().to_owned(),
        },
        step.line.map_or_else(String::new, |line| line.to_string()),
        step.why.clone(),
    ]
}

fn decision(report: &RouteReport) -> String {
    let uri = report.uri.as_deref().unwrap_or_default();
    let mut text = match report.decision.as_str() {
        "location" => format!("{uri} goes to the registered contacts"),
        "dns" => format!("{uri} goes where it points"),
        "reject" => format!("refused with {}", report.code.unwrap_or_default()),
        _ if report.groups.is_empty() => format!("goes to {uri}"),
        _ => format!("{uri} goes to {}", report.groups.join(", then ")),
    };
    if report.trusted {
        text.push_str("; its network is trusted, no password is asked for");
    }
    text
}
