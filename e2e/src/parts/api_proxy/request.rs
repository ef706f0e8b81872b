//! What a request to the API server asks for, as its method and path say.

use std::fmt;

use http::{Method, Uri};
use serde_json::Value;

/// What is written all the time, or says what was done: not counted.
const UNCOUNTED: [&str; 4] = ["leases", "events", "tokenreviews", "subjectaccessreviews"];

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Reads one object.
    Get,
    /// Reads many.
    List,
    /// Follows many.
    Watch,
    /// Stores a new object.
    Create,
    /// Replaces one.
    Update,
    /// Changes fields of one.
    Patch,
    /// Removes one or many.
    Delete,
}

impl Verb {
    /// Whether it is to store something.
    pub fn writes(self) -> bool {
        match self {
            Self::Get | Self::List | Self::Watch => false,
            Self::Create | Self::Update | Self::Patch | Self::Delete => true,
        }
    }
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) verb: Verb,
    pub(super) resource: String,
    namespace: String,
    name: String,
    subresource: String,
}

impl Asked {
    /// None for what is about no object, such as `/version`.
    pub(super) fn of(method: &Method, uri: &Uri) -> Option<Self> {
        let mut words = uri.path().split('/').filter(|word| !word.is_empty());
        match words.next()? {
            "api" => words.nth(0)?,
            "apis" => words.nth(1)?,
            _ => return None,
        };
        let rest: Vec<&str> = words.collect();
        let (namespace, rest) = match rest.as_slice() {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let (resource, rest) = rest.split_first()?;
        let name = rest.first().copied().unwrap_or_default();
        let watches = uri.query().is_some_and(|query| query.split('&').any(|p| p == "watch=true" || p == "watch=1"));
        let verb = match method.as_str() {
            "POST" => Verb::Create,
            "PUT" => Verb::Update,
            "PATCH" => Verb::Patch,
            "DELETE" => Verb::Delete,
            _ if watches => Verb::Watch,
            _ if name.is_empty() => Verb::List,
            _ => Verb::Get,
        };
        Some(Self {
            verb,
            resource: (*resource).to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: rest.get(1).copied().unwrap_or_default().to_owned(),
        })
    }

    pub(super) fn is_counted_write(&self) -> bool {
        self.verb.writes() && !UNCOUNTED.contains(&self.resource.as_str())
    }
}

/// One write that the API server stored.
#[derive(Clone, Debug)]
pub struct Write {
    /// What was done.
    pub verb: Verb,
    /// Plural name of the kind.
    pub resource: String,
    /// `status`, for example; mostly empty.
    pub subresource: String,
    /// Empty for cluster-wide kinds.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// The object as it is stored then. Where its metadata was all that was asked for, the rest is what was sent.
    pub object: Value,
}

impl Write {
    pub(super) fn of(asked: Asked, sent: &[u8], answer: &[u8]) -> Self {
        let read = |bytes| serde_json::from_slice::<Value>(bytes).unwrap_or_default();
        let mut object = read(answer);
        if object["kind"] == "PartialObjectMetadata" {
            let metadata = object["metadata"].take();
            object = read(sent);
            object["metadata"] = metadata;
        }
        let Asked { verb, resource, namespace, name, subresource } = asked;
        let name = if name.is_empty() { text(&object["metadata"]["name"]).to_owned() } else { name };
        Self { verb, resource, subresource, namespace, name, object }
    }

