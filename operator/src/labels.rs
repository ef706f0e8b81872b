//! Names of labels and annotations that the operator sets and looks for.

/// Selects what the operator looks at in its own namespace.
pub const OURS: &str = "app.kubernetes.io/managed-by=sluice-operator";
/// On all that the operator creates in its own namespace.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "sluice-operator");
/// What a pod is: [`DATAPLANE`] or [`GATE`].
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// A pod that runs workers.
pub const DATAPLANE: &str = "dataplane";
/// A gate's Job and its pod.
pub const GATE: &str = "gate";
/// Group of a dataplane pod.
pub const GROUP: &str = "sluice.dev/group";
/// Environment of a dataplane pod.
pub const ENVIRONMENT: &str = "sluice.dev/environment";
/// Rollout that a Job judges, by name.
pub const ROLLOUT: &str = "sluice.dev/rollout";
/// Namespace of that Rollout.
pub const ROLLOUT_NAMESPACE: &str = "sluice.dev/rollout-namespace";
/// Unit of a Rollout, by the name of its object.
pub const UNIT: &str = "sluice.dev/unit";
/// Digest of the template that a DaemonSet was made from.
pub const TEMPLATE: &str = "sluice.dev/template";
