//! Rules for Rust source: where `unsafe` may be, how long a file may get, what must not be left in it.

use super::Fault;

/// Longer files say why in their head, with this number in the words.
const LINES_MAX: usize = 1_000;
const LINES_MAX_IN_WORDS: &str = "1,000 lines";

/// The only crates with `unsafe`, by folder.
const UNSAFE_FOLDERS: [&str; 4] = ["shm/", "crates/sync/", "crates/os/", "crates/reactor/"];

const FORBID: &str = "#![forbid(unsafe_code)]";

/// Left over from work; each with its exclamation mark so that this file passes.
const LEFTOVERS: [(&str, char); 3] = [("todo", '!'), ("unimplemented", '!'), ("dbg", '!')];

pub(crate) fn check(file: &str, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let lines = text.lines().count();
    if lines > LINES_MAX && !head(text).contains(LINES_MAX_IN_WORDS) {
        let what =
            format!("{lines} lines; past {LINES_MAX_IN_WORDS} the head of the file says why");
        faults.push(Fault::new(file, 0, what));
    }
    let may_be_unsafe = UNSAFE_FOLDERS.iter().any(|f| file.starts_with(f));
    let crate_root = ["src/lib.rs", "src/main.rs"]
        .iter()
        .any(|r| file.ends_with(r));
    if crate_root && !may_be_unsafe && !text.contains(FORBID) {
        faults.push(Fault::new(file, 1, format!("no `{FORBID}`")));
    }
    for (n, (code, comment)) in split(text).into_iter().enumerate() {
        if !may_be_unsafe && words(&code).any(|w| w == "unsafe") {
            faults.push(Fault::new(
                file,
                n + 1,
                "unsafe code outside shm, sync, os and reactor",
            ));
        }
        for (name, mark) in LEFTOVERS {
            if code
                .match_indices(name)
                .any(|(at, _)| is_macro(&code, at, name, mark))
            {
                faults.push(Fault::new(file, n + 1, format!("`{name}{mark}` left in")));
            }
        }
        if let Some(reference) = line_reference(&comment) {
            let what = format!(
                "`{reference}` names a line number, which will be wrong tomorrow; name the item"
            );
            faults.push(Fault::new(file, n + 1, what));
        }
    }
    faults
}

/// The comment block that a file starts with.
fn head(text: &str) -> String {
    text.lines()
        .take_while(|l| l.starts_with("//") || l.is_empty())
        .collect::<Vec<_>>()
        .join("\n")
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
}

fn is_macro(code: &str, at: usize, name: &str, mark: char) -> bool {
    let whole = code.get(..at).and_then(|b| b.chars().next_back());
    whole.is_none_or(|c| !c.is_alphanumeric() && c != '_')
        && code
            .get(at + name.len()..)
            .is_some_and(|rest| rest.starts_with(mark))
}

/// A file with a line number, or the word with a number behind it, in a comment.
fn line_reference(comment: &str) -> Option<String> {
    let tokens: Vec<&str> = comment.split_whitespace().collect();
    let digit = |t: &str| t.chars().next().is_some_and(|c| c.is_ascii_digit());
    for (n, token) in tokens.iter().enumerate() {
        if token
            .split_once(".rs:")
            .is_some_and(|(_, rest)| digit(rest))
        {
            return Some((*token).to_owned());
        }
        let word = token.trim_start_matches(['(', '`', '"']).to_lowercase();
        let cache = n > 0 && tokens.get(n - 1).is_some_and(|t| t.ends_with("cache"));
        if let Some(next) = tokens
            .get(n + 1)
            .filter(|t| (word == "line" || word == "lines") && digit(t) && !cache)
        {
            return Some(format!("{token} {next}"));
        }
    }
    None
}

