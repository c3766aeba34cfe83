//! `docs/settings.md`, written from [`crate::keys::SECTIONS`].

use std::fmt::Write;

use crate::keys::{Effect, SECTIONS};

/// The reference of all keys in Markdown.
pub fn reference_markdown() -> String {
    let mut page = String::from(
        "# Settings\n\n\
         <!-- Written from the key definitions in config/src/keys.rs; \
         `UPDATE_EXPECT=1 cargo test -p config` writes it anew. -->\n\n\
         The configuration is a TOML file. `tandem check -c FILE` shows every error and warning in it with \
         its place and a remedy. An unknown key is an error. Without a file, \
         [`config/examples/default.toml`](../config/examples/default.toml) is in force.\n\n\
         A change takes effect with `tandem reload`, unless *restart* is written at its key: then a reload \
         leaves the old value and names the key.\n\n\
         Durations are a number and a unit (`\"500ms\"`, `\"30s\"`, `\"3m\"`, `\"1h\"`, `\"1day\"`), sizes a \
         whole number and `KiB`, `MiB` or `GiB`.\n",
    );
    for section in SECTIONS {
        let _ = write!(page, "\n## `{}`\n\n{}\n", section.header, section.doc);
        for key in section.keys {
            let _ = write!(
                page,
                "\n### `{}.{}`\n\n{}\n\n",
                section.name, key.name, key.doc
            );
            let _ = writeln!(page, "- Value: {}", key.value);
            let _ = match key.default {
                "required" => writeln!(page, "- Required"),
                literal if is_literal(literal) => writeln!(page, "- Default: `{literal}`"),
                words => writeln!(page, "- Default: {words}"),
            };
            if key.effect == Effect::Restart {
                page.push_str("- Takes effect: restart\n");
            }
            let _ = write!(page, "\n```toml\n{}\n```\n", key.example);
        }
    }
    page
}

/// As it would stand in a file, in contrast to words that explain.
fn is_literal(default: &str) -> bool {
    default.starts_with(['"', '['])
        || default.parse::<u64>().is_ok()
        || matches!(default, "true" | "false")
}
