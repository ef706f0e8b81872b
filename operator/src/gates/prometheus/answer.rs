//! What Prometheus answered, read with a limit, as one number or the reason why there is none.

use serde::Deserialize;
use sluice_rollout::QueryOutcome;

use super::Comparison;

/// One number takes some 100 bytes; a query that forgot to aggregate takes megabytes.
const BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    status: String,
    #[serde(default)]
    error: String,
    data: Option<Data>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Vector(Vec<Series>),
    Scalar((f64, String)),
    Matrix(serde::de::IgnoredAny),
    String(serde::de::IgnoredAny),
}

#[derive(Debug, Deserialize)]
struct Series {
    value: Option<(f64, String)>,
}

/// An error's text without the URL: that may hold what is nobody's business.
pub(super) fn without_url(error: &prometheus_http_query::Error) -> String {
    let mut source: &dyn std::error::Error = error;
    while let Some(inner) = source.source() {
        source = inner;
    }
    source.to_string().chars().take(200).collect()
}

pub(super) async fn read(mut response: reqwest::Response) -> Result<Answer, String> {
    let status = response.status();
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| e.without_url().to_string())? {
        if bytes.len() + chunk.len() > BYTES_MAX {
            return Err("the answer is over 1 MiB: aggregate the query to one number".to_owned());
        }
        bytes.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&bytes).map_err(|_| format!("Prometheus answers {status} and no JSON"))
}

pub(super) fn outcome(answer: Answer, fail_when: &Comparison) -> QueryOutcome {
    if answer.status != "success" {
        return QueryOutcome::Error(answer.error.chars().take(300).collect());
    }
    let value = match answer.data {
        Some(Data::Scalar((_, value))) => value,
        Some(Data::Vector(series)) => {
            let count = series.len();
            let mut values = series.into_iter();
            match (values.next().and_then(|s| s.value), count) {
                (_, 0) => return QueryOutcome::Empty,
                (Some((_, value)), 1) => value,
                (None, _) => return QueryOutcome::Error("the query yields histograms, not a number".to_owned()),
                (Some(_), _) => {
                    return QueryOutcome::Error(format!("the query yields {count} series: aggregate them to one"));
                }
            }
        }
        Some(Data::Matrix(_) | Data::String(_)) | None => {
            return QueryOutcome::Error("the query yields no number: write an instant vector or a scalar".to_owned());
        }
    };
    // Prometheus writes +Inf, -Inf and NaN.
    match value.parse::<f64>() {
        Ok(number) if number.is_nan() => QueryOutcome::NotANumber,
        Ok(number) => QueryOutcome::Value { fails: fail_when.fails(number), shown: fail_when.shown(number) },
        Err(_) => QueryOutcome::Error("the query yields no number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> QueryOutcome {
        outcome(serde_json::from_str(text).unwrap(), &"result > 0.25".parse().unwrap())
    }

    #[test]
    fn one_number_is_compared_and_all_else_is_named() {
        let vector = |series: &str| {
            said(&format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{series}]}}}}"#))
        };
        let one = |value: &str| format!(r#"{{"metric":{{}},"value":[1.5,"{value}"]}}"#);
        assert_eq!(vector(&one("0.31")), QueryOutcome::Value { fails: true, shown: "0.31 > 0.25".into() });
        assert_eq!(vector(&one("+Inf")), QueryOutcome::Value { fails: true, shown: "inf > 0.25".into() });
        assert_eq!(vector(&one("NaN")), QueryOutcome::NotANumber);
        assert_eq!(vector(""), QueryOutcome::Empty);
        let two = format!("{},{}", one("1"), one("2"));
        assert!(matches!(vector(&two), QueryOutcome::Error(why) if why.contains("2 series")));
        let scalar = r#"{"status":"success","data":{"resultType":"scalar","result":[1,"0.1"]}}"#;
        assert_eq!(said(scalar), QueryOutcome::Value { fails: false, shown: "0.1 ≤ 0.25".into() });
        let error = r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
        assert_eq!(said(error), QueryOutcome::Error("parse error".into()));
        let matrix = r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#;
        assert!(matches!(said(matrix), QueryOutcome::Error(_)));
    }
}