/// Each line as (code, comment), with the contents of strings and characters taken out of the code.
fn split(text: &str) -> Vec<(String, String)> {
    #[derive(Clone, Copy, PartialEq)]
    enum In {
        Code,
        LineComment,
        BlockComment(u32),
        Text,
        RawText(usize),
    }
    let (mut lines, mut state) = (vec![(String::new(), String::new())], In::Code);
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut i = 0;
    while i < chars.len() {
        let c = at(i);
        if c == '\n' {
            lines.push((String::new(), String::new()));
            if state == In::LineComment {
                state = In::Code;
            }
            i += 1;
            continue;
        }
        let Some((code, comment)) = lines.last_mut() else {
            break;
        };
        match state {
            In::LineComment => comment.push(c),
            In::BlockComment(depth) => {
                comment.push(c);
                if c == '*' && at(i + 1) == '/' {
                    state = if depth == 1 {
                        In::Code
                    } else {
                        In::BlockComment(depth - 1)
                    };
                    i += 1;
                } else if c == '/' && at(i + 1) == '*' {
                    state = In::BlockComment(depth + 1);
                    i += 1;
                }
            }
            In::Text if c == '\\' && at(i + 1) != '\n' => i += 1,
            In::Text if c == '"' => state = In::Code,
            In::Text => {}
            In::RawText(hashes) => {
                if c == '"' && (1..=hashes).all(|h| at(i + h) == '#') {
                    state = In::Code;
                    i += hashes;
                }
            }
            In::Code if c == '/' && at(i + 1) == '/' => state = In::LineComment,
            In::Code if c == '/' && at(i + 1) == '*' => {
                state = In::BlockComment(1);
                i += 1;
            }
            In::Code if c == '"' => state = In::Text,
            In::Code
                if c == 'r'
                    && !code.ends_with(|p: char| p.is_alphanumeric() && p != 'b' || p == '_') =>
            {
                let hashes = (1..).take_while(|h| at(i + h) == '#').count();
                if at(i + 1 + hashes) == '"' {
                    state = In::RawText(hashes);
                    i += 1 + hashes;
                } else {
                    code.push(c);
                }
            }
            In::Code if c == '\'' => {
                // A character, or the tick of a lifetime.
                if at(i + 1) == '\\' {
                    i += 3;
                    while i < chars.len() && at(i) != '\'' && at(i) != '\n' {
                        i += 1;
                    }
                } else if at(i + 2) == '\'' {
                    i += 2;
                }
            }
            In::Code => code.push(c),
        }
        i += 1;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(file: &str, text: &str) -> Vec<(usize, String)> {
        check(file, text)
            .into_iter()
            .map(|f| (f.line, f.what))
            .collect()
    }

    const ODD: &str = "let a = \"unsafe // no\"; // unsafe here is a comment\nlet b = r#\"un\"safe\"#; let c = '\"'; let d: &'a str = '\\'';\n/* unsafe /* nested */ unsafe */ let e = b\"\\\"unsafe\";\n";

    #[test]
    fn code_without_strings_and_comments() {
        let lines = split(ODD);
        assert_eq!(lines[0].0, "let a = ; ");
        assert!(lines[0].1.contains("unsafe here"));
        assert_eq!(lines[1].0, "let b = ; let c = ; let d: &a str = ;");
        assert_eq!(lines[2].0, " let e = b;");
        assert!(whats("x/src/a.rs", ODD).is_empty());
    }

    #[test]
    fn where_unsafe_may_be() {
        let text = "fn f() { unsafe { g() } }\n";
        assert_eq!(whats("proxy/src/a.rs", text).len(), 1);
        assert!(whats("crates/os/src/a.rs", text).is_empty());
        assert!(whats("proxy/src/a.rs", "fn unsafe_sounding() {}\n").is_empty());
    }

    #[test]
    fn crate_roots_forbid_it() {
        assert_eq!(whats("crates/sip/src/lib.rs", "//! x\n").len(), 1);
        assert!(whats("crates/sip/src/lib.rs", "//! x\n#![forbid(unsafe_code)]\n").is_empty());
        assert!(whats("shm/src/lib.rs", "//! x\n").is_empty());
    }

    #[test]
    fn long_files_say_why() {
        let long = "//! x\n".to_owned() + &"\n".repeat(1_000);
        assert_eq!(whats("a.rs", &long).len(), 1);
        let told =
            "//! More than 1,000 lines, because one table.\n".to_owned() + &"\n".repeat(1_000);
        assert!(whats("a.rs", &told).is_empty());
    }

    #[test]
    fn leftovers() {
        for (name, mark) in LEFTOVERS {
            assert_eq!(
                whats("a.rs", &format!("fn f() {{ {name}{mark}() }}\n")).len(),
                1
            );
            assert!(
                whats(
                    "a.rs",
                    &format!("// {name}{mark}()\nlet x = {name}_list;\n")
                )
                .is_empty()
            );
        }
    }

    #[test]
    fn line_numbers() {
        for bad in [
            "// see parse.rs:12\n",
            "// as in line 40 above\n",
            "/// lines 3-9 there\n",
        ] {
            assert_eq!(whats("a.rs", bad).len(), 1, "{bad}");
        }
        for fine in [
            "// one cache line 64 bytes long\n",
            "// a line of 7 words\n",
            "let s = \"line 3\";\n",
            "// §16.6 step 8\n",
        ] {
            assert!(whats("a.rs", fine).is_empty(), "{fine}");
        }
    }
}
