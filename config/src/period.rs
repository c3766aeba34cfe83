//! `[[period]]`: times of the day, the week and the year, in a time zone; and which of them are now.

use jiff::{Timestamp, civil, tz::TimeZone};
use serde::{Deserialize, Serialize};

use crate::{
    keys::{Effect::Reload, Key, Section},
    model::Config,
    parse::Draft,
    reader::{Table, nearest},
    value::{self, Wrong, wrong},
};

/// `[[period]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Period {
    pub name: String,
    /// IANA name.
    pub timezone: String,
    /// By weekday, Monday first; `None`: every day.
    pub days: Option<[bool; 7]>,
    /// From, to; empty: all day.
    pub hours: Vec<Hours>,
    /// Empty: all year.
    pub dates: Vec<Dates>,
    /// Names of earlier periods that are not part of this one.
    pub except: Vec<String>,
}

/// Minutes of the day, the end not included. One that ends before it begins goes over midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hours {
    pub from: u16,
    pub to: u16,
}

/// Days, both included. Without a year they are those of every year; then one that ends before it begins goes over New Year.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dates {
    pub from: Date,
    pub to: Date,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Date {
    pub year: Option<i16>,
    pub month: i8,
    pub day: i8,
}

/// Minutes of a day.
const DAY: u16 = 24 * 60;
const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

pub(crate) const PERIOD: Section = Section {
    name: "period",
    header: "[[period]]",
    doc: "A time that rules of a `[[prefix_table]]` hold in, or outside of which they hold. All keys that are there must fit.",
    keys: &[
        Key {
            name: "name",
            value: "letters, digits, `-`, `_` and `.`",
            default: "required",
            effect: Reload,
            doc: "The name that the column `time` uses; `!NAME` there is the rest of the time.",
            example: r#"name = "office""#,
        },
        Key {
            name: "timezone",
            value: "name of the IANA time zone database",
            default: r#""UTC""#,
            effect: Reload,
            doc: "Where the clock is read, summer time included. The database is part of the program.",
            example: r#"timezone = "Europe/Berlin""#,
        },
        Key {
            name: "days",
            value: "list of weekdays and ranges of them, such as `\"mon-fri\"`",
            default: "every day",
            effect: Reload,
            doc: "Days of the week: `mon`, `tue`, `wed`, `thu`, `fri`, `sat`, `sun`.",
            example: r#"days = ["mon-fri"]"#,
        },
        Key {
            name: "hours",
            value: "list of `\"HH:MM-HH:MM\"`",
            default: "all day",
            effect: Reload,
            doc: "Times of the day; the second is the first minute that is not part of it, `24:00` the end of the day. `\"22:00-06:00\"` goes over midnight and belongs to the day on which it begins.",
            example: r#"hours = ["08:00-12:00", "13:00-18:00"]"#,
        },
        Key {
            name: "dates",
            value: "list of dates and ranges: `\"YYYY-MM-DD\"`, `\"MM-DD\"`, `\"FROM..TO\"`",
            default: "all year",
            effect: Reload,
            doc: "Days of the year, of one year or of every year; the last one of a range is part of it.",
            example: r#"dates = ["12-24..01-01", "2027-03-29"]"#,
        },
        Key {
            name: "except",
            value: "list of names of earlier `[[period]]`",
            default: "none",
            effect: Reload,
            doc: "Other periods that are not part of this one, such as holidays.",
            example: r#"except = ["holidays"]"#,
        },
    ],
    absent: &["from", "to", "months", "weeks", "recurrence"],
};

pub(crate) fn one(table: &Table<'_>) -> Period {
    table.require("name");
    let days = table.texts("days", days).map(|days| {
        let mut week = [false; 7];
        for (day, wanted) in week.iter_mut().enumerate() {
            *wanted = days.iter().any(|days| days.contains(&day));
        }
        week
    });
    Period {
        name: table.text("name", value::identifier).unwrap_or_default(),
        timezone: table
            .text("timezone", timezone)
            .unwrap_or_else(|| "UTC".to_owned()),
        days,
        hours: table.texts("hours", hours).unwrap_or_default(),
        dates: table.texts("dates", dates).unwrap_or_default(),
        except: table.texts("except", value::identifier).unwrap_or_default(),
    }
}

pub(crate) fn check(draft: &Draft<'_>) {
    let mut before: Vec<&str> = Vec::new();
    for (period, table) in draft.config.periods.iter().zip(&draft.periods) {
        for name in &period.except {
            if before.contains(&name.as_str()) {
                continue;
            }
            let remedy = match nearest(name, before.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("put a [[period]] with name = \"{name}\" before this one"),
            };
            table.error(
                "except",
                format!("names no earlier period ({name})"),
                remedy,
            );
        }
        if !period.name.is_empty() && before.contains(&period.name.as_str()) {
            let what = format!("\"{}\" is there already", period.name);
            table.error("name", what, "remove one of the two [[period]]");
        }
        before.push(&period.name);
    }
}

