//! `tandem check`: every error and warning of a configuration file.

use std::io::ErrorKind;
use std::process::ExitCode;

use config::{Problem, Severity};
use serde_json::{Value, json};

use super::{FAILED, show};
use crate::cli::CheckArgs;

pub(crate) fn check(args: &CheckArgs) -> ExitCode {
    let name = args.config.display().to_string();
    let text = match std::fs::read_to_string(&args.config) {
        Ok(text) => text,
        Err(error) => {
            let remedy = match error.kind() {
                ErrorKind::InvalidData => "a configuration is a text file in UTF-8",
                _ => "name a configuration file that you may read",
            };
            show::error(&format!("cannot read {name}: {error}"), remedy);
            return ExitCode::from(FAILED);
        }
    };
    let problems = match config::load(&text, &name) {
        Ok((mut config, mut warnings)) => {
            if let Some(directory) = args.config.parent() {
                worker::compile::anchor(&mut config, directory);
            }
            warnings.extend(worker::compile::all(&mut config).1);
            warnings
        }
        Err(problems) => problems,
    };
    let errors = problems.iter().filter(|problem| problem.is_error()).count();
    let warnings = problems.len() - errors;
    if args.json.json {
        let problems: Vec<Value> = problems.iter().map(entry).collect();
        show::json(
            &json!({ "file": name, "errors": errors, "warnings": warnings, "problems": problems }),
        );
    } else {
        problems.iter().for_each(|problem| eprintln!("{problem}\n"));
        show::out(&match (errors, warnings) {
            (0, 0) => format!("{name}: no error, no warning"),
            (errors, warnings) => format!(
                "{name}: {}, {}",
                show::count(errors, "error", "errors"),
                show::count(warnings, "warning", "warnings")
            ),
        });
    }
    if errors > 0 {
        ExitCode::from(FAILED)
    } else {
        ExitCode::SUCCESS
    }
}

fn entry(problem: &Problem) -> Value {
    let severity = match problem.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let place = problem.place.as_ref();
    json!({
        "severity": severity,
        "file": place.map(|place| place.file.to_string()),
        "line": place.map(|place| place.line),
        "column": place.map(|place| place.column),
        "message": problem.message,
        "remedy": problem.remedy,
    })
}
