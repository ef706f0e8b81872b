//! What must be known of a PromQL text without a parser: how far back it looks, and its variables.

use std::time::Duration;

/// What stands for a variable in a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variables<'a> {
    /// `$unit`.
    pub unit: &'a str,
    /// `$namespace`.
    pub namespace: &'a str,
    /// `$group`.
    pub group: &'a str,
    /// `$revision`.
    pub revision: &'a str,
    /// `$environment`.
    pub environment: &'a str,
}

/// The query with its variables replaced. Values stand inside of string literals: whatever could end
/// one is escaped, so that no name can change what is asked.
#[must_use]
pub fn substitute(query: &str, variables: &Variables<'_>) -> String {
    let mut text = String::with_capacity(query.len() + 64);
    let mut rest = query;
    while let Some(at) = rest.find('$') {
        text.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        let end = tail.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(tail.len());
        let value = match &tail[..end] {
            "unit" => Some(variables.unit),
            "namespace" => Some(variables.namespace),
            "group" => Some(variables.group),
            "revision" => Some(variables.revision),
            "environment" => Some(variables.environment),
            _ => None,
        };
        match value {
            Some(value) => text.extend(value.chars().flat_map(escaped)),
            None => text.push_str(&rest[at..=at + end]),
        }
        rest = &tail[end..];
    }
    text.push_str(rest);
    text
}

fn escaped(c: char) -> impl Iterator<Item = char> {
    let special = matches!(c, '"' | '\'' | '`' | '\\');
    special.then_some('\\').into_iter().chain((!c.is_control()).then_some(c))
}

/// Whether the query asks about one unit.
#[must_use]
pub fn names_unit(query: &str) -> bool {
    let names = |name: &str| {
        query.match_indices(name).any(|(at, _)| {
            let next = query[at + name.len()..].chars().next();
            next.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_')
        })
    };
    names("$unit") || names("$revision")
}

/// What a selector without a range shows may be so old: the longest usual time between two scrapes.
const SCRAPE: Duration = Duration::from_secs(60);

/// How far back the query looks: ranges nest, so that they add up with subqueries and offsets; rather
/// too far than not far enough, since a sample must lie after the gate's start as a whole.
#[must_use]
pub fn reach(query: &str) -> Duration {
    let (mut longest, mut added) = (Duration::ZERO, Duration::ZERO);
    for (open, _) in query.match_indices('[') {
        let Some(inside) = query[open + 1..].split(']').next() else { continue };
        match inside.split_once(':') {
            Some((range, _)) => added += span(range.trim()),
            None => longest = longest.max(span(inside.trim())),
        }
    }
    for (at, word) in query.to_ascii_lowercase().match_indices("offset") {
        let tail = query[at + word.len()..].trim_start();
        let end = tail.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(tail.len());
        added += span(&tail[..end]);
    }
    if longest.is_zero() { SCRAPE + added } else { longest + added }
}

/// Whether a query asks for a fixed time with `@`, outside of its string literals.
#[must_use]
pub fn has_at(query: &str) -> bool {
    let mut quote = None;
    let mut characters = query.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some('"' | '\''), '\\') => drop(characters.next()),
            (Some(open), c) if open == c => quote = None,
            (None, '"' | '\'' | '`') => quote = Some(c),
            (None, '@') => return true,
            _ => {}
        }
    }
    false
}

/// PromQL's spans: `1h30m`, `90s`, `500ms`; a number alone counts seconds.
fn span(text: &str) -> Duration {
    if let Ok(seconds) = text.parse() {
        return Duration::from_secs(seconds);
    }
    let (mut total_ms, mut rest) = (0_u64, text);
    while let Some(digits) = rest.find(|c: char| !c.is_ascii_digit()) {
        let number: u64 = rest[..digits].parse().unwrap_or(0);
        let tail = &rest[digits..];
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let factor = match &tail[..unit] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            "y" => 31_536_000_000,
            _ => 0,
        };
        total_ms = total_ms.saturating_add(number.saturating_mul(factor));
        rest = &tail[unit..];
    }
    Duration::from_millis(total_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VARIABLES: Variables<'_> = Variables {
        unit: "shop",
        namespace: "edge-team",
        group: "canary",
        revision: "9f2c1a77",
        environment: "production",
    };

    #[test]
    fn variables_are_replaced_and_nothing_else() {
        let query = r#"rate(x{unit="$unit",g="$group",r="$revision"}[2m]) / $units + $"#;
        let expected = r#"rate(x{unit="shop",g="canary",r="9f2c1a77"}[2m]) / $units + $"#;
        assert_eq!(substitute(query, &VARIABLES), expected);
        let sly = Variables { unit: "a\"} or vector(0) #\n$group", ..VARIABLES };
        assert_eq!(substitute("x{u=\"$unit\"}", &sly), "x{u=\"a\\\"} or vector(0) #$group\"}");
    }

    #[test]
    fn a_query_that_names_no_unit_judges_all() {
        assert!(names_unit("x{unit=\"$unit\"}"));
        assert!(names_unit("$revision"));
        assert!(!names_unit("x{group=\"$group\", y=\"$units\"}"));
    }

    #[test]
    fn a_query_reaches_as_far_back_as_its_ranges() {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        assert_eq!(reach("rate(a[2m]) / rate(b[5m])"), minutes(5));
        assert_eq!(reach("max_over_time(rate(a[5m])[1h30m:1m])"), minutes(95));
        assert_eq!(reach("rate(a[300])"), minutes(5));
        assert_eq!(reach("rate(a[2m] OFFSET 10m)"), minutes(12));
        assert_eq!(reach("a offset 10m"), minutes(11));
        assert_eq!(reach("a"), minutes(1));
        assert_eq!(reach("a[abc"), minutes(1));
    }

    #[test]
    fn a_fixed_time_is_found_outside_of_literals_alone() {
        assert!(has_at("a @ 1609746000") && has_at("rate(a[5m] @ end())"));
        assert!(!has_at(r#"a{mail="x@y", z='\'@'}"#) && !has_at("a"));
    }
}