fn timezone(text: &str) -> Result<String, Wrong> {
    match TimeZone::get(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => {
            let zones: Vec<String> = jiff::tz::db()
                .available()
                .map(|name| name.to_string())
                .collect();
            wrong(
                format!("is no time zone: {text:?}"),
                match nearest(text, zones.iter().map(String::as_str)) {
                    Some(near) => format!("did you mean {near:?}?"),
                    None => "write a name like Europe/Berlin, America/New_York or UTC".to_owned(),
                },
            )
        }
    }
}

/// Days of the week from 0, Monday.
fn days(text: &str) -> Result<Vec<usize>, Wrong> {
    let day = |name: &str| {
        let name = name.trim().to_ascii_lowercase();
        WEEKDAYS.iter().position(|day| *day == name)
    };
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let (Some(from), Some(to)) = (day(from), day(to)) else {
        return wrong(
            format!("has {text:?}, which is no day of the week"),
            r#"write days like "mon", or ranges like "mon-fri""#,
        );
    };
    let length = (to + 7 - from) % 7;
    Ok((from..=from + length).map(|day| day % 7).collect())
}

fn hours(text: &str) -> Result<Hours, Wrong> {
    let minutes = |text: &str| {
        let (hour, minute) = text.trim().split_once(':')?;
        let (hour, minute) = (hour.parse::<u16>().ok()?, minute.parse::<u16>().ok()?);
        let minutes = hour.checked_mul(60)?.checked_add(minute)?;
        (minute < 60 && minutes <= DAY).then_some(minutes)
    };
    let range = text
        .split_once('-')
        .and_then(|(from, to)| Some((minutes(from)?, minutes(to)?)));
    match range {
        Some((from, to)) if from < DAY && from != to => Ok(Hours { from, to }),
        _ => wrong(
            format!("has {text:?}, which is no time of the day"),
            r#"write a range like "08:00-18:00""#,
        ),
    }
}

fn dates(text: &str) -> Result<Dates, Wrong> {
    const REMEDY: &str = r#"write a day like "2026-12-24", or "12-24" for every year, or a range like "12-24..01-01""#;
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    let (Some(from), Some(to)) = (date(from.trim()), date(to.trim())) else {
        return wrong(format!("has {text:?}, which is no day"), REMEDY);
    };
    if from.year.is_some() != to.year.is_some() {
        let what = format!("has {text:?}, where only one day has a year");
        return wrong(what, "write both with a year, or both without");
    }
    if from.year.is_some() && to < from {
        let what = format!("has {text:?}, which ends before it begins");
        return wrong(what, "write the earlier day first");
    }
    Ok(Dates { from, to })
}

fn date(text: &str) -> Option<Date> {
    let parts: Vec<&str> = text.split('-').collect();
    let (year, month, day) = match parts.as_slice() {
        [year, month, day] => (Some(year.parse().ok()?), *month, *day),
        [month, day] => (None, *month, *day),
        _ => return None,
    };
    let (month, day) = (month.parse().ok()?, day.parse().ok()?);
    // Of no year: 29 February is a day.
    civil::Date::new(year.unwrap_or(2000), month, day).ok()?;
    Some(Date { year, month, day })
}

impl Dates {
    fn has(&self, day: civil::Date) -> bool {
        let day = Date {
            year: self.from.year.map(|_| day.year()),
            month: day.month(),
            day: day.day(),
        };
        if self.from <= self.to {
            self.from <= day && day <= self.to
        } else {
            self.from <= day || day <= self.to
        }
    }
}

impl Period {
    /// Whether it is now, but for its exceptions.
    fn has(&self, now: civil::DateTime) -> bool {
        let day_fits = |day: civil::Date| {
            let weekday = usize::try_from(day.weekday().to_monday_zero_offset()).unwrap_or(0);
            self.days
                .is_none_or(|days| days.get(weekday).copied().unwrap_or(false))
                && (self.dates.is_empty() || self.dates.iter().any(|dates| dates.has(day)))
        };
        let today = now.date();
        if self.hours.is_empty() {
            return day_fits(today);
        }
        let minute =
            u16::try_from(now.hour()).unwrap_or(0) * 60 + u16::try_from(now.minute()).unwrap_or(0);
        self.hours.iter().any(|hours| {
            if hours.from < hours.to {
                (hours.from..hours.to).contains(&minute) && day_fits(today)
            } else if minute >= hours.from {
                day_fits(today)
            } else {
                // The night that began yesterday.
                minute < hours.to && today.yesterday().is_ok_and(day_fits)
            }
        })
    }
}