    /// The cluster's version that holds this write and nothing later; none for some deletions.
    pub fn version(&self) -> Option<u64> {
        text(&self.object["metadata"]["resourceVersion"]).parse().ok()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gap = if self.subresource.is_empty() { "" } else { "/" };
        write!(f, "{:?} {}{gap}{} {}", self.verb, self.resource, self.subresource, self.name)
    }
}

/// The same list, as it was at a version.
pub(super) fn at_version(uri: &Uri, version: u64) -> Result<Uri, http::uri::InvalidUri> {
    let others = uri.query().unwrap_or_default().split('&').filter(|p| !p.is_empty());
    let mut query: Vec<String> = others.filter(|p| !p.starts_with("resourceVersion")).map(str::to_owned).collect();
    query.push(format!("resourceVersion={version}"));
    query.push("resourceVersionMatch=Exact".to_owned());
    format!("{}?{}", uri.path(), query.join("&")).parse()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(method: &Method, uri: &str) -> Option<Asked> {
        Asked::of(method, &uri.parse().expect("a URI"))
    }

    #[test]
    fn a_path_tells_what_is_asked() {
        let status =
            asked(&Method::PUT, "/apis/sluice.dev/v1alpha1/namespaces/team/units/shop-r/status?fieldManager=x");
        let status = status.expect("a request");
        assert_eq!((status.verb, status.resource.as_str()), (Verb::Update, "units"));
        assert_eq!((status.namespace.as_str(), status.name.as_str()), ("team", "shop-r"));
        assert_eq!(status.subresource, "status");
        let verb = |method: &Method, uri: &str| asked(method, uri).expect("a request").verb;
        assert_eq!(
            verb(&Method::GET, "/apis/sluice.dev/v1alpha1/assignments?watch=true&timeoutSeconds=9"),
            Verb::Watch
        );
        assert_eq!(verb(&Method::GET, "/apis/sluice.dev/v1alpha1/assignments?limit=500"), Verb::List);
        assert_eq!(verb(&Method::GET, "/api/v1/namespaces/sluice-system/pods"), Verb::List);
        assert_eq!(verb(&Method::GET, "/api/v1/namespaces/sluice-system"), Verb::Get);
        assert_eq!(verb(&Method::POST, "/apis/apps/v1/namespaces/x/daemonsets"), Verb::Create);
        assert_eq!(asked(&Method::GET, "/version"), None);
    }

    #[test]
    fn leases_events_and_reads_are_no_counted_writes() {
        let counted = |method: &Method, uri: &str| asked(method, uri).is_some_and(|asked| asked.is_counted_write());
        assert!(counted(&Method::PUT, "/apis/sluice.dev/v1alpha1/assignments/main"));
        assert!(counted(&Method::DELETE, "/apis/batch/v1/namespaces/x/jobs/y"));
        assert!(!counted(&Method::GET, "/apis/sluice.dev/v1alpha1/assignments/main"));
        assert!(!counted(&Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/x/leases/y"));
        assert!(!counted(&Method::POST, "/apis/events.k8s.io/v1/namespaces/x/events"));
    }

    #[test]
    fn a_write_knows_its_object() {
        let created = asked(&Method::POST, "/apis/sluice.dev/v1alpha1/namespaces/team/rollouts").expect("a request");
        let answer = json!({"metadata": {"name": "shop-r-st-1", "resourceVersion": "812"}}).to_string();
        let write = Write::of(created, b"{}", answer.as_bytes());
        assert_eq!((write.to_string().as_str(), write.version()), ("Create rollouts shop-r-st-1", Some(812)));
        let replaced = asked(&Method::PUT, "/apis/sluice.dev/v1alpha1/assignments/main").expect("a request");
        let sent =
            json!({"metadata": {"name": "main", "resourceVersion": "812"}, "spec": {"generation": 7}}).to_string();
        let metadata = json!({"name": "main", "resourceVersion": "813"});
        let answer = json!({"kind": "PartialObjectMetadata", "metadata": metadata}).to_string();
        let write = Write::of(replaced, sent.as_bytes(), answer.as_bytes());
        assert_eq!((write.version(), &write.object["spec"]["generation"]), (Some(813), &json!(7)));
    }

    #[test]
    fn a_list_of_the_past_keeps_its_selectors() {
        let uri = "/api/v1/pods?limit=500&labelSelector=a%3Db&resourceVersion=0&resourceVersionMatch=NotOlderThan";
        let past = at_version(&uri.parse().expect("a URI"), 7).expect("a URI");
        assert_eq!(past, "/api/v1/pods?limit=500&labelSelector=a%3Db&resourceVersion=7&resourceVersionMatch=Exact");
    }
}