/// The periods of a configuration, ready for use.
#[derive(Clone, Debug)]
pub struct Calendar {
    periods: Vec<(Period, TimeZone)>,
}

impl Calendar {
    /// A zone that is not known is taken for UTC; a checked configuration has none.
    pub fn new(config: &Config) -> Self {
        let ready = |period: &Period| {
            let zone = TimeZone::get(&period.timezone).unwrap_or(TimeZone::UTC);
            (period.clone(), zone)
        };
        Self {
            periods: config.periods.iter().map(ready).collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.periods.is_empty()
    }

    /// Which of them are at this moment, in the order of the file. Nothing changes within a minute. `unix`: seconds since 1970.
    pub fn at(&self, unix: u64) -> Vec<(&str, bool)> {
        let now = i64::try_from(unix)
            .ok()
            .and_then(|unix| Timestamp::from_second(unix).ok());
        let now = now.unwrap_or(Timestamp::UNIX_EPOCH);
        let mut held: Vec<(&str, bool)> = Vec::with_capacity(self.periods.len());
        for (period, zone) in &self.periods {
            let excepted = period
                .except
                .iter()
                .any(|name| held.iter().any(|(other, holds)| *other == name && *holds));
            let holds = !excepted && period.has(zone.to_datetime(now));
            held.push((&period.name, holds));
        }
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(text: &str, at: &str) -> Vec<bool> {
        let (config, _) = crate::load(text, "test.toml").expect("a good configuration");
        let at: Timestamp = at.parse().expect("a moment");
        let calendar = Calendar::new(&config);
        let held = calendar.at(at.as_second() as u64);
        held.into_iter().map(|(_, holds)| holds).collect()
    }

    #[test]
    fn a_period_is_read_on_the_clock_of_its_place() {
        let text = r#"
            [[period]]
            name = "holidays"
            timezone = "Europe/Berlin"
            dates = ["12-24..01-01", "2027-03-29"]
            [[period]]
            name = "office"
            timezone = "Europe/Berlin"
            days = ["mon-fri"]
            hours = ["08:00-12:00", "13:00-18:00"]
            except = ["holidays"]
            [[period]]
            name = "friday-night"
            days = ["fri"]
            hours = ["22:00-06:00"]
            [[period]]
            name = "weekend"
            days = ["sat-sun"]
        "#;
        for (at, expected) in [
            // Summer: two hours before UTC. 2026-07-01 is a Wednesday.
            ("2026-07-01T06:00:00Z", [false, true, false, false]),
            ("2026-07-01T05:59:59Z", [false, false, false, false]),
            ("2026-07-01T10:30:00Z", [false, false, false, false]),
            // Winter: one hour.
            ("2026-12-02T07:00:00Z", [false, true, false, false]),
            ("2026-12-02T06:59:59Z", [false, false, false, false]),
            ("2026-12-24T10:00:00Z", [true, false, false, false]),
            // In Berlin it is the 2nd of January already.
            ("2027-01-01T23:00:00Z", [false, false, true, false]),
            ("2027-01-01T22:59:00Z", [true, false, true, false]),
            ("2027-01-02T05:59:00Z", [false, false, true, true]),
            ("2027-01-02T06:00:00Z", [false, false, false, true]),
            ("2027-03-29T10:00:00Z", [true, false, false, false]),
            ("2028-03-29T09:00:00Z", [false, true, false, false]),
        ] {
            assert_eq!(held(text, at), expected, "{at}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for (line, expected) in [
            (
                r#"timezone = "Europe/Berlim""#,
                "did you mean \"Europe/Berlin\"?",
            ),
            (r#"days = ["mon-fry"]"#, "no day of the week"),
            (r#"hours = ["8-18"]"#, "no time of the day"),
            (r#"hours = ["08:00-25:00"]"#, "no time of the day"),
            (r#"dates = ["02-30"]"#, "no day"),
            (
                r#"dates = ["2026-01-02..2026-01-01"]"#,
                "ends before it begins",
            ),
            (
                r#"dates = ["2026-01-02..01-03"]"#,
                "only one day has a year",
            ),
            (r#"except = ["a"]"#, "names no earlier period"),
        ] {
            let text = format!("[[period]]\nname = \"a\"\n{line}\n");
            let problems = crate::load(&text, "test.toml").unwrap_err();
            assert!(
                problems[0].to_string().contains(expected),
                "{}",
                problems[0]
            );
        }
    }
}
